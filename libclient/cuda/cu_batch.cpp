// Batches of copies: each is its copies, one after the other in the stream, a record each.
#include "cudaabi/copy_batch.hpp"
#include "libclient/cuda/stub_runtime.hpp"

namespace {

constexpr cudaabi::CopyCalls kLegacy{cuMemcpyAsync, cuMemcpy3DAsync_v2, cuArray3DGetDescriptor_v2,
                                     cuStreamSynchronize};
constexpr cudaabi::CopyCalls kPerThread{cuMemcpyAsync_ptsz, cuMemcpy3DAsync_v2_ptsz,
                                        cuArray3DGetDescriptor_v2, cuStreamSynchronize_ptsz};

}  // namespace

VGPU_EXPORT CUresult cuMemcpyBatchAsync(CUdeviceptr* dsts, CUdeviceptr* srcs, std::size_t* sizes,
                                        std::size_t count, CUmemcpyAttributes* attrs, std::size_t* attrsIdxs,
                                        std::size_t numAttrs, std::size_t* failIdx, CUstream hStream) {
  return cudaabi::copy_batch(kLegacy, {dsts, srcs, sizes, count, {attrs, attrsIdxs, numAttrs}}, failIdx,
                             hStream);
}
VGPU_EXPORT CUresult cuMemcpyBatchAsync_ptsz(CUdeviceptr* dsts, CUdeviceptr* srcs, std::size_t* sizes,
                                             std::size_t count, CUmemcpyAttributes* attrs,
                                             std::size_t* attrsIdxs, std::size_t numAttrs,
                                             std::size_t* failIdx, CUstream hStream) {
  return cudaabi::copy_batch(kPerThread, {dsts, srcs, sizes, count, {attrs, attrsIdxs, numAttrs}}, failIdx,
                             hStream);
}
VGPU_EXPORT CUresult cuMemcpyBatchAsync_v2(CUdeviceptr* dsts, CUdeviceptr* srcs, std::size_t* sizes,
                                           std::size_t count, CUmemcpyAttributes* attrs,
                                           std::size_t* attrsIdxs, std::size_t numAttrs, CUstream hStream) {
  return cudaabi::copy_batch(kLegacy, {dsts, srcs, sizes, count, {attrs, attrsIdxs, numAttrs}}, nullptr,
                             hStream);
}
VGPU_EXPORT CUresult cuMemcpyBatchAsync_v2_ptsz(CUdeviceptr* dsts, CUdeviceptr* srcs, std::size_t* sizes,
                                                std::size_t count, CUmemcpyAttributes* attrs,
                                                std::size_t* attrsIdxs, std::size_t numAttrs,
                                                CUstream hStream) {
  return cudaabi::copy_batch(kPerThread, {dsts, srcs, sizes, count, {attrs, attrsIdxs, numAttrs}}, nullptr,
                             hStream);
}
VGPU_EXPORT CUresult cuMemcpy3DBatchAsync(std::size_t numOps, CUDA_MEMCPY3D_BATCH_OP* opList,
                                          std::size_t* failIdx, unsigned long long flags, CUstream hStream) {
  return cudaabi::copy_box_batch(kLegacy, numOps, opList, failIdx, flags, hStream);
}
VGPU_EXPORT CUresult cuMemcpy3DBatchAsync_ptsz(std::size_t numOps, CUDA_MEMCPY3D_BATCH_OP* opList,
                                               std::size_t* failIdx, unsigned long long flags,
                                               CUstream hStream) {
  return cudaabi::copy_box_batch(kPerThread, numOps, opList, failIdx, flags, hStream);
}
VGPU_EXPORT CUresult cuMemcpy3DBatchAsync_v2(std::size_t numOps, CUDA_MEMCPY3D_BATCH_OP* opList,
                                             unsigned long long flags, CUstream hStream) {
  return cudaabi::copy_box_batch(kLegacy, numOps, opList, nullptr, flags, hStream);
}
VGPU_EXPORT CUresult cuMemcpy3DBatchAsync_v2_ptsz(std::size_t numOps, CUDA_MEMCPY3D_BATCH_OP* opList,
                                                  unsigned long long flags, CUstream hStream) {
  return cudaabi::copy_box_batch(kPerThread, numOps, opList, nullptr, flags, hStream);
}
