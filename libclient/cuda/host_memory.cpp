#include "libclient/cuda/host_memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "cudaabi/managed_advice.hpp"
#include "libclient/cuda/page_swap.hpp"
#include "protocol/address_space.hpp"
#include "protocol/handshake.hpp"
#include "protocol/message_socket.hpp"
#include "protocol/sealed_memory.hpp"
#include "protocol/unique_fd.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

constexpr std::uint64_t kAlignment = 64 << 10;

std::uint64_t round_up(std::uint64_t value, std::uint64_t to) {
  return (value + to - 1) / to * to;
}

/// Hands out places in the host window. Thread-safe.
class Window {
 public:
  std::optional<std::uint64_t> take(std::uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    // First fit in the gaps between what is taken; there are few regions and a terabyte of room.
    std::uint64_t at = host_window_base;
    for (const auto& [begin, size] : taken_) {
      if (begin - at >= bytes) break;
      at = begin + size;
    }
    if (!in_host_window(at, bytes)) return std::nullopt;
    taken_.emplace(at, bytes);
    return at;
  }
  void give_back(std::uint64_t address) {
    const std::lock_guard lock(mutex_);
    taken_.erase(address);
  }

 private:
  std::mutex mutex_;
  std::map<std::uint64_t, std::uint64_t> taken_;
};

Window& window() {
  static auto* const instance = new Window;  // threads may use it while the process exits
  return *instance;
}

// Has the worker map `fd` at `address`; where the device sees it comes back in `device`.
CUresult map_in_worker(Call& call, int fd, std::uint64_t address, std::uint64_t bytes, unsigned flags,
                       bool managed, std::uint64_t& device) {
  if (const CUresult result = send_region(call, fd, address, bytes); result != CUDA_SUCCESS) return result;
  record::host_map record;
  record.address = address;
  record.bytes = bytes;
  record.flags = flags;
  record.managed = managed ? 1 : 0;
  reply::host_map reply;
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  device = reply.dptr;
  return CUDA_SUCCESS;
}

CUresult unmap_in_worker(Call& call, std::uint64_t address) {
  record::host_unmap record;
  record.address = address;
  return call.ask(record);
}

CUresult allocate_host(void** out, std::size_t bytes, unsigned flags) {
  if (out == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  constexpr unsigned kKnown =
      CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;
  if ((flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  if (const CUresult result = call.unsafe_in_capture(); result != CUDA_SUCCESS) return result;
  return allocate_host_region(call, MemoryKind::pinned, bytes, flags, out);
}

CUresult free_host(void* pointer) {
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  if (pointer == nullptr) return CUDA_SUCCESS;
  const auto range = call.process().memory.find(bits(pointer));
  if (!range || range->base != bits(pointer) || range->kind != MemoryKind::pinned)
    return CUDA_ERROR_INVALID_VALUE;
  return free_host_region(call, range->base);
}

// Memory whose pages others use too (a part of the heap, a stack, a file) stays where it is: copies go
// through the arena like those of any memory, and the device has no address for it.
CUresult register_unshared(Call& call, void* pointer, std::size_t bytes, unsigned flags, std::uint64_t begin,
                           std::uint64_t size) {
  if ((flags & CU_MEMHOSTREGISTER_DEVICEMAP) != 0) return CUDA_ERROR_NOT_SUPPORTED;
  std::vector<unsigned char> resident(size / host_page);
  // Source: mincore(2): fails with ENOMEM where nothing is mapped.
  if (mincore(from_bits<void*>(begin), size, resident.data()) != 0) return CUDA_ERROR_INVALID_VALUE;
  MemoryRange range;
  range.base = bits(pointer);
  range.size = bytes;
  range.kind = MemoryKind::registered;
  range.flags = flags;
  range.context = call.context()->handle;
  range.ordinal = call.context()->device;
  call.process().memory.insert(range);
  return CUDA_SUCCESS;
}

CUresult register_host(void* pointer, std::size_t bytes, unsigned flags) {
  constexpr unsigned kKnown = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP |
                              CU_MEMHOSTREGISTER_IOMEMORY | CU_MEMHOSTREGISTER_READ_ONLY;
  if (pointer == nullptr || bytes == 0 || (flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  if ((flags & CU_MEMHOSTREGISTER_IOMEMORY) != 0) return CUDA_ERROR_NOT_SUPPORTED;
  const std::uint64_t begin = bits(pointer) / host_page * host_page;
  const std::uint64_t size = round_up(bits(pointer) + bytes, host_page) - begin;
  if (in_host_window(begin) || call.process().memory.overlaps_host(begin, size)) {
    return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  }
  if (!can_swap_pages(begin, size, bits(pointer), bytes))
    return register_unshared(call, pointer, bytes, flags, begin, size);
  const auto place = window().take(round_up(size, kAlignment));
  if (!place) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
  std::uint64_t device = 0;
  UniqueFd fd = sealed_memory("vgpud-host-memory", size);
  if (fd) {
    result = map_in_worker(call, fd.get(), *place, size, CU_MEMHOSTALLOC_DEVICEMAP, false, device);
    if (result == CUDA_SUCCESS && !swap_pages_for_file(begin, size, fd.get())) {
      static_cast<void>(unmap_in_worker(call, *place));
      result = CUDA_ERROR_NOT_SUPPORTED;
    }
  }
  if (result != CUDA_SUCCESS) {
    window().give_back(*place);
    return result;
  }
  MemoryRange range;
  range.base = begin;
  range.size = size;
  range.kind = MemoryKind::registered;
  range.flags = flags;
  range.context = call.context()->handle;
  range.ordinal = call.context()->device;
  range.owner = *place;
  range.device = device;
  range.mapping_size = size;
  // A program may register more pages one by one than it may have files open.
  constexpr int kMostKept = 512;
  if (fd.get() < kMostKept) range.file = fd.release();
  call.process().memory.insert(range);
  return CUDA_SUCCESS;
}

CUresult unregister_host(void* pointer) {
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  const auto range = call.process().memory.find(bits(pointer));
  if (!range || range->kind != MemoryKind::registered || bits(pointer) - range->base >= host_page) {
    return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
  }
  call.process().memory.remove(range->base);
  if (range->file >= 0) close(range->file);
  if (range->device == 0) return CUDA_SUCCESS;
  const CUresult result = unmap_in_worker(call, range->owner);
  swap_pages_for_private(range->base, range->mapping_size);
  window().give_back(range->owner);
  return result;
}

CUresult device_pointer(CUdeviceptr* out, void* pointer, unsigned flags) {
  if (out == nullptr || pointer == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  Process* ready = process();
  if (ready == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  const auto range = ready->memory.find_host(bits(pointer), 1);
  if (!range) return CUDA_ERROR_INVALID_VALUE;
  if (range->device == 0) return CUDA_ERROR_NOT_SUPPORTED;
  *out = range->device + (bits(pointer) - range->base);
  return CUDA_SUCCESS;
}

}  // namespace

CUresult send_region(Call& call, int descriptor, std::uint64_t token, std::size_t bytes) {
  HostRegion region;
  region.address = token;
  region.bytes = bytes;
  const int fds[] = {descriptor};
  if (!send_message(call.connection().direct_socket(), region, fds)) {
    return call.connection().alive() ? CUDA_ERROR_OPERATING_SYSTEM : CUDA_ERROR_DEVICE_UNAVAILABLE;
  }
  return CUDA_SUCCESS;
}

CUresult allocate_host_region(Call& call, MemoryKind kind, std::size_t bytes, unsigned flags, void** out) {
  if (bytes > host_window_size) return CUDA_ERROR_OUT_OF_MEMORY;
  const std::uint64_t size = round_up(bytes, kAlignment);
  const auto place = window().take(size);
  if (!place) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
  std::uint64_t device = 0;
  if (const UniqueFd fd = sealed_memory("vgpud-host-memory", size); fd) {
    void* mapped = mmap(from_bits<void*>(*place), size, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_FIXED_NOREPLACE, fd.get(), 0);
    if (bits(mapped) == *place) {
      result = map_in_worker(call, fd.get(), *place, size, flags, kind == MemoryKind::managed, device);
      // Managed memory has one address for all; only pinned memory may have two.
      if (result == CUDA_SUCCESS && kind == MemoryKind::managed && device != *place) {
        static_cast<void>(unmap_in_worker(call, *place));
        result = CUDA_ERROR_NOT_SUPPORTED;
      }
      if (result != CUDA_SUCCESS) munmap(mapped, size);
    } else if (mapped != MAP_FAILED) {
      munmap(mapped, size);  // a kernel older than MAP_FIXED_NOREPLACE took it for a hint
    }
  }
  if (result != CUDA_SUCCESS) {
    window().give_back(*place);
    return result;
  }
  MemoryRange range;
  range.base = *place;
  range.size = bytes;
  range.kind = kind;
  range.flags = flags;
  range.context = call.context() != nullptr ? call.context()->handle : 0;
  range.ordinal = call.context() != nullptr ? call.context()->device : 0;
  range.device = device;
  range.mapping_size = size;
  if (kind == MemoryKind::managed) range.advice = std::make_shared<cudaabi::ManagedAdvice>();
  call.process().memory.insert(range);
  *out = from_bits<void*>(*place);
  return CUDA_SUCCESS;
}

CUresult free_host_region(Call& call, std::uint64_t address) {
  const auto range = call.process().memory.remove(address);
  if (!range) return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = unmap_in_worker(call, address);
  munmap(from_bits<void*>(address), range->mapping_size);
  window().give_back(address);
  return result;
}

}  // namespace vgpu::client

using namespace vgpu::client;

VGPU_EXPORT CUresult cuMemHostAlloc(void** pp, size_t bytesize, unsigned int Flags) {
  return allocate_host(pp, bytesize, Flags);
}
VGPU_EXPORT CUresult cuMemAllocHost_v2(void** pp, size_t bytesize) {
  return allocate_host(pp, bytesize, 0);
}
VGPU_EXPORT CUresult cuMemFreeHost(void* p) {
  return free_host(p);
}
VGPU_EXPORT CUresult cuMemHostRegister_v2(void* p, size_t bytesize, unsigned int Flags) {
  return register_host(p, bytesize, Flags);
}
VGPU_EXPORT CUresult cuMemHostUnregister(void* p) {
  return unregister_host(p);
}
VGPU_EXPORT CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr* pdptr, void* p, unsigned int Flags) {
  return device_pointer(pdptr, p, Flags);
}

VGPU_EXPORT CUresult cuMemHostGetFlags(unsigned int* pFlags, void* p) {
  if (pFlags == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Process* ready = process();
  if (ready == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  const auto range = ready->memory.find_host(bits(p), 1);
  if (!range || range->kind != MemoryKind::pinned) return CUDA_ERROR_INVALID_VALUE;
  *pFlags = range->flags | CU_MEMHOSTALLOC_DEVICEMAP;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuMemAllocManaged(CUdeviceptr* dptr, size_t bytesize, unsigned int flags) {
  if (dptr == nullptr || bytesize == 0) return CUDA_ERROR_INVALID_VALUE;
  if (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  if (const CUresult result = call.unsafe_in_capture(); result != CUDA_SUCCESS) return result;
  void* pointer = nullptr;
  const CUresult result = allocate_host_region(call, MemoryKind::managed, bytesize, flags, &pointer);
  if (result == CUDA_SUCCESS) *dptr = bits(pointer);
  return result;
}
