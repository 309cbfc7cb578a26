// Device memory: allocation, release, pools and virtual memory management. The worker allocates; what it gave
// is tracked here.
#include "cudaabi/memory_forms.hpp"
#include "cudaabi/unsupported.hpp"
#include "libclient/cuda/copy.hpp"
#include "libclient/cuda/graph_bounce.hpp"
#include "libclient/cuda/host_memory.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

void track(Call& call, MemoryKind kind, std::uint64_t base, std::uint64_t size, CUdevice device,
           std::uint64_t owner = 0, bool of_graph = false) {
  MemoryRange range;
  range.base = base;
  range.size = size;
  range.kind = kind;
  range.context = call.context() != nullptr ? call.context()->handle : 0;
  range.ordinal = device;
  range.owner = owner;
  range.of_graph = of_graph;
  call.process().memory.insert(range);
}

// The device of the current context, of which there need be none.
CUdevice current_device(const Call& call) {
  return call.context() != nullptr ? call.context()->device : 0;
}

// Memory of a stream comes from a pool of the stream's device.
CUdevice device_of(const Call& call, CUstream stream) {
  const Stream* const known = call.process().streams.find(bits(stream));
  const Context* const context =
      known != nullptr ? call.process().contexts.find(from_bits<CUcontext>(known->context)) : nullptr;
  return context != nullptr ? context->device : current_device(call);
}

CUresult allocate(CUdeviceptr* out, std::size_t bytes) {
  if (out == nullptr || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  if (const CUresult result = call.unsafe_in_capture(); result != CUDA_SUCCESS) return result;
  record::cuMemAlloc_v2 record;
  record.bytes = bytes;
  reply::cuMemAlloc_v2 reply;
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  track(call, MemoryKind::device, reply.dptr, bytes, current_device(call));
  *out = reply.dptr;
  return CUDA_SUCCESS;
}

// Memory that a captured call allocates anew at each launch; the worker knows it as memory of a stream.
CUresult release_captured(Call& call, CUdeviceptr pointer) {
  record::cuMemFreeAsync record;
  record.dptr = pointer;
  record.stream = call.stream(nullptr, false);
  if (const CUresult result = call.ask(record); result != CUDA_SUCCESS) return result;
  return synchronize(call, record.stream);
}

CUresult release(CUdeviceptr pointer) {
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  if (pointer == 0) return CUDA_SUCCESS;
  const auto range = call.process().memory.find(pointer);
  if (!range || range->base != pointer) return CUDA_ERROR_INVALID_VALUE;
  if (range->kind == MemoryKind::managed) return free_host_region(call, pointer);
  if (range->kind != MemoryKind::device && range->kind != MemoryKind::async) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult result = call.unsafe_in_capture(); result != CUDA_SUCCESS) return result;
  if (range->of_graph && range->kind == MemoryKind::async) return release_captured(call, pointer);
  record::cuMemFree_v2 record;
  record.dptr = pointer;
  // The graph's next launch takes it again, and must find it free.
  if (range->of_graph) return call.ask(record);
  call.process().memory.remove(pointer);
  return call.post(record);
}

CUresult allocate_async(CUdeviceptr* out, std::size_t bytes, CUmemoryPool pool, bool from_pool,
                        CUstream stream, bool per_thread) {
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  CUdeviceptr pointer = 0;
  CUresult result = CUDA_SUCCESS;
  CUdevice device = device_of(call, stream);
  if (bytes == 0) {
    call.stream(stream, per_thread);
    if (call.problem() == CUDA_SUCCESS) *out = 0;
    return call.problem();
  }
  if (from_pool) {
    const Opaque* const known = call.process().pools.find(bits(pool));
    if (known == nullptr) return CUDA_ERROR_INVALID_VALUE;
    device = known->device;
    record::cuMemAllocFromPoolAsync record;
    record.bytes = bytes;
    record.pool = bits(pool);
    record.stream = call.stream(stream, per_thread);
    reply::cuMemAllocFromPoolAsync reply;
    result = call.ask(record, reply);
    pointer = reply.dptr;
  } else {
    record::cuMemAllocAsync record;
    record.bytes = bytes;
    record.stream = call.stream(stream, per_thread);
    reply::cuMemAllocAsync reply;
    result = call.ask(record, reply);
    pointer = reply.dptr;
  }
  if (result != CUDA_SUCCESS) return result;
  bool captured = false;
  static_cast<void>(capturing(call, call.stream(stream, per_thread), captured));
  track(call, MemoryKind::async, pointer, bytes, device,
        from_pool ? bits(pool) : call.process().current_pools[device].load(), captured);
  *out = pointer;
  return CUDA_SUCCESS;
}

CUresult free_async(CUdeviceptr pointer, CUstream stream, bool per_thread) {
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  record::cuMemFreeAsync record;
  record.dptr = pointer;
  record.stream = call.stream(stream, per_thread);
  if (call.problem() != CUDA_SUCCESS) return call.problem();
  if (pointer == 0) return CUDA_SUCCESS;  // as cuMemFree does; cuSPARSE frees what it never allocated
  const auto range = call.process().memory.find(pointer);
  if (!range || range->base != pointer ||
      (range->kind != MemoryKind::async && range->kind != MemoryKind::device)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  // A captured release is recorded, not done: the memory lives until the graph frees it.
  bool captured = false;
  if (const CUresult result = capturing(call, record.stream, captured); result != CUDA_SUCCESS) return result;
  // Whether a graph's memory is allocated now the driver knows.
  if (range->of_graph) return call.ask(record);
  if (!captured) call.process().memory.remove(pointer);
  return call.post(record);
}

CUresult default_pool(CUmemoryPool* pool, CUdevice device) {
  if (pool == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Process* ready = process();
  if (ready == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  if (!ready->has_device(device)) return CUDA_ERROR_INVALID_DEVICE;
  *pool = from_bits<CUmemoryPool>(ready->default_pools[device]);
  return CUDA_SUCCESS;
}

// Programs ask for memory that could be exported long before they export any, if they ever do (PyTorch,
// NCCL).
CUresult check_handle_types(unsigned types) {
  if ((types & ~unsigned{CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR}) == 0) return CUDA_SUCCESS;
  return static_cast<CUresult>(
      cudaabi::note_unsupported("memory exported as anything but a file descriptor"));
}

CUresult check_pool(Call& call, CUmemoryPool pool) {
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  return call.process().pools.find(bits(pool)) != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

bool is_64_bit(CUmemPool_attribute attribute) {
  return attribute >= CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
}

}  // namespace
}  // namespace vgpu::client

using namespace vgpu::client;
namespace record = vgpu::record;
namespace reply = vgpu::reply;

VGPU_EXPORT CUresult cuMemAlloc_v2(CUdeviceptr* dptr, size_t bytesize) {
  return allocate(dptr, bytesize);
}
VGPU_EXPORT CUresult cuMemFree_v2(CUdeviceptr dptr) {
  return release(dptr);
}

VGPU_EXPORT CUresult cuMemAllocPitch_v2(CUdeviceptr* dptr, size_t* pPitch, size_t WidthInBytes, size_t Height,
                                        unsigned int ElementSizeBytes) {
  if (dptr == nullptr || pPitch == nullptr || WidthInBytes == 0 || Height == 0)
    return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  if (const CUresult result = call.unsafe_in_capture(); result != CUDA_SUCCESS) return result;
  record::cuMemAllocPitch_v2 record;
  record.width = WidthInBytes;
  record.height = Height;
  record.element_bytes = ElementSizeBytes;
  reply::cuMemAllocPitch_v2 reply;
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  track(call, MemoryKind::device, reply.dptr, reply.pitch * Height, current_device(call));
  *dptr = reply.dptr;
  *pPitch = reply.pitch;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
  if (free == nullptr || total == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  record::cuMemGetInfo_v2 record;
  reply::cuMemGetInfo_v2 reply;
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  *free = reply.free;
  *total = reply.total;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuMemGetAddressRange_v2(CUdeviceptr* pbase, size_t* psize, CUdeviceptr dptr) {
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  std::uint64_t base = 0;
  std::uint64_t size = 0;
  if (const auto range = call.process().memory.find(dptr)) {
    base = range->base;
    size = range->size;
  } else {
    record::cuMemGetAddressRange_v2 record;
    record.dptr = dptr;
    reply::cuMemGetAddressRange_v2 reply;
    if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
    base = reply.base;
    size = reply.bytes;
  }
  if (pbase != nullptr) *pbase = base;
  if (psize != nullptr) *psize = size;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuMemAllocAsync(CUdeviceptr* dptr, size_t bytesize, CUstream hStream) {
  return allocate_async(dptr, bytesize, nullptr, false, hStream, false);
}
VGPU_EXPORT CUresult cuMemAllocAsync_ptsz(CUdeviceptr* dptr, size_t bytesize, CUstream hStream) {
  return allocate_async(dptr, bytesize, nullptr, false, hStream, true);
}
VGPU_EXPORT CUresult cuMemAllocFromPoolAsync(CUdeviceptr* dptr, size_t bytesize, CUmemoryPool pool,
                                             CUstream hStream) {
  return allocate_async(dptr, bytesize, pool, true, hStream, false);
}
VGPU_EXPORT CUresult cuMemAllocFromPoolAsync_ptsz(CUdeviceptr* dptr, size_t bytesize, CUmemoryPool pool,
                                                  CUstream hStream) {
  return allocate_async(dptr, bytesize, pool, true, hStream, true);
}
VGPU_EXPORT CUresult cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream) {
  return free_async(dptr, hStream, false);
}
VGPU_EXPORT CUresult cuMemFreeAsync_ptsz(CUdeviceptr dptr, CUstream hStream) {
  return free_async(dptr, hStream, true);
}

VGPU_EXPORT CUresult cuDeviceGetDefaultMemPool(CUmemoryPool* pool_out, CUdevice dev) {
  return default_pool(pool_out, dev);
}

VGPU_EXPORT CUresult cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice dev) {
  if (const CUresult result = default_pool(pool, dev); result != CUDA_SUCCESS) return result;
  *pool = from_bits<CUmemoryPool>(process()->current_pools[dev].load());
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuDeviceSetMemPool(CUdevice dev, CUmemoryPool pool) {
  Call call;
  if (const CUresult result = check_pool(call, pool); result != CUDA_SUCCESS) return result;
  if (const CUresult result = call.on_device(dev); result != CUDA_SUCCESS) return result;
  record::cuDeviceSetMemPool record;
  record.pool = bits(pool);
  const CUresult result = call.ask(record);
  if (result == CUDA_SUCCESS) call.process().current_pools[dev] = bits(pool);
  return result;
}

VGPU_EXPORT CUresult cuMemGetDefaultMemPool(CUmemoryPool* pool, CUmemLocation* location,
                                            CUmemAllocationType type) {
  CUdevice device = 0;
  const CUresult result = cudaabi::device_of_pools(location, type, device);
  return result == CUDA_SUCCESS ? cuDeviceGetDefaultMemPool(pool, device) : result;
}

VGPU_EXPORT CUresult cuMemGetMemPool(CUmemoryPool* pool, CUmemLocation* location, CUmemAllocationType type) {
  CUdevice device = 0;
  const CUresult result = cudaabi::device_of_pools(location, type, device);
  return result == CUDA_SUCCESS ? cuDeviceGetMemPool(pool, device) : result;
}

VGPU_EXPORT CUresult cuMemSetMemPool(CUmemLocation* location, CUmemAllocationType type, CUmemoryPool pool) {
  CUdevice device = 0;
  const CUresult result = cudaabi::device_of_pools(location, type, device);
  return result == CUDA_SUCCESS ? cuDeviceSetMemPool(device, pool) : result;
}

VGPU_EXPORT CUresult cuMemPoolCreate(CUmemoryPool* pool, const CUmemPoolProps* poolProps) {
  if (pool == nullptr || poolProps == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult result = check_handle_types(poolProps->handleTypes); result != CUDA_SUCCESS)
    return result;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  record::cuMemPoolCreate record;
  record.pool = call.mint(vgpu::HandleKind::mem_pool);
  record.props = *poolProps;
  const CUdevice device =
      poolProps->location.type == CU_MEM_LOCATION_TYPE_DEVICE ? poolProps->location.id : 0;
  if (!call.process().has_device(device)) {
    call.forget(record.pool);
    return CUDA_ERROR_INVALID_DEVICE;
  }
  if (Opaque* const made = call.process().pools.find(record.pool)) made->device = device;
  return hand_out(call.process().pools, record.pool, call.ask(record), pool);
}

VGPU_EXPORT CUresult cuMemPoolDestroy(CUmemoryPool pool) {
  Call call;
  if (const CUresult result = check_pool(call, pool); result != CUDA_SUCCESS) return result;
  const CUdevice device = call.process().pools.find(bits(pool))->device;
  const std::uint64_t standard = call.process().default_pools[device];
  if (bits(pool) == standard) return CUDA_ERROR_INVALID_VALUE;
  std::uint64_t current = bits(pool);
  call.process().current_pools[device].compare_exchange_strong(current, standard);
  call.forget(bits(pool));
  record::cuMemPoolDestroy record;
  record.pool = bits(pool);
  return call.post(record);
}

VGPU_EXPORT CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep) {
  Call call;
  if (const CUresult result = check_pool(call, pool); result != CUDA_SUCCESS) return result;
  record::cuMemPoolTrimTo record;
  record.pool = bits(pool);
  record.keep = minBytesToKeep;
  return call.ask(record);
}

VGPU_EXPORT CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void* value) {
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_pool(call, pool); result != CUDA_SUCCESS) return result;
  record::cuMemPoolSetAttribute record;
  record.pool = bits(pool);
  record.attribute = static_cast<std::int32_t>(attr);
  record.value = is_64_bit(attr) ? *static_cast<const cuuint64_t*>(value)
                                 : static_cast<std::uint64_t>(*static_cast<const int*>(value));
  return call.ask(record);
}

VGPU_EXPORT CUresult cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void* value) {
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_pool(call, pool); result != CUDA_SUCCESS) return result;
  record::cuMemPoolGetAttribute record;
  record.pool = bits(pool);
  record.attribute = static_cast<std::int32_t>(attr);
  reply::cuMemPoolGetAttribute reply;
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  if (is_64_bit(attr)) {
    *static_cast<cuuint64_t*>(value) = reply.value;
  } else {
    *static_cast<int*>(value) = static_cast<int>(reply.value);
  }
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc* map, size_t count) {
  if (map == nullptr && count != 0) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_pool(call, pool); result != CUDA_SUCCESS) return result;
  for (std::size_t i = 0; i < count; ++i) {
    record::cuMemPoolSetAccess record;
    record.pool = bits(pool);
    record.access = map[i];
    if (const CUresult result = call.ask(record); result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuMemPoolGetAccess(CUmemAccess_flags* flags, CUmemoryPool memPool,
                                        CUmemLocation* location) {
  if (flags == nullptr || location == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_pool(call, memPool); result != CUDA_SUCCESS) return result;
  record::cuMemPoolGetAccess record;
  record.pool = bits(memPool);
  record.location = *location;
  reply::cuMemPoolGetAccess reply;
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  *flags = static_cast<CUmemAccess_flags>(reply.flags);
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuMemAddressReserve(CUdeviceptr* ptr, size_t size, size_t alignment, CUdeviceptr addr,
                                         unsigned long long flags) {
  if (ptr == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  record::cuMemAddressReserve record;
  record.size = size;
  record.alignment = alignment;
  record.addr = addr;
  record.flags = flags;
  reply::cuMemAddressReserve reply;
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  track(call, MemoryKind::reserved, reply.ptr, size, current_device(call));
  *ptr = reply.ptr;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuMemAddressFree(CUdeviceptr ptr, size_t size) {
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  record::cuMemAddressFree record;
  record.ptr = ptr;
  record.size = size;
  const CUresult result = call.ask(record);
  if (result == CUDA_SUCCESS) call.process().memory.remove(ptr, true);
  return result;
}

VGPU_EXPORT CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, size_t size,
                                 const CUmemAllocationProp* prop, unsigned long long flags) {
  if (handle == nullptr || prop == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult result = check_handle_types(prop->requestedHandleTypes); result != CUDA_SUCCESS)
    return result;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  record::cuMemCreate record;
  record.handle = call.mint(vgpu::HandleKind::mem_allocation);
  record.bytes = size;
  record.prop = *prop;
  record.flags = flags;
  if (Opaque* const made = call.process().allocations.find(record.handle)) made->device = prop->location.id;
  return hand_out(call.process().allocations, record.handle, call.ask(record), handle);
}

VGPU_EXPORT CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  if (call.process().allocations.find(handle) == nullptr) return CUDA_ERROR_INVALID_VALUE;
  record::cuMemRelease record;
  record.handle = handle;
  const CUresult result = call.ask(record);
  if (result == CUDA_SUCCESS) call.forget(handle);
  return result;
}

VGPU_EXPORT CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* handle, void* addr) {
  if (handle == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  record::cuMemRetainAllocationHandle record;
  record.handle = call.mint(vgpu::HandleKind::mem_allocation);
  record.address = bits(addr);
  return hand_out(call.process().allocations, record.handle, call.ask(record), handle);
}

VGPU_EXPORT CUresult cuMemMap(CUdeviceptr ptr, size_t size, size_t offset,
                              CUmemGenericAllocationHandle handle, unsigned long long flags) {
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  const Opaque* const allocation = call.process().allocations.find(handle);
  if (allocation == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const CUdevice device = allocation->device;
  record::cuMemMap record;
  record.ptr = ptr;
  record.bytes = size;
  record.offset = offset;
  record.handle = handle;
  record.flags = flags;
  const CUresult result = call.ask(record);
  if (result == CUDA_SUCCESS) track(call, MemoryKind::mapped, ptr, size, device, handle);
  return result;
}

VGPU_EXPORT CUresult cuMemUnmap(CUdeviceptr ptr, size_t size) {
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  record::cuMemUnmap record;
  record.ptr = ptr;
  record.size = size;
  const CUresult result = call.ask(record);
  if (result == CUDA_SUCCESS) call.process().memory.remove_within(MemoryKind::mapped, ptr, size);
  return result;
}

VGPU_EXPORT CUresult cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc* desc, size_t count) {
  if (desc == nullptr || count == 0) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  for (std::size_t i = 0; i < count; ++i) {
    record::cuMemSetAccess record;
    record.ptr = ptr;
    record.bytes = size;
    record.access = desc[i];
    if (const CUresult result = call.ask(record); result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp* prop,
                                                            CUmemGenericAllocationHandle handle) {
  if (prop == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  if (call.process().allocations.find(handle) == nullptr) return CUDA_ERROR_INVALID_VALUE;
  record::cuMemGetAllocationPropertiesFromHandle record;
  record.handle = handle;
  reply::cuMemGetAllocationPropertiesFromHandle reply;
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  *prop = reply.prop;
  return CUDA_SUCCESS;
}
