#include "softgpu/driver/memory_pool.hpp"

#include <array>
#include <mutex>

#include "softgpu/driver/driver.hpp"

namespace softgpu {
namespace {

// By device.
using Pools = std::array<std::shared_ptr<MemoryPool>, max_devices>;

const Pools& default_pools() {
  static const auto* const pools = [] {
    auto* const made = new Pools;
    Driver& driver = Driver::get();
    for (const auto& device : driver.devices) {
      auto& pool = (*made)[static_cast<std::size_t>(device->ordinal)];
      pool = std::make_shared<MemoryPool>(device->ordinal);
      driver.pools.add(pool);
    }
    return made;
  }();
  return *pools;
}

struct Current {
  std::mutex mutex;
  Pools pools = default_pools();
};

Current& current() {
  static auto* const instance = new Current;
  return *instance;
}

}  // namespace

const std::shared_ptr<MemoryPool>& default_pool(int device) {
  return default_pools()[static_cast<std::size_t>(device)];
}

std::shared_ptr<MemoryPool> current_pool(int device) {
  const std::unique_lock lock(current().mutex);
  return current().pools[static_cast<std::size_t>(device)];
}

void set_current_pool(std::shared_ptr<MemoryPool> pool) {
  const std::unique_lock lock(current().mutex);
  auto& place = current().pools[static_cast<std::size_t>(pool->device)];
  place = std::move(pool);
}

CUresult allocate_from_pool(MemoryPool& pool, std::size_t bytes, const void* owner, std::uint64_t& address) {
  // Who opened another process's pool may open its allocations, not make any.
  if (pool.imported != nullptr) return CUDA_ERROR_INVALID_VALUE;
  const std::uint64_t used = pool.used.fetch_add(bytes) + bytes;
  if (pool.max_bytes != 0 && used > pool.max_bytes) {
    pool.used.fetch_sub(bytes);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  const auto allocated = Driver::get().memory.allocate(
      bytes, MemoryKind::pool, owner, {.device = pool.device, .pool = &pool, .file = pool.file.get()});
  if (!allocated) {
    pool.used.fetch_sub(bytes);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  std::uint64_t high = pool.used_high.load();
  while (used > high && !pool.used_high.compare_exchange_weak(high, used)) {
  }
  address = *allocated;
  return CUDA_SUCCESS;
}

void release_from_pool(std::uint64_t address) {
  DeviceMemory& memory = Driver::get().memory;
  const auto found = memory.find(address);
  if (!found) return;
  // A destroyed pool is no longer in the table, and its count no longer of interest.
  const auto pool = Driver::get().pools.find(found->pool);
  if (memory.release(address, {MemoryKind::pool, MemoryKind::device, MemoryKind::managed}) &&
      pool != nullptr) {
    pool->used.fetch_sub(found->bytes);
  }
}

}  // namespace softgpu
