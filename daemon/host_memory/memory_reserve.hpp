// Memory that is held, so that whoever needs some soon finds it fast: in a virtual machine the hypervisor
// gives memory slowly at its first touch, and may take back what is free (docs/decisions.md, 100). What is
// given back here is the system's first choice for the next seconds. What the program vgpud-reserve does.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "protocol/unique_fd.hpp"

namespace vgpu::host_memory {

/// Takes memory by threads of its own, of the lowest priority; all functions belong to one thread.
class MemoryReserve {
 public:
  /// `most` bytes at most, in whole chunks. `spare` says how much may be taken now, to several threads at
  /// once.
  MemoryReserve(std::uint64_t most, std::function<std::uint64_t()> spare);
  ~MemoryReserve();
  MemoryReserve(const MemoryReserve&) = delete;
  MemoryReserve& operator=(const MemoryReserve&) = delete;

  /// Holds so much from now on, in whole chunks: what is too much is given back at once, what is missing is
  /// taken in the background, as long as there is enough to spare.
  void aim(std::uint64_t bytes);
  /// Becomes readable when what was missing has been taken, or cannot be; until settled() is called.
  [[nodiscard]] int settled_fd() const { return settled_.get(); }
  void settled();
  /// Bytes.
  [[nodiscard]] std::uint64_t held() const { return held_.load(); }

 private:
  void stop();
  void lane(const std::stop_token& stop);

  const std::function<std::uint64_t()> spare_;
  std::byte* data_ = nullptr;
  std::vector<char> taken_;  // by chunk; each is one thread's at a time
  std::atomic<std::uint64_t> held_{0};
  UniqueFd settled_;
  std::vector<std::size_t> missing_;  // chunks that the threads take
  std::atomic<std::size_t> next_{0};  // of these
  std::atomic<std::size_t> working_{0};
  std::vector<std::jthread> crew_;  // uses all above
};

}  // namespace vgpu::host_memory
