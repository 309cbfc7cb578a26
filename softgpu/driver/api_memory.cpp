// Memory calls: allocation, host memory, and questions about pointers.
#include <algorithm>
#include <cstring>

#include "softgpu/driver/api.hpp"
#include "softgpu/driver/device.hpp"
#include "softgpu/driver/graph.hpp"
#include "softgpu/driver/memory_pool.hpp"
#include "softgpu/memory/address_space.hpp"

using namespace softgpu;

namespace {

void* pointer(std::uint64_t address) {
  return reinterpret_cast<void*>(static_cast<std::uintptr_t>(address));  // NOLINT(performance-no-int-to-ptr)
}

std::uint64_t number(const void* p) {
  return reinterpret_cast<std::uintptr_t>(p);
}

CUresult allocate(CUdeviceptr* out, std::size_t bytes, MemoryKind kind, unsigned flags) {
  return in_context([&](Driver& driver, Context& context) -> CUresult {
    if (out == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    if (const CUresult error = refuse_in_capture(); error != CUDA_SUCCESS) return error;
    const auto address =
        driver.memory.allocate(bytes, kind, &context, {.flags = flags, .device = context.device});
    if (!address) return error_of(address.error());
    *out = *address;
    return CUDA_SUCCESS;
  });
}

// Frees after all work submitted so far, as the real driver does.
CUresult free_memory(std::uint64_t address, std::initializer_list<MemoryKind> kinds) {
  return in_context([&](Driver& driver, Context& context) -> CUresult {
    if (address == 0) return CUDA_SUCCESS;
    if (const CUresult error = refuse_in_capture(); error != CUDA_SUCCESS) return error;
    const auto found = driver.memory.find(address);
    if (!found || found->base != address ||
        std::find(kinds.begin(), kinds.end(), found->kind) == kinds.end()) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    // A graph's memory must be live; what is queued may use it until the end of this call.
    std::shared_ptr<GraphMemory> keeper;
    const GraphFree graphs =
        found->kind == MemoryKind::pool ? end_use(address, keeper) : GraphFree::no_graphs;
    if (graphs == GraphFree::not_live) return CUDA_ERROR_INVALID_VALUE;
    context.synchronize();
    // Its own device's work, where the memory is another device's.
    if (found->device != context.device) context_of(driver, *found).synchronize();
    flush_printf();
    if (found->kind == MemoryKind::pool) {
      if (graphs == GraphFree::no_graphs) release_from_pool(address);
    } else if (const auto freed = driver.memory.release(address, kinds); !freed) {
      return error_of(freed.error());
    }
    return context.error();
  });
}

constexpr unsigned host_flags =
    CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;
constexpr unsigned register_flags = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP |
                                    CU_MEMHOSTREGISTER_IOMEMORY | CU_MEMHOSTREGISTER_READ_ONLY;

bool is_host(const Allocation& found) {
  return found.kind == MemoryKind::host || found.kind == MemoryKind::registered;
}

template <class Value>
void put(void* out, Value value) {
  std::memcpy(out, &value, sizeof value);
}

// One attribute of a pointer that belongs to `found`.
CUresult attribute_of(void* out, CUpointer_attribute attribute, std::uint64_t address,
                      const Allocation& found) {
  Driver& driver = Driver::get();
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      put<const void*>(out, context_of(driver, found).handle());
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      put<int>(out, found.device);
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      put<unsigned>(out, is_host(found) ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE);
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      put<CUdeviceptr>(out, address);
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
      if (!is_host(found) && found.kind != MemoryKind::managed) return CUDA_ERROR_INVALID_VALUE;
      put(out, pointer(address));
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
      put<unsigned long long>(out, found.id);
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
      put<unsigned>(out, found.kind == MemoryKind::managed);
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
      put<CUdeviceptr>(out, found.base);
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
      put<std::size_t>(out, found.bytes);
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MAPPED:
      put<int>(out, 1);
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
      put<unsigned long long>(
          out, found.kind == MemoryKind::mapped ? CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR : 0);
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
      put<int>(out, found.accessible ? CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE
                                     : CU_POINTER_ATTRIBUTE_ACCESS_FLAG_NONE);
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
      put(out, found.pool);
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
      put<int>(out, found.kind == MemoryKind::device);
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
    case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE:
      put<int>(out, 0);
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

// What cuPointerGetAttributes leaves for a pointer that the driver does not know.
void put_unknown(void* out, CUpointer_attribute attribute) {
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      put<int>(out, -2);
      return;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_MAPPED:
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
    case CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE:
      put<int>(out, 0);
      return;
    default:
      put<std::uint64_t>(out, 0);
      return;
  }
}

constexpr std::size_t pitch_multiple = pitch_alignment;

}  // namespace

SOFTGPU_API cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  return in_context([&](Driver& driver, Context& context) -> CUresult {
    if (free == nullptr || total == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *free = driver.memory.free_bytes(context.device);
    *total = driver.memory.total();
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemAlloc_v2(CUdeviceptr* out, std::size_t bytes) {
  return allocate(out, bytes, MemoryKind::device, 0);
}

SOFTGPU_API cuMemAllocPitch_v2(CUdeviceptr* out, std::size_t* pitch, std::size_t width, std::size_t height,
                               unsigned element) {
  if (pitch == nullptr || width == 0 || height == 0) return CUDA_ERROR_INVALID_VALUE;
  if (element != 4 && element != 8 && element != 16) return CUDA_ERROR_INVALID_VALUE;
  const std::size_t row = (width + pitch_multiple - 1) / pitch_multiple * pitch_multiple;
  if (row < width || height > device_window_size / row) return CUDA_ERROR_OUT_OF_MEMORY;
  const CUresult result = allocate(out, row * height, MemoryKind::device, 0);
  if (result == CUDA_SUCCESS) *pitch = row;
  return result;
}

SOFTGPU_API cuMemAllocManaged(CUdeviceptr* out, std::size_t bytes, unsigned flags) {
  if (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST) return CUDA_ERROR_INVALID_VALUE;
  return allocate(out, bytes, MemoryKind::managed, flags);
}

SOFTGPU_API cuMemFree_v2(CUdeviceptr address) {
  return free_memory(address, {MemoryKind::device, MemoryKind::managed, MemoryKind::pool});
}

SOFTGPU_API cuMemGetAddressRange_v2(CUdeviceptr* base, std::size_t* bytes, CUdeviceptr address) {
  return in_context([&](Driver& driver, Context&) -> CUresult {
    const auto found = driver.memory.find(address);
    if (!found) return CUDA_ERROR_NOT_FOUND;
    if (base != nullptr) *base = found->base;
    if (bytes != nullptr) *bytes = found->bytes;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemHostAlloc(void** out, std::size_t bytes, unsigned flags) {
  if (out == nullptr || (flags & ~host_flags) != 0) return CUDA_ERROR_INVALID_VALUE;
  CUdeviceptr address = 0;
  const CUresult result = allocate(&address, bytes, MemoryKind::host, flags);
  if (result == CUDA_SUCCESS) *out = pointer(address);
  return result;
}

SOFTGPU_API cuMemAllocHost_v2(void** out, std::size_t bytes) {
  return cuMemHostAlloc(out, bytes, CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP);
}

SOFTGPU_API cuMemFreeHost(void* p) {
  return free_memory(number(p), {MemoryKind::host});
}

SOFTGPU_API cuMemHostGetDevicePointer_v2(CUdeviceptr* out, void* p, unsigned flags) {
  return in_context([&](Driver& driver, Context&) -> CUresult {
    if (out == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
    const auto found = driver.memory.find(number(p));
    if (!found || !is_host(*found)) return CUDA_ERROR_INVALID_VALUE;
    *out = number(p);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemHostGetFlags(unsigned* flags, void* p) {
  return in_context([&](Driver& driver, Context&) -> CUresult {
    if (flags == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const auto found = driver.memory.find(number(p));
    if (!found || !is_host(*found)) return CUDA_ERROR_INVALID_VALUE;
    *flags = found->flags;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuMemHostRegister_v2(void* p, std::size_t bytes, unsigned flags) {
  return in_context([&](Driver& driver, Context& context) -> CUresult {
    if ((flags & ~register_flags) != 0) return CUDA_ERROR_INVALID_VALUE;
    if (const CUresult error = refuse_in_capture(); error != CUDA_SUCCESS) return error;
    // The IOMEMORY flag names device registers, which a copy of ours must not touch.
    if ((flags & CU_MEMHOSTREGISTER_IOMEMORY) != 0) return CUDA_ERROR_NOT_SUPPORTED;
    const auto done = driver.memory.register_host(number(p), bytes, &context, flags, context.device);
    if (done) return CUDA_SUCCESS;
    return done.error() == MemoryError::exists ? CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED
                                               : error_of(done.error());
  });
}

SOFTGPU_API cuMemHostRegister(void* p, std::size_t bytes, unsigned flags) {
  return cuMemHostRegister_v2(p, bytes, flags);
}

SOFTGPU_API cuMemHostUnregister(void* p) {
  return in_context([&](Driver& driver, Context& context) -> CUresult {
    if (p == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (const CUresult error = refuse_in_capture(); error != CUDA_SUCCESS) return error;
    context.synchronize();
    return driver.memory.unregister_host(number(p)) ? CUDA_SUCCESS : CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
  });
}

SOFTGPU_API cuPointerGetAttribute(void* out, CUpointer_attribute attribute, CUdeviceptr address) {
  return in_context([&](Driver& driver, Context&) -> CUresult {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const auto found = driver.memory.find(address);
    if (!found) {
      // A reserved address without memory behind it is known, too.
      const auto reserved = driver.memory.reservation(address);
      if (!reserved) return CUDA_ERROR_INVALID_VALUE;
      Allocation range;
      range.base = reserved->first;
      range.bytes = reserved->second;
      range.accessible = false;
      if (attribute == CU_POINTER_ATTRIBUTE_MAPPED) {
        put<int>(out, 0);
        return CUDA_SUCCESS;
      }
      return attribute_of(out, attribute, address, range);
    }
    return attribute_of(out, attribute, address, *found);
  });
}

SOFTGPU_API cuPointerGetAttributes(unsigned count, CUpointer_attribute* attributes, void** data,
                                   CUdeviceptr address) {
  return in_context([&](Driver& driver, Context&) -> CUresult {
    if (attributes == nullptr || data == nullptr || count == 0) return CUDA_ERROR_INVALID_VALUE;
    const auto found = driver.memory.find(address);
    for (unsigned i = 0; i < count; ++i) {
      if (data[i] == nullptr) return CUDA_ERROR_INVALID_VALUE;
      if (!found || attribute_of(data[i], attributes[i], address, *found) != CUDA_SUCCESS) {
        put_unknown(data[i], attributes[i]);
      }
    }
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuPointerSetAttribute(const void* value, CUpointer_attribute attribute, CUdeviceptr address) {
  return in_context([&](Driver& driver, Context&) -> CUresult {
    // Synchronous memory operations: copies that involve the host already are where it matters.
    if (value == nullptr || attribute != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS) return CUDA_ERROR_INVALID_VALUE;
    return driver.memory.find(address) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}
