// Which token names what of which session: memory, pools, events and allocations that clients share
// (protocol/ipc.hpp). Decides nothing: who may have it is the session manager's to say.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>

#include "protocol/ipc.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu::daemon {

// Belongs to the loop's thread.
class IpcRegistry {
 public:
  // What one session may offer at a time: PyTorch keeps up to 1000 events and an entry for each block of
  // memory.
  static constexpr std::size_t max_offers = 16384;
  static constexpr std::size_t max_descriptors = 1024;

  struct Entry {
    std::uint64_t session = 0;
    IpcKind kind = IpcKind::memory;
    std::size_t device = 0;  // on which of the session's devices it lies
    std::array<std::byte, ipc_handle_bytes> native{};
    UniqueFd fd;  // if has_descriptor()
  };

  // False when the session has offered as much as it may, or the token is another's.
  bool add(const IpcToken& token, Entry entry);
  // Only by the session that offered it.
  void remove(const IpcToken& token, std::uint64_t session);
  void forget_session(std::uint64_t session);
  // The session `by` has opened an event of the session `maker`.
  void opened(std::uint64_t maker, std::uint64_t by);
  // True when of all that live only `by` has opened events of `maker`; false too when it is not known who
  // has.
  [[nodiscard]] bool opened_alone(std::uint64_t maker, std::uint64_t by) const;
  // Null when there is none of this kind. Valid until the next change.
  [[nodiscard]] const Entry* find(const IpcToken& token, IpcKind kind) const;

 private:
  struct Count {
    std::size_t offers = 0;
    std::size_t descriptors = 0;
  };
  using Entries = std::map<IpcToken, Entry>;
  Entries::iterator erase(Entries::iterator entry);

  Entries entries_;
  std::map<std::uint64_t, Count> counts_;
  std::map<std::uint64_t, std::set<std::uint64_t>> openers_;  // by maker, who may have ended
};

}  // namespace vgpu::daemon
