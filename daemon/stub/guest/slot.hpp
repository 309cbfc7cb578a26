// One slot of the shared memory, from the guest's side: claims it, asks the host for a session in it, closes
// it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <tl/expected.hpp>

#include "daemon/stub/guest/pci_function.hpp"

namespace vgpu::stub_guest {

/// Closes the slot at the end of its life; if the process is killed, vgpud does (close_orphans).
class Slot {
 public:
  /// Locks a free slot and opens it. Asks `go_on` while it waits; false from it ends the attempt. The error
  /// is a sentence, the host's own where it refused.
  static tl::expected<std::unique_ptr<Slot>, std::string> open(const PciFunction& function,
                                                               const std::function<bool()>& go_on);
  ~Slot();
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;

  std::uint32_t index() const { return index_; }
  stub::SlotControl& control() const { return function_.slot(index_); }
  /// Offset of the channel in BAR2 and size of its arena.
  std::uint64_t offset() const { return function_.division().memory(index_); }
  std::uint64_t arena_bytes() const { return function_.division().arena_bytes(); }
  /// Tells the host who it is for.
  void name(std::int32_t pid, std::uint32_t uid, const char* program) const;
  /// Why the slot is of no use any more, or an empty string: the host ended it, holds another session in it
  /// or none (somebody else in the guest has closed it), was started anew, or is silent. To be asked several
  /// times a second.
  std::string problem();

  /// Closes slots that were opened by processes that have ended. For vgpud.
  static void close_orphans(const PciFunction& function);

 private:
  Slot(const PciFunction& function, std::uint32_t index);
  std::string host_problem();
  bool ask(const std::function<bool()>& go_on);

  const PciFunction& function_;
  std::uint32_t index_;
  std::uint64_t generation_;
  std::uint64_t session_ = 0;  // the host's number of it
  std::uint64_t heartbeat_ = 0;
  std::uint64_t heard_ns_ = 0;
};

}  // namespace vgpu::stub_guest
