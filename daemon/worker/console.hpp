// What kernels write. The driver puts what they print on this process's standard output and what failed
// assertions say on its standard error, which are memory files here; from there it goes to the client, who
// writes it to its own. Never blocks the driver or the dispatcher.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <tl/expected.hpp>

#include "protocol/stub_layout.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu::worker {

/// One in a process. Thread-safe.
class Console {
 public:
  /// Makes descriptor 1 a memory file. The error is a sentence.
  static tl::expected<std::unique_ptr<Console>, std::string> take_over_stdout();

  /// From now on descriptor 2 is a memory file as well: messages of failed assertions found there are the
  /// client's, and all else goes on to where it went before, at forward() or trim(). False where it cannot
  /// be. To be called when kernels are loaded that have assertions: only then does the log take that detour.
  bool take_over_stderr();

  /// What forward() has done.
  struct Forwarded {
    bool any = false;   ///< something was sent
    bool more = false;  ///< something had no room
  };
  /// Sends what was printed since the last time. What the socket does not take stays for the next time.
  Forwarded forward(int socket);
  /// Passes on all that is for the log. To be called before the process ends.
  void settle_log();
  /// From now on forward() writes into a VM's slot instead, which outlives this object.
  void forward_to(stub::SlotControl& slot) { slot_ = &slot; }
  /// Gives up the oldest text when kernels print much more than the client takes, as a GPU's own buffer does.
  /// To be called now and then.
  void trim();

 private:
  explicit Console(UniqueFd file) : file_(std::move(file)) {}
  void sort_errors(bool all);
  bool put(int socket, const char* text, std::size_t bytes);
  bool put_into_slot(const char* text, std::size_t bytes);

  UniqueFd file_;
  stub::SlotControl* slot_ = nullptr;
  std::uint64_t put_ = 0;  // bytes written into the slot so far
  std::mutex mutex_;
  std::int64_t sent_ = 0;
  UniqueFd errors_;  // what descriptor 2 is
  std::int64_t sorted_ = 0;
  std::string unsorted_;    // of a line that is not complete
  std::string assertions_;  // lines that wait for forward()
  std::string waiting_;     // in ConsoleCode, what the client has not taken
};

}  // namespace vgpu::worker
