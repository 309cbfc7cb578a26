// Batches of copies: each is its copies, one after the other in the stream. That keeps more order than a
// batch promises, and costs a record each.
#include "libclient/cuda/stub_runtime.hpp"

namespace vgpu::client {
namespace {

using CopyCall = CUresult (*)(CUdeviceptr, CUdeviceptr, std::size_t, CUstream);

CUresult copy_batch(CopyCall copy, const CUdeviceptr* targets, const CUdeviceptr* sources,
                    const std::size_t* sizes, std::size_t count, const CUmemcpyAttributes* attributes,
                    const std::size_t* first_of, std::size_t attribute_count, std::size_t* failed,
                    CUstream stream) {
  if (failed != nullptr) *failed = SIZE_MAX;
  // As the driver: not on the legacy stream, and every copy has attributes. Source: cuMemcpyBatchAsync.
  if (targets == nullptr || sources == nullptr || sizes == nullptr || count == 0 || attributes == nullptr ||
      first_of == nullptr || attribute_count == 0 || attribute_count > count || first_of[0] != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  for (std::size_t i = 0; i < attribute_count; ++i) {
    if ((i != 0 && first_of[i] <= first_of[i - 1]) || first_of[i] >= count) return CUDA_ERROR_INVALID_VALUE;
    const auto order = attributes[i].srcAccessOrder;
    if (order != CU_MEMCPY_SRC_ACCESS_ORDER_STREAM && order != CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL &&
        order != CU_MEMCPY_SRC_ACCESS_ORDER_ANY) {
      return CUDA_ERROR_INVALID_VALUE;
    }
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (const CUresult result = copy(targets[i], sources[i], sizes[i], stream); result != CUDA_SUCCESS) {
      if (failed != nullptr) *failed = i;
      return result;
    }
  }
  // The sources may not be read later than now: pageable ones never are, shared ones are in stream order.
  for (std::size_t i = 0; i < attribute_count; ++i) {
    if (attributes[i].srcAccessOrder == CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL)
      return cuStreamSynchronize(stream);
  }
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace vgpu::client

using namespace vgpu::client;

VGPU_EXPORT CUresult cuMemcpyBatchAsync(CUdeviceptr* dsts, CUdeviceptr* srcs, size_t* sizes, size_t count,
                                        CUmemcpyAttributes* attrs, size_t* attrsIdxs, size_t numAttrs,
                                        size_t* failIdx, CUstream hStream) {
  return copy_batch(cuMemcpyAsync, dsts, srcs, sizes, count, attrs, attrsIdxs, numAttrs, failIdx, hStream);
}
VGPU_EXPORT CUresult cuMemcpyBatchAsync_ptsz(CUdeviceptr* dsts, CUdeviceptr* srcs, size_t* sizes,
                                             size_t count, CUmemcpyAttributes* attrs, size_t* attrsIdxs,
                                             size_t numAttrs, size_t* failIdx, CUstream hStream) {
  return copy_batch(cuMemcpyAsync_ptsz, dsts, srcs, sizes, count, attrs, attrsIdxs, numAttrs, failIdx,
                    hStream);
}
VGPU_EXPORT CUresult cuMemcpyBatchAsync_v2(CUdeviceptr* dsts, CUdeviceptr* srcs, size_t* sizes, size_t count,
                                           CUmemcpyAttributes* attrs, size_t* attrsIdxs, size_t numAttrs,
                                           CUstream hStream) {
  return copy_batch(cuMemcpyAsync, dsts, srcs, sizes, count, attrs, attrsIdxs, numAttrs, nullptr, hStream);
}
VGPU_EXPORT CUresult cuMemcpyBatchAsync_v2_ptsz(CUdeviceptr* dsts, CUdeviceptr* srcs, size_t* sizes,
                                                size_t count, CUmemcpyAttributes* attrs, size_t* attrsIdxs,
                                                size_t numAttrs, CUstream hStream) {
  return copy_batch(cuMemcpyAsync_ptsz, dsts, srcs, sizes, count, attrs, attrsIdxs, numAttrs, nullptr,
                    hStream);
}
