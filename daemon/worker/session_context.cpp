// Contexts: the primary one and those that a program makes itself.
#include "daemon/worker/session.hpp"

namespace vgpu::worker {
namespace {
constexpr std::uint16_t max_contexts = 64;
}

CUresult Session::handle(const record::cuDevicePrimaryCtxReset_v2&, reply::cuDevicePrimaryCtxReset_v2&,
                         Tail) {
  // Everything but the context itself goes with the client's handles; the worker keeps its own retained.
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuCtxCreate_v4& record, reply::cuCtxCreate_v4&, Tail) {
  if (driver_.cuCtxCreate_v4 == nullptr) return unsupported(record.header.call);
  if (record.index == 0 || record.index >= max_contexts) return CUDA_ERROR_INVALID_VALUE;
  if (record.index < contexts_.size() && contexts_[record.index] != nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUcontext context = nullptr;
  const CUresult result = driver_.cuCtxCreate_v4(&context, nullptr, record.flags, device());
  if (result != CUDA_SUCCESS) return result;
  if (contexts_.size() <= record.index) contexts_.resize(std::size_t{record.index} + 1);
  contexts_[record.index] = context;
  // Creation made it current in this thread.
  context_index_ = record.index;
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuCtxDestroy_v2& record, reply::cuCtxDestroy_v2&, Tail) {
  if (driver_.cuCtxDestroy_v2 == nullptr) return unsupported(record.header.call);
  if (record.index == 0 || record.index >= contexts_.size() || contexts_[record.index] == nullptr) {
    return CUDA_ERROR_INVALID_CONTEXT;
  }
  const CUcontext context = contexts_[record.index];
  contexts_[record.index] = nullptr;
  if (context_index_ == record.index) {
    if (const CUresult result = switch_context(0); result != CUDA_SUCCESS) return result;
  }
  return driver_.cuCtxDestroy_v2(context);
}

CUresult Session::handle(const record::cuCtxSynchronize& record, reply::cuCtxSynchronize&, Tail) {
  if (captures_ != 0) {
    // The driver itself says what is not allowed during a capture.
    if (driver_.cuCtxSynchronize == nullptr) return unsupported(record.header.call);
    return driver_.cuCtxSynchronize();
  }
  const PendingReply pending = defer();
  when_all_done([this, pending](CUresult result) { answer(pending, result); });
  return deferred;
}

}  // namespace vgpu::worker
