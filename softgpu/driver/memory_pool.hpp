// Pools of stream-ordered memory. Memory goes back to the device when its stream gets to the free; a pool
// keeps counts, not blocks.
#pragma once

#include <cuda.h>

#include <atomic>
#include <cstdint>
#include <memory>

namespace softgpu {

class PhysicalMemory;
class PoolFile;
struct Driver;

/// Thread-safe.
struct MemoryPool {
  explicit MemoryPool(int its_device) : device(its_device) {}

  const int device;                ///< whose memory it gives out
  std::atomic<unsigned> peers{0};  ///< a bit for each other device that may use it (cuMemPoolSetAccess)
  std::uint64_t max_bytes = 0;     ///< 0: no limit of its own
  std::atomic<std::uint64_t> used{0}, used_high{0};
  std::atomic<std::uint64_t> release_threshold{0};
  std::atomic<int> reuse_follow_events{1}, reuse_opportunistic{1}, reuse_internal{1};
  std::atomic<bool> destroyed{false};
  std::shared_ptr<PoolFile> file;            ///< of a pool that other processes may open: its memory
  std::shared_ptr<PhysicalMemory> imported;  ///< of an opened one: the other process's file

  CUmemoryPool handle() { return reinterpret_cast<CUmemoryPool>(this); }
};

/// The device's own pool.
const std::shared_ptr<MemoryPool>& default_pool(int device);
/// The pool that cuMemAllocAsync uses on a device: the default one unless cuDeviceSetMemPool changed it.
std::shared_ptr<MemoryPool> current_pool(int device);
/// Makes a pool its device's current one.
void set_current_pool(std::shared_ptr<MemoryPool> pool);

/// Memory of a pool now.
CUresult allocate_from_pool(MemoryPool& pool, std::size_t bytes, const void* owner, std::uint64_t& address);
/// Gives pool (or any device) memory back at once.
void release_from_pool(std::uint64_t address);

}  // namespace softgpu
