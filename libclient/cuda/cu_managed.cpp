// Advice about managed memory and its prefetches. It is host memory that the device reads where it is, so
// nothing is moved; what was said is remembered here (cudaabi/managed_advice.hpp), and the worker not told.
#include <optional>

#include "cudaabi/managed_advice.hpp"
#include "cudaabi/memory_forms.hpp"
#include "libclient/cuda/stub_runtime.hpp"

namespace vgpu::client {
namespace {

// The managed memory that holds all of [pointer, pointer + bytes).
std::optional<MemoryRange> find_managed(const Call& call, CUdeviceptr pointer, std::size_t bytes) {
  auto range = call.process().memory.find(pointer);
  if (!range || range->advice == nullptr || bytes == 0 || bytes > range->size - (pointer - range->base))
    return std::nullopt;
  return range;
}

CUresult prefetch(CUdeviceptr pointer, std::size_t bytes, const CUmemLocation& location, unsigned flags,
                  CUstream stream, bool per_thread) {
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  static_cast<void>(call.stream(stream, per_thread));
  if (call.problem() != CUDA_SUCCESS) return call.problem();
  const auto range = find_managed(call, pointer, bytes);
  if (!range || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  return range->advice->prefetch(pointer - range->base, bytes, location);
}

CUresult advise(CUdeviceptr pointer, std::size_t bytes, CUmem_advise advice, const CUmemLocation& location) {
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  const auto range = find_managed(call, pointer, bytes);
  if (!range) return CUDA_ERROR_INVALID_VALUE;
  return range->advice->advise(pointer - range->base, bytes, advice, location);
}

// What is discarded may be anything until it is written again, so it may stay as it is.
CUresult discard(const CUdeviceptr* pointers, const std::size_t* sizes, std::size_t count,
                 unsigned long long flags, CUstream stream, bool per_thread) {
  if (pointers == nullptr || sizes == nullptr || count == 0 || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  static_cast<void>(call.stream(stream, per_thread));
  if (call.problem() != CUDA_SUCCESS) return call.problem();
  for (std::size_t i = 0; i < count; ++i) {
    if (!find_managed(call, pointers[i], sizes[i])) return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

CUmemLocation location_of_device(CUdevice device) {
  CUmemLocation location{};
  location.type = device == CU_DEVICE_CPU ? CU_MEM_LOCATION_TYPE_HOST : CU_MEM_LOCATION_TYPE_DEVICE;
  location.id = device == CU_DEVICE_CPU ? 0 : device;
  return location;
}

}  // namespace
}  // namespace vgpu::client

using namespace vgpu::client;

VGPU_EXPORT CUresult cuMemPrefetchAsync(CUdeviceptr devPtr, size_t count, CUdevice dstDevice,
                                        CUstream hStream) {
  return prefetch(devPtr, count, location_of_device(dstDevice), 0, hStream, false);
}
VGPU_EXPORT CUresult cuMemPrefetchAsync_ptsz(CUdeviceptr devPtr, size_t count, CUdevice dstDevice,
                                             CUstream hStream) {
  return prefetch(devPtr, count, location_of_device(dstDevice), 0, hStream, true);
}
VGPU_EXPORT CUresult cuMemPrefetchAsync_v2(CUdeviceptr devPtr, size_t count, CUmemLocation location,
                                           unsigned int flags, CUstream hStream) {
  return prefetch(devPtr, count, location, flags, hStream, false);
}
VGPU_EXPORT CUresult cuMemPrefetchAsync_v2_ptsz(CUdeviceptr devPtr, size_t count, CUmemLocation location,
                                                unsigned int flags, CUstream hStream) {
  return prefetch(devPtr, count, location, flags, hStream, true);
}
VGPU_EXPORT CUresult cuMemAdvise(CUdeviceptr devPtr, size_t count, CUmem_advise advice, CUdevice device) {
  return advise(devPtr, count, advice, location_of_device(device));
}
VGPU_EXPORT CUresult cuMemAdvise_v2(CUdeviceptr devPtr, size_t count, CUmem_advise advice,
                                    CUmemLocation location) {
  return advise(devPtr, count, advice, location);
}

VGPU_EXPORT CUresult cuMemRangeGetAttribute(void* data, size_t dataSize, CUmem_range_attribute attribute,
                                            CUdeviceptr devPtr, size_t count) {
  return cuMemRangeGetAttributes(&data, &dataSize, &attribute, 1, devPtr, count);
}

VGPU_EXPORT CUresult cuMemRangeGetAttributes(void** data, size_t* dataSizes,
                                             CUmem_range_attribute* attributes, size_t numAttributes,
                                             CUdeviceptr devPtr, size_t count) {
  if (data == nullptr || dataSizes == nullptr || attributes == nullptr || numAttributes == 0)
    return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  const auto range = find_managed(call, devPtr, count);
  if (!range) return CUDA_ERROR_INVALID_VALUE;
  for (std::size_t i = 0; i < numAttributes; ++i) {
    if (data[i] == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const CUresult result =
        range->advice->query(data[i], dataSizes[i], attributes[i], devPtr - range->base, count);
    if (result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuMemPrefetchBatchAsync(CUdeviceptr* dptrs, std::size_t* sizes, std::size_t count,
                                             CUmemLocation* prefetchLocs, std::size_t* prefetchLocIdxs,
                                             std::size_t numPrefetchLocs, unsigned long long flags,
                                             CUstream hStream) {
  return cudaabi::prefetch_batch({dptrs, sizes, count, {prefetchLocs, prefetchLocIdxs, numPrefetchLocs}},
                                 flags, cuMemPrefetchAsync_v2, hStream);
}

VGPU_EXPORT CUresult cuMemPrefetchBatchAsync_ptsz(CUdeviceptr* dptrs, std::size_t* sizes, std::size_t count,
                                                  CUmemLocation* prefetchLocs, std::size_t* prefetchLocIdxs,
                                                  std::size_t numPrefetchLocs, unsigned long long flags,
                                                  CUstream hStream) {
  return cudaabi::prefetch_batch({dptrs, sizes, count, {prefetchLocs, prefetchLocIdxs, numPrefetchLocs}},
                                 flags, cuMemPrefetchAsync_v2_ptsz, hStream);
}

VGPU_EXPORT CUresult cuMemDiscardAndPrefetchBatchAsync(CUdeviceptr* dptrs, std::size_t* sizes,
                                                       std::size_t count, CUmemLocation* prefetchLocs,
                                                       std::size_t* prefetchLocIdxs,
                                                       std::size_t numPrefetchLocs, unsigned long long flags,
                                                       CUstream hStream) {
  // What was discarded may be anything, so it may stay as it is.
  return cuMemPrefetchBatchAsync(dptrs, sizes, count, prefetchLocs, prefetchLocIdxs, numPrefetchLocs, flags,
                                 hStream);
}

VGPU_EXPORT CUresult cuMemDiscardAndPrefetchBatchAsync_ptsz(CUdeviceptr* dptrs, std::size_t* sizes,
                                                            std::size_t count, CUmemLocation* prefetchLocs,
                                                            std::size_t* prefetchLocIdxs,
                                                            std::size_t numPrefetchLocs,
                                                            unsigned long long flags, CUstream hStream) {
  // What was discarded may be anything, so it may stay as it is.
  return cuMemPrefetchBatchAsync_ptsz(dptrs, sizes, count, prefetchLocs, prefetchLocIdxs, numPrefetchLocs,
                                      flags, hStream);
}

VGPU_EXPORT CUresult cuMemDiscardBatchAsync(CUdeviceptr* dptrs, size_t* sizes, size_t count,
                                            unsigned long long flags, CUstream hStream) {
  return discard(dptrs, sizes, count, flags, hStream, false);
}
VGPU_EXPORT CUresult cuMemDiscardBatchAsync_ptsz(CUdeviceptr* dptrs, size_t* sizes, size_t count,
                                                 unsigned long long flags, CUstream hStream) {
  return discard(dptrs, sizes, count, flags, hStream, true);
}
