// Batches of copies: each is its copies, one after the other in the stream.
#include "cudaabi/copy_batch.hpp"
#include "softgpu/driver/api.hpp"

namespace {

constexpr cudaabi::CopyCalls legacy_calls{cuMemcpyAsync, cuMemcpy3DAsync_v2, cuArray3DGetDescriptor_v2,
                                          cuStreamSynchronize};
constexpr cudaabi::CopyCalls per_thread_calls{cuMemcpyAsync_ptsz, cuMemcpy3DAsync_v2_ptsz,
                                              cuArray3DGetDescriptor_v2, cuStreamSynchronize_ptsz};

}  // namespace

SOFTGPU_API cuMemcpyBatchAsync(CUdeviceptr* dsts, CUdeviceptr* srcs, std::size_t* sizes, std::size_t count,
                               CUmemcpyAttributes* attrs, std::size_t* attrsIdxs, std::size_t numAttrs,
                               std::size_t* failIdx, CUstream hStream) {
  return cudaabi::copy_batch(legacy_calls, {dsts, srcs, sizes, count, {attrs, attrsIdxs, numAttrs}}, failIdx,
                             hStream);
}
SOFTGPU_API cuMemcpyBatchAsync_ptsz(CUdeviceptr* dsts, CUdeviceptr* srcs, std::size_t* sizes,
                                    std::size_t count, CUmemcpyAttributes* attrs, std::size_t* attrsIdxs,
                                    std::size_t numAttrs, std::size_t* failIdx, CUstream hStream) {
  return cudaabi::copy_batch(per_thread_calls, {dsts, srcs, sizes, count, {attrs, attrsIdxs, numAttrs}},
                             failIdx, hStream);
}
SOFTGPU_API cuMemcpyBatchAsync_v2(CUdeviceptr* dsts, CUdeviceptr* srcs, std::size_t* sizes, std::size_t count,
                                  CUmemcpyAttributes* attrs, std::size_t* attrsIdxs, std::size_t numAttrs,
                                  CUstream hStream) {
  return cudaabi::copy_batch(legacy_calls, {dsts, srcs, sizes, count, {attrs, attrsIdxs, numAttrs}}, nullptr,
                             hStream);
}
SOFTGPU_API cuMemcpyBatchAsync_v2_ptsz(CUdeviceptr* dsts, CUdeviceptr* srcs, std::size_t* sizes,
                                       std::size_t count, CUmemcpyAttributes* attrs, std::size_t* attrsIdxs,
                                       std::size_t numAttrs, CUstream hStream) {
  return cudaabi::copy_batch(per_thread_calls, {dsts, srcs, sizes, count, {attrs, attrsIdxs, numAttrs}},
                             nullptr, hStream);
}
SOFTGPU_API cuMemcpy3DBatchAsync(std::size_t numOps, CUDA_MEMCPY3D_BATCH_OP* opList, std::size_t* failIdx,
                                 unsigned long long flags, CUstream hStream) {
  return cudaabi::copy_box_batch(legacy_calls, numOps, opList, failIdx, flags, hStream);
}
SOFTGPU_API cuMemcpy3DBatchAsync_ptsz(std::size_t numOps, CUDA_MEMCPY3D_BATCH_OP* opList,
                                      std::size_t* failIdx, unsigned long long flags, CUstream hStream) {
  return cudaabi::copy_box_batch(per_thread_calls, numOps, opList, failIdx, flags, hStream);
}
SOFTGPU_API cuMemcpy3DBatchAsync_v2(std::size_t numOps, CUDA_MEMCPY3D_BATCH_OP* opList,
                                    unsigned long long flags, CUstream hStream) {
  return cudaabi::copy_box_batch(legacy_calls, numOps, opList, nullptr, flags, hStream);
}
SOFTGPU_API cuMemcpy3DBatchAsync_v2_ptsz(std::size_t numOps, CUDA_MEMCPY3D_BATCH_OP* opList,
                                         unsigned long long flags, CUstream hStream) {
  return cudaabi::copy_box_batch(per_thread_calls, numOps, opList, nullptr, flags, hStream);
}
