// What kernels print. The driver writes it to this process's standard output, which is a memory file here;
// from there it goes to the client, who writes it to its own. Never blocks the driver or the dispatcher.
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

  /// Sends what was printed since the last time; true when there was something. What the socket does not take
  /// stays for the next time.
  bool forward(int socket);
  /// From now on forward() writes into a VM's slot instead, which outlives this object.
  void forward_to(stub::SlotControl& slot) { slot_ = &slot; }
  /// Gives up the oldest text when kernels print much more than the client takes, as a GPU's own buffer does.
  /// To be called now and then.
  void trim();

 private:
  explicit Console(UniqueFd file) : file_(std::move(file)) {}
  bool put(int socket, const char* text, std::size_t bytes);
  bool put_into_slot(const char* text, std::size_t bytes);

  UniqueFd file_;
  stub::SlotControl* slot_ = nullptr;
  std::uint64_t put_ = 0;  // bytes written into the slot so far
  std::mutex mutex_;
  std::int64_t sent_ = 0;
};

}  // namespace vgpu::worker
