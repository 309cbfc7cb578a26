// Pointer attributes, answered from the tracked ranges.
#include <cstring>

#include "libclient/cuda/stub_runtime.hpp"
#include "protocol/address_space.hpp"

namespace vgpu::client {
namespace {

template <class T>
void put(void* out, const T& value) {
  std::memcpy(out, &value, sizeof(T));  // NOLINT(bugprone-sizeof-expression): some values are pointers
}

CUmemorytype type_of(MemoryKind kind) {
  return kind == MemoryKind::pinned || kind == MemoryKind::registered ? CU_MEMORYTYPE_HOST
                                                                      : CU_MEMORYTYPE_DEVICE;
}

CUresult write_attribute(void* out, CUpointer_attribute attribute, const MemoryRange& range,
                         std::uint64_t pointer) {
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      put(out, from_bits<CUcontext>(range.kind == MemoryKind::mapped ? 0 : range.context));
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      put(out, static_cast<unsigned>(type_of(range.kind)));
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      if (is_host(range.kind) && range.device == 0) return CUDA_ERROR_INVALID_VALUE;
      put(out,
          static_cast<CUdeviceptr>(is_host(range.kind) ? range.device + (pointer - range.base) : pointer));
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
      if (!is_host(range.kind)) return CUDA_ERROR_INVALID_VALUE;
      put(out, from_bits<void*>(pointer));
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
      put(out, static_cast<unsigned>(range.sync_memops));
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
      put(out, static_cast<unsigned long long>(range.id));
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
      put(out, static_cast<unsigned>(range.kind == MemoryKind::managed));
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      put(out, range.ordinal);
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
      put(out, static_cast<unsigned>(range.kind == MemoryKind::device));
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
      put(out, 0U);
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      put(out, static_cast<CUdeviceptr>(range.base));
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
      put(out, static_cast<std::size_t>(range.size));
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MAPPED:
      put(out, static_cast<unsigned>(range.kind != MemoryKind::reserved));
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
      put(out, std::uint64_t{0});
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
      put(out, static_cast<unsigned>(CU_POINTER_ATTRIBUTE_ACCESS_FLAG_READWRITE));
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
      put(out, from_bits<CUmemoryPool>(range.kind == MemoryKind::async ? range.owner : 0));
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
      put(out, static_cast<std::size_t>(range.size));
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
      put(out, from_bits<void*>(range.base));
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID:
      put(out, range.id);
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

// Bytes that cuPointerGetAttributes zeroes for a pointer CUDA knows nothing of.
std::size_t size_of(CUpointer_attribute attribute) {
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
    case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
    case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
    case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
    case CU_POINTER_ATTRIBUTE_MAPPED:
    case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
      return sizeof(unsigned);
    case CU_POINTER_ATTRIBUTE_P2P_TOKENS:
      return sizeof(CUDA_POINTER_ATTRIBUTE_P2P_TOKENS);
    default:
      return sizeof(std::uint64_t);
  }
}

}  // namespace
}  // namespace vgpu::client

using namespace vgpu::client;

VGPU_EXPORT CUresult cuPointerGetAttribute(void* data, CUpointer_attribute attribute, CUdeviceptr ptr) {
  if (data == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Process* ready = process();
  if (ready == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  const auto range = ready->memory.find(ptr);
  if (!range) {
    if (attribute == CU_POINTER_ATTRIBUTE_MAPPED) {
      put(data, 0U);
      return CUDA_SUCCESS;
    }
    return CUDA_ERROR_INVALID_VALUE;
  }
  return write_attribute(data, attribute, *range, ptr);
}

VGPU_EXPORT CUresult cuPointerGetAttributes(unsigned int numAttributes, CUpointer_attribute* attributes,
                                            void** data, CUdeviceptr ptr) {
  if (attributes == nullptr || data == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Process* ready = process();
  if (ready == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  const auto range = ready->memory.find(ptr);
  for (unsigned i = 0; i < numAttributes; ++i) {
    if (data[i] == nullptr) continue;
    // What an attribute has no answer for is zero, not an error: the call's documented difference to the
    // single form.
    if (!range || write_attribute(data[i], attributes[i], *range, ptr) != CUDA_SUCCESS) {
      std::memset(data[i], 0, size_of(attributes[i]));
      if (attributes[i] == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL) put(data[i], -2);
    }
  }
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuPointerSetAttribute(const void* value, CUpointer_attribute attribute,
                                           CUdeviceptr ptr) {
  if (value == nullptr || attribute != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS) return CUDA_ERROR_INVALID_VALUE;
  Process* ready = process();
  if (ready == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  unsigned wanted = 0;
  std::memcpy(&wanted, value, sizeof wanted);
  // Copies of such memory would have to wait; none are made to, so only "off" can be promised.
  if (wanted != 0) return CUDA_ERROR_NOT_SUPPORTED;
  return ready->memory.set_sync_memops(ptr, false) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
