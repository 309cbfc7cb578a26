// Stream-ordered allocation: pools, cuMemAllocAsync and cuMemFreeAsync.
#include <cstring>

#include "cudaabi/memory_forms.hpp"
#include "softgpu/driver/api.hpp"
#include "softgpu/driver/graph.hpp"
#include "softgpu/driver/memory_pool.hpp"

using namespace softgpu;

namespace {

template <class Body>
CUresult on_pool(CUmemoryPool handle, Body&& body) noexcept {
  return with_driver([&](Driver& driver) -> CUresult {
    default_pool(0);  // registers them
    const auto pool = driver.pools.find(handle);
    if (pool == nullptr) return CUDA_ERROR_INVALID_VALUE;
    return body(driver, pool);
  });
}

CUresult capture_allocation(Stream& stream, MemoryPool& pool, std::size_t bytes, CUdeviceptr& out) {
  std::uint64_t address = 0;
  if (const CUresult error = allocate_from_pool(pool, bytes, &stream.context, address);
      error != CUDA_SUCCESS) {
    return error;
  }
  AllocationWork work;
  work.address = address;
  work.bytes = bytes;
  work.described.bytesize = bytes;
  work.described.dptr = address;
  work.described.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  work.described.poolProps.location = {CU_MEM_LOCATION_TYPE_DEVICE, pool.device};
  GraphNode* node = nullptr;
  if (const CUresult error = capture_work(stream, work, &node); error != CUDA_SUCCESS) {
    release_from_pool(address);
    return error;
  }
  const std::unique_lock lock(Driver::get().graph_mutex);
  node->graph->memory->keep(address);
  out = address;
  return CUDA_SUCCESS;
}

// From the pool, or from the current one of the stream's device.
CUresult allocate(CUdeviceptr* out, std::size_t bytes, std::shared_ptr<MemoryPool> pool, CUstream handle) {
  return on_stream(handle, [&](Driver&, Context& context, Stream& stream) -> CUresult {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (pool == nullptr) pool = current_pool(context.device);
    if (bytes == 0) {
      *out = 0;
      return CUDA_SUCCESS;
    }
    if (stream.capturing.load()) return capture_allocation(stream, *pool, bytes, *out);
    if (const CUresult error = refuse_implicit(stream); error != CUDA_SUCCESS) return error;
    std::uint64_t address = 0;
    CUresult result = allocate_from_pool(*pool, bytes, &context, address);
    if (result == CUDA_ERROR_OUT_OF_MEMORY && !context.idle()) {
      context.synchronize();  // frees that are still queued
      result = allocate_from_pool(*pool, bytes, &context, address);
    }
    if (result == CUDA_SUCCESS) *out = address;
    return result;
  });
}

CUresult number_attribute(MemoryPool& pool, CUmemPool_attribute attribute, std::atomic<int>*& flag) {
  switch (attribute) {
    case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
      flag = &pool.reuse_follow_events;
      return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
      flag = &pool.reuse_opportunistic;
      return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES:
      flag = &pool.reuse_internal;
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

}  // namespace

SOFTGPU_API cuMemAllocAsync(CUdeviceptr* out, std::size_t bytes, CUstream stream) {
  return allocate(out, bytes, nullptr, stream);
}
SOFTGPU_API cuMemAllocAsync_ptsz(CUdeviceptr* out, std::size_t bytes, CUstream stream) {
  return cuMemAllocAsync(out, bytes, per_thread(stream));
}

SOFTGPU_API cuMemAllocFromPoolAsync(CUdeviceptr* out, std::size_t bytes, CUmemoryPool handle,
                                    CUstream stream) {
  return on_pool(handle, [&](Driver&, const std::shared_ptr<MemoryPool>& pool) {
    return allocate(out, bytes, pool, stream);
  });
}
SOFTGPU_API cuMemAllocFromPoolAsync_ptsz(CUdeviceptr* out, std::size_t bytes, CUmemoryPool pool,
                                         CUstream stream) {
  return cuMemAllocFromPoolAsync(out, bytes, pool, per_thread(stream));
}

SOFTGPU_API cuMemFreeAsync(CUdeviceptr address, CUstream handle) {
  return on_stream(handle, [&](Driver& driver, Context&, Stream& stream) -> CUresult {
    if (address == 0) return CUDA_SUCCESS;
    const auto found = driver.memory.find(address);
    const bool ours = found && found->base == address &&
                      (found->kind == MemoryKind::pool || found->kind == MemoryKind::device ||
                       found->kind == MemoryKind::managed);
    if (!ours) return CUDA_ERROR_INVALID_VALUE;
    if (stream.capturing.load()) return capture_work(stream, GraphFreeWork{address});
    FreeWork work{address, nullptr};
    if (end_use(address, work.keeper) == GraphFree::not_live) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(stream, std::move(work));
  });
}
SOFTGPU_API cuMemFreeAsync_ptsz(CUdeviceptr address, CUstream stream) {
  return cuMemFreeAsync(address, per_thread(stream));
}

SOFTGPU_API cuDeviceGetDefaultMemPool(CUmemoryPool* out, CUdevice device) {
  return with_device(device, [&](Driver&, Device&) -> CUresult {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *out = default_pool(device)->handle();
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuDeviceGetMemPool(CUmemoryPool* out, CUdevice device) {
  return with_device(device, [&](Driver&, Device&) -> CUresult {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *out = current_pool(device)->handle();
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuDeviceSetMemPool(CUdevice device, CUmemoryPool handle) {
  return on_pool(handle, [&](Driver& driver, const std::shared_ptr<MemoryPool>& pool) -> CUresult {
    if (!driver.has_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    if (pool->imported != nullptr || pool->device != device) return CUDA_ERROR_INVALID_VALUE;
    set_current_pool(pool);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemGetDefaultMemPool(CUmemoryPool* pool, CUmemLocation* location, CUmemAllocationType type) {
  CUdevice device = 0;
  const CUresult result = cudaabi::device_of_pools(location, type, device);
  return result == CUDA_SUCCESS ? cuDeviceGetDefaultMemPool(pool, device) : result;
}

SOFTGPU_API cuMemGetMemPool(CUmemoryPool* pool, CUmemLocation* location, CUmemAllocationType type) {
  CUdevice device = 0;
  const CUresult result = cudaabi::device_of_pools(location, type, device);
  return result == CUDA_SUCCESS ? cuDeviceGetMemPool(pool, device) : result;
}

SOFTGPU_API cuMemSetMemPool(CUmemLocation* location, CUmemAllocationType type, CUmemoryPool pool) {
  CUdevice device = 0;
  const CUresult result = cudaabi::device_of_pools(location, type, device);
  return result == CUDA_SUCCESS ? cuDeviceSetMemPool(device, pool) : result;
}

SOFTGPU_API cuMemPoolCreate(CUmemoryPool* out, const CUmemPoolProps* props) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (out == nullptr || props == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (props->allocType != CU_MEM_ALLOCATION_TYPE_PINNED) return CUDA_ERROR_INVALID_VALUE;
    const bool shared = props->handleTypes == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    if (!shared && props->handleTypes != CU_MEM_HANDLE_TYPE_NONE) return CUDA_ERROR_NOT_SUPPORTED;
    if (props->location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_NOT_SUPPORTED;
    if (!driver.has_device(props->location.id)) return CUDA_ERROR_INVALID_DEVICE;
    auto pool = std::make_shared<MemoryPool>(props->location.id);
    pool->max_bytes = props->maxSize;
    if (shared) {
      // Twice the memory that there is: allocations need room without gaps.
      auto file = PoolFile::create(2 * driver.memory.total());
      if (!file) return CUDA_ERROR_OUT_OF_MEMORY;
      pool->file = std::move(*file);
    }
    *out = pool->handle();
    driver.pools.add(std::move(pool));
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemPoolDestroy(CUmemoryPool handle) {
  return on_pool(handle, [&](Driver& driver, const std::shared_ptr<MemoryPool>& pool) -> CUresult {
    if (pool == default_pool(pool->device)) return CUDA_ERROR_NOT_PERMITTED;
    if (current_pool(pool->device) == pool) set_current_pool(default_pool(pool->device));
    driver.pools.remove(handle);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemPoolTrimTo(CUmemoryPool handle, std::size_t) {
  // A pool keeps nothing that is not in use.
  return on_pool(handle, [](Driver&, const std::shared_ptr<MemoryPool>&) { return CUDA_SUCCESS; });
}

SOFTGPU_API cuMemPoolSetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute, void* value) {
  return on_pool(handle, [&](Driver&, const std::shared_ptr<MemoryPool>& pool) -> CUresult {
    if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
    cuuint64_t number = 0;
    switch (attribute) {
      case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
        std::memcpy(&number, value, sizeof number);
        pool->release_threshold.store(number);
        return CUDA_SUCCESS;
      case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
      case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
        std::memcpy(&number, value, sizeof number);
        if (number != 0) return CUDA_ERROR_INVALID_VALUE;
        pool->used_high.store(pool->used.load());
        return CUDA_SUCCESS;
      default:
        break;
    }
    std::atomic<int>* flag = nullptr;
    if (const CUresult error = number_attribute(*pool, attribute, flag); error != CUDA_SUCCESS) return error;
    int wanted = 0;
    std::memcpy(&wanted, value, sizeof wanted);
    flag->store(wanted);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemPoolGetAttribute(CUmemoryPool handle, CUmemPool_attribute attribute, void* value) {
  return on_pool(handle, [&](Driver&, const std::shared_ptr<MemoryPool>& pool) -> CUresult {
    if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const auto put = [&](cuuint64_t number) {
      std::memcpy(value, &number, sizeof number);
      return CUDA_SUCCESS;
    };
    switch (attribute) {
      case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
        return put(pool->release_threshold.load());
      case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
      case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
        return put(pool->used.load());
      case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
      case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        return put(pool->used_high.load());
      default:
        break;
    }
    std::atomic<int>* flag = nullptr;
    if (const CUresult error = number_attribute(*pool, attribute, flag); error != CUDA_SUCCESS) return error;
    const int now = flag->load();
    std::memcpy(value, &now, sizeof now);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemPoolSetAccess(CUmemoryPool handle, const CUmemAccessDesc* access, std::size_t count) {
  return on_pool(handle, [&](Driver& driver, const std::shared_ptr<MemoryPool>& pool) -> CUresult {
    if (access == nullptr && count != 0) return CUDA_ERROR_INVALID_VALUE;
    unsigned peers = pool->peers.load();
    for (std::size_t i = 0; i < count; ++i) {
      const CUmemLocation& where = access[i].location;
      if (where.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_NOT_SUPPORTED;
      if (!driver.has_device(where.id)) return CUDA_ERROR_INVALID_DEVICE;
      const bool none = access[i].flags == CU_MEM_ACCESS_FLAGS_PROT_NONE;
      if (!none && access[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE) return CUDA_ERROR_NOT_SUPPORTED;
      // Nobody takes its own memory from a device.
      if (none && where.id == pool->device) return CUDA_ERROR_INVALID_DEVICE;
      const unsigned bit = 1U << where.id;
      peers = none ? peers & ~bit : peers | bit;
    }
    pool->peers.store(peers);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemPoolGetAccess(CUmemAccess_flags* flags, CUmemoryPool handle, CUmemLocation* location) {
  return on_pool(handle, [&](Driver& driver, const std::shared_ptr<MemoryPool>& pool) -> CUresult {
    if (flags == nullptr || location == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const Device* const device = driver.device_at(*location);
    if (device == nullptr && location->type == CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
    const bool may = device != nullptr &&
                     (device->ordinal == pool->device || (pool->peers.load() >> device->ordinal & 1) != 0);
    *flags = may ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : CU_MEM_ACCESS_FLAGS_PROT_NONE;
    return CUDA_SUCCESS;
  });
}
