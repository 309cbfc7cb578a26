// Batches: each is its operations, one after the other in the stream. That keeps more order than a batch
// promises, and costs a record each.
#include "cudaabi/unsupported.hpp"
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

struct ValueCalls {
  decltype(&cuStreamWaitValue32_v2) wait32;
  decltype(&cuStreamWaitValue64_v2) wait64;
  decltype(&cuStreamWriteValue32_v2) write32;
  decltype(&cuStreamWriteValue64_v2) write64;
};
constexpr ValueCalls kPlain{cuStreamWaitValue32_v2, cuStreamWaitValue64_v2, cuStreamWriteValue32_v2,
                            cuStreamWriteValue64_v2};
constexpr ValueCalls kPerThread{cuStreamWaitValue32_v2_ptsz, cuStreamWaitValue64_v2_ptsz,
                                cuStreamWriteValue32_v2_ptsz, cuStreamWriteValue64_v2_ptsz};

CUresult run_batch(const ValueCalls& calls, CUstream stream, unsigned count,
                   const CUstreamBatchMemOpParams* operations, unsigned flags) {
  constexpr unsigned kMost = 256;  // as the driver documents
  if (flags != 0 || count > kMost || (operations == nullptr && count != 0)) return CUDA_ERROR_INVALID_VALUE;
  // All are looked at before the first is sent.
  for (unsigned i = 0; i < count; ++i) {
    switch (operations[i].operation) {
      case CU_STREAM_MEM_OP_WAIT_VALUE_32:
      case CU_STREAM_MEM_OP_WAIT_VALUE_64:
      case CU_STREAM_MEM_OP_WRITE_VALUE_32:
      case CU_STREAM_MEM_OP_WRITE_VALUE_64:
        break;
      case CU_STREAM_MEM_OP_BARRIER:
        if (operations[i].memoryBarrier.flags > CU_STREAM_MEMORY_BARRIER_TYPE_GPU)
          return CUDA_ERROR_INVALID_VALUE;
        break;
      case CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES:
        return static_cast<CUresult>(cudaabi::note_unsupported("flushes of remote writes"));
      default:
        return CUDA_ERROR_INVALID_VALUE;
    }
  }
  for (unsigned i = 0; i < count; ++i) {
    const auto& wait = operations[i].waitValue;
    const auto& write = operations[i].writeValue;
    CUresult result = CUDA_SUCCESS;
    switch (operations[i].operation) {
      case CU_STREAM_MEM_OP_WAIT_VALUE_32:
        result = calls.wait32(stream, wait.address, wait.value, wait.flags);
        break;
      case CU_STREAM_MEM_OP_WAIT_VALUE_64:
        result = calls.wait64(stream, wait.address, wait.value64, wait.flags);
        break;
      case CU_STREAM_MEM_OP_WRITE_VALUE_32:
        result = calls.write32(stream, write.address, write.value, write.flags);
        break;
      case CU_STREAM_MEM_OP_WRITE_VALUE_64:
        result = calls.write64(stream, write.address, write.value64, write.flags);
        break;
      default:  // a barrier: operations of their own are ordered already
        break;
    }
    if (result != CUDA_SUCCESS) return result;
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

VGPU_EXPORT CUresult cuStreamBatchMemOp_v2(CUstream stream, unsigned int count,
                                           CUstreamBatchMemOpParams* paramArray, unsigned int flags) {
  return run_batch(kPlain, stream, count, paramArray, flags);
}
VGPU_EXPORT CUresult cuStreamBatchMemOp_v2_ptsz(CUstream stream, unsigned int count,
                                                CUstreamBatchMemOpParams* paramArray, unsigned int flags) {
  return run_batch(kPerThread, stream, count, paramArray, flags);
}
