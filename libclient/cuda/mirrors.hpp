// __managed__ variables: the driver places them in the worker, so this process keeps a mirror of each at the
// same address. The mirror is the program's while the device is idle: it goes to the device before work is
// sent and comes back when the program has waited, as on devices without concurrent managed access. Never:
// used unless a program has such a variable.
#pragma once

#include <cuda.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace vgpu::client {

class Call;

/// All mirrors of the process. Thread-safe.
class Mirrors {
 public:
  /// True if there is any mirror: else no call does anything about them. Takes no lock.
  bool any() const { return any_.load(std::memory_order_acquire); }

  /// Makes the mirror of [address, address + size), with the device's contents; a known one is left as it is.
  CUresult add(Call& call, std::uint64_t address, std::size_t size, std::uint64_t owner);
  /// Forgets the mirrors of a library; their pages stay, since the program may still hold addresses in them.
  void remove(std::uint64_t owner);

  /// Work is about to be sent: what the program wrote goes to the device.
  void before_work(Call& call);
  /// The program has waited for the device: what kernels wrote comes back.
  void after_wait(Call& call);

 private:
  struct Mirror {
    std::uint64_t address = 0;
    std::size_t size = 0;
    std::uint64_t owner = 0;
  };
  std::atomic<bool> any_{false};
  std::atomic<bool> with_device_{false};  ///< work was sent since the program last waited
  std::recursive_mutex mutex_;            ///< moving a mirror is itself made of calls
  bool moving_ = false;
  std::vector<Mirror> mirrors_;
};

}  // namespace vgpu::client
