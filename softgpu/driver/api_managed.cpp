// Advice about managed memory and its prefetches. Managed memory lies where both sides reach it, so there is
// nothing to move; what was said is remembered (cudaabi/managed_advice.hpp).
#include <memory>

#include "cudaabi/managed_advice.hpp"
#include "cudaabi/memory_forms.hpp"
#include "softgpu/driver/api.hpp"
#include "softgpu/driver/graph.hpp"

using namespace softgpu;

namespace {

// Runs body(ManagedAdvice&, offset) if all of the range is of one managed allocation.
template <class Body>
CUresult on_managed(Driver& driver, CUdeviceptr address, std::size_t bytes, Body&& body) {
  const auto found = driver.memory.find(address);
  if (!found || found->kind != MemoryKind::managed || bytes == 0 || !found->contains(address, bytes))
    return CUDA_ERROR_INVALID_VALUE;
  const auto note = driver.memory.note(found->base, [] {
    const int devices = Driver::get().device_count();
    return std::static_pointer_cast<void>(std::make_shared<cudaabi::ManagedAdvice>(devices));
  });
  if (note == nullptr) return CUDA_ERROR_INVALID_VALUE;  // freed meanwhile
  return body(*std::static_pointer_cast<cudaabi::ManagedAdvice>(note), address - found->base);
}

CUmemLocation location_of_device(CUdevice device) {
  CUmemLocation location{};
  location.type = device == CU_DEVICE_CPU ? CU_MEM_LOCATION_TYPE_HOST : CU_MEM_LOCATION_TYPE_DEVICE;
  location.id = device == CU_DEVICE_CPU ? 0 : device;
  return location;
}

}  // namespace

SOFTGPU_API cuMemAdvise_v2(CUdeviceptr address, std::size_t bytes, CUmem_advise advice, CUmemLocation where) {
  return in_context([&](Driver& driver, Context&) {
    return on_managed(driver, address, bytes, [&](cudaabi::ManagedAdvice& said, std::uint64_t offset) {
      return said.advise(offset, bytes, advice, where);
    });
  });
}

SOFTGPU_API cuMemAdvise(CUdeviceptr address, std::size_t bytes, CUmem_advise advice, CUdevice device) {
  return cuMemAdvise_v2(address, bytes, advice, location_of_device(device));
}

SOFTGPU_API cuMemPrefetchAsync_v2(CUdeviceptr address, std::size_t bytes, CUmemLocation location,
                                  unsigned flags, CUstream s) {
  return on_stream(s, [&](Driver& driver, Context&, Stream& stream) -> CUresult {
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
    const CUresult result =
        on_managed(driver, address, bytes, [&](cudaabi::ManagedAdvice& said, std::uint64_t offset) {
          return said.prefetch(offset, bytes, location);
        });
    return result == CUDA_SUCCESS ? enqueue(stream, EmptyWork{}) : result;
  });
}

SOFTGPU_API cuMemPrefetchAsync_v2_ptsz(CUdeviceptr address, std::size_t bytes, CUmemLocation location,
                                       unsigned flags, CUstream s) {
  return cuMemPrefetchAsync_v2(address, bytes, location, flags, per_thread(s));
}

SOFTGPU_API cuMemPrefetchAsync(CUdeviceptr address, std::size_t bytes, CUdevice device, CUstream s) {
  return cuMemPrefetchAsync_v2(address, bytes, location_of_device(device), 0, s);
}

SOFTGPU_API cuMemPrefetchAsync_ptsz(CUdeviceptr address, std::size_t bytes, CUdevice device, CUstream s) {
  return cuMemPrefetchAsync_v2(address, bytes, location_of_device(device), 0, per_thread(s));
}

SOFTGPU_API cuMemRangeGetAttributes(void** data, std::size_t* sizes, CUmem_range_attribute* attributes,
                                    std::size_t count, CUdeviceptr address, std::size_t bytes) {
  return in_context([&](Driver& driver, Context&) -> CUresult {
    if (data == nullptr || sizes == nullptr || attributes == nullptr || count == 0)
      return CUDA_ERROR_INVALID_VALUE;
    return on_managed(driver, address, bytes,
                      [&](const cudaabi::ManagedAdvice& said, std::uint64_t offset) -> CUresult {
                        for (std::size_t i = 0; i < count; ++i) {
                          if (data[i] == nullptr) return CUDA_ERROR_INVALID_VALUE;
                          const CUresult result = said.query(data[i], sizes[i], attributes[i], offset, bytes);
                          if (result != CUDA_SUCCESS) return result;
                        }
                        return CUDA_SUCCESS;
                      });
  });
}

SOFTGPU_API cuMemRangeGetAttribute(void* data, std::size_t size, CUmem_range_attribute attribute,
                                   CUdeviceptr address, std::size_t bytes) {
  return cuMemRangeGetAttributes(&data, &size, &attribute, 1, address, bytes);
}

SOFTGPU_API cuMemPrefetchBatchAsync(CUdeviceptr* dptrs, std::size_t* sizes, std::size_t count,
                                    CUmemLocation* prefetchLocs, std::size_t* prefetchLocIdxs,
                                    std::size_t numPrefetchLocs, unsigned long long flags, CUstream hStream) {
  return cudaabi::prefetch_batch({dptrs, sizes, count, {prefetchLocs, prefetchLocIdxs, numPrefetchLocs}},
                                 flags, cuMemPrefetchAsync_v2, hStream);
}

SOFTGPU_API cuMemPrefetchBatchAsync_ptsz(CUdeviceptr* dptrs, std::size_t* sizes, std::size_t count,
                                         CUmemLocation* prefetchLocs, std::size_t* prefetchLocIdxs,
                                         std::size_t numPrefetchLocs, unsigned long long flags,
                                         CUstream hStream) {
  return cudaabi::prefetch_batch({dptrs, sizes, count, {prefetchLocs, prefetchLocIdxs, numPrefetchLocs}},
                                 flags, cuMemPrefetchAsync_v2_ptsz, hStream);
}

SOFTGPU_API cuMemDiscardAndPrefetchBatchAsync(CUdeviceptr* dptrs, std::size_t* sizes, std::size_t count,
                                              CUmemLocation* prefetchLocs, std::size_t* prefetchLocIdxs,
                                              std::size_t numPrefetchLocs, unsigned long long flags,
                                              CUstream hStream) {
  // What was discarded may be anything, so it may stay as it is.
  return cuMemPrefetchBatchAsync(dptrs, sizes, count, prefetchLocs, prefetchLocIdxs, numPrefetchLocs, flags,
                                 hStream);
}

SOFTGPU_API cuMemDiscardAndPrefetchBatchAsync_ptsz(CUdeviceptr* dptrs, std::size_t* sizes, std::size_t count,
                                                   CUmemLocation* prefetchLocs, std::size_t* prefetchLocIdxs,
                                                   std::size_t numPrefetchLocs, unsigned long long flags,
                                                   CUstream hStream) {
  // What was discarded may be anything, so it may stay as it is.
  return cuMemPrefetchBatchAsync_ptsz(dptrs, sizes, count, prefetchLocs, prefetchLocIdxs, numPrefetchLocs,
                                      flags, hStream);
}

SOFTGPU_API cuMemDiscardBatchAsync(CUdeviceptr* pointers, std::size_t* sizes, std::size_t count,
                                   unsigned long long flags, CUstream s) {
  // What is discarded may be anything until it is written again, so it may stay as it is.
  return on_stream(s, [&](Driver& driver, Context&, Stream& stream) -> CUresult {
    if (pointers == nullptr || sizes == nullptr || count == 0 || flags != 0) return CUDA_ERROR_INVALID_VALUE;
    for (std::size_t i = 0; i < count; ++i) {
      const CUresult result = on_managed(driver, pointers[i], sizes[i],
                                         [](cudaabi::ManagedAdvice&, std::uint64_t) { return CUDA_SUCCESS; });
      if (result != CUDA_SUCCESS) return result;
    }
    return enqueue(stream, EmptyWork{});
  });
}

SOFTGPU_API cuMemDiscardBatchAsync_ptsz(CUdeviceptr* pointers, std::size_t* sizes, std::size_t count,
                                        unsigned long long flags, CUstream s) {
  return cuMemDiscardBatchAsync(pointers, sizes, count, flags, per_thread(s));
}
