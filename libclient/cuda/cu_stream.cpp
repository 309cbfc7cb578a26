// Streams and events: minted here, made and ended in the worker without waiting, queried here where possible.
// The ordering calls on them are generated.
#include "libclient/cuda/copy.hpp"
#include "libclient/cuda/stub_runtime.hpp"
#include "protocol/graph_node.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

constexpr std::uint64_t kLegacyStreamId = 1;  // what cuStreamGetId answers for the default streams

CUresult create_stream(CUstream* out, unsigned flags, int priority) {
  if (out == nullptr || (flags & ~static_cast<unsigned>(CU_STREAM_NON_BLOCKING)) != 0)
    return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  const DeviceReport& report = call.process().device(call.context()->device);
  // Priorities outside the range are clamped, as the driver does; lower numbers are greater priorities.
  priority = std::max(report.greatest_priority, std::min(report.least_priority, priority));
  const auto [stream, handle] = call.process().streams.create();
  if (stream == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  stream->context = call.context()->handle;
  stream->flags = flags;
  stream->priority = priority;
  stream->id = call.process().next_stream_id++;
  record::cuStreamCreate record;
  record.stream = handle;
  record.flags = flags;
  record.priority = priority;
  return hand_out(call.process().streams, handle, call.post(record), out);
}

CUresult destroy_stream(CUstream stream) {
  Call call;
  if (const CUresult result = call.enter_without_context(); result == CUDA_ERROR_NOT_INITIALIZED)
    return result;
  const Stream* const known = call.process().streams.find(bits(stream));
  const bool ended = known != nullptr && known->work.value().quiet_until(known->work_ended.value());
  if (!call.process().streams.destroy(bits(stream))) return CUDA_ERROR_INVALID_HANDLE;
  forget_capture(call.process(), bits(stream));
  if (!ended) call.process().work.orphaned.fetch_add(1, std::memory_order_acq_rel);
  if (const CUresult result = call.connection().error(); result != CUDA_SUCCESS) return result;
  record::cuStreamDestroy_v2 record;
  record.stream = bits(stream);
  return call.post(record);
}

CUresult destroy_event(CUevent event) {
  Call call;
  if (const CUresult result = call.enter_without_context(); result == CUDA_ERROR_NOT_INITIALIZED)
    return result;
  if (!call.process().events.destroy(bits(event))) return CUDA_ERROR_INVALID_HANDLE;
  if (const CUresult result = call.connection().error(); result != CUDA_SUCCESS) return result;
  record::cuEventDestroy_v2 record;
  record.event = bits(event);
  return call.post(record);
}

// What the client knows of a stream argument; the default streams have an entry of their own.
CUresult describe(CUstream stream, bool per_thread, Stream& out) {
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  const std::uint64_t handle = call.stream(stream, per_thread);
  call.adds_no_work();
  if (call.problem() != CUDA_SUCCESS) return call.problem();
  if (handle <= 1) {
    out = {.context = call.context()->handle, .flags = 0, .priority = 0, .id = kLegacyStreamId};
    return CUDA_SUCCESS;
  }
  const Stream* found = call.process().streams.find(handle);
  if (found == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  out = *found;
  return CUDA_SUCCESS;
}

CUresult synchronize_stream(CUstream stream, bool per_thread) {
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  const std::uint64_t handle = call.stream(stream, per_thread);
  call.adds_no_work();
  if (call.problem() == CUDA_SUCCESS && call.nothing_to_wait_for(false)) return CUDA_SUCCESS;
  const Call::Covered covered = call.covered();
  CUresult result = CUDA_SUCCESS;
  if (call.problem() == CUDA_SUCCESS && call.only_quiet_work()) {
    result = await_stream(call, handle);
  } else {
    result = synchronize(call, handle);
    if (result == CUDA_SUCCESS && handle > 1) call.look_at_legacy_stream();
  }
  if (result == CUDA_SUCCESS) call.ended(covered, false);
  return result;
}

CUresult query_stream(CUstream stream, bool per_thread) {
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  record::cuStreamQuery record;
  record.hStream = call.stream(stream, per_thread);
  call.adds_no_work();
  if (call.problem() == CUDA_SUCCESS && call.nothing_to_wait_for(false)) return CUDA_SUCCESS;
  return call.ask(record);
}

CUresult get_priority(CUstream stream, int* priority, bool per_thread) {
  if (priority == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Stream found;
  const CUresult result = describe(stream, per_thread, found);
  if (result == CUDA_SUCCESS) *priority = found.priority;
  return result;
}

CUresult get_flags(CUstream stream, unsigned* flags, bool per_thread) {
  if (flags == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Stream found;
  const CUresult result = describe(stream, per_thread, found);
  if (result == CUDA_SUCCESS) *flags = found.flags;
  return result;
}

CUresult get_id(CUstream stream, unsigned long long* id, bool per_thread) {
  if (id == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Stream found;
  const CUresult result = describe(stream, per_thread, found);
  if (result == CUDA_SUCCESS) *id = found.id;
  return result;
}

CUresult get_context(CUstream stream, CUcontext* context, bool per_thread) {
  if (context == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Stream found;
  const CUresult result = describe(stream, per_thread, found);
  if (result == CUDA_SUCCESS) *context = from_bits<CUcontext>(found.context);
  return result;
}

CUresult get_context_v2(CUstream stream, CUcontext* context, CUgreenCtx* green, bool per_thread) {
  if (const CUresult result = get_context(stream, context, per_thread); result != CUDA_SUCCESS) return result;
  const Context* const known = process()->contexts.find(*context);
  if (green != nullptr) *green = from_bits<CUgreenCtx>(known != nullptr ? known->green : 0);
  return CUDA_SUCCESS;
}

CUresult get_device(CUstream stream, CUdevice* device, bool per_thread) {
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Stream found;
  const CUresult result = describe(stream, per_thread, found);
  if (result != CUDA_SUCCESS) return result;
  const Context* const context = process()->contexts.find(from_bits<CUcontext>(found.context));
  *device = context != nullptr ? context->device : 0;
  return result;
}

CUresult batch_operations(CUstream stream, unsigned count, const CUstreamBatchMemOpParams* operations,
                          unsigned flags, bool per_thread) {
  // Source: cuStreamBatchMemOp, "flags: reserved for future expansion; must be 0".
  if (operations == nullptr || count == 0 || count > max_batch_operations || flags != 0)
    return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  record::cuStreamBatchMemOp_v2 record;
  record.stream = call.stream(stream, per_thread);
  record.count = count;
  record.flags = flags;
  return call.post(record, std::as_bytes(std::span(operations, count)));
}

// Managed memory is host memory that the device sees: it is attached to every stream at all times.
CUresult attach_memory(CUstream stream, CUdeviceptr pointer, bool per_thread) {
  Stream found;
  if (const CUresult result = describe(stream, per_thread, found); result != CUDA_SUCCESS) return result;
  const auto range = process()->memory.find(pointer);
  return range && range->kind == MemoryKind::managed ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

}  // namespace

/// For the export tables: a number for a stream, cuStreamGetId without a current context.
CUresult stream_id_of(CUstream stream, std::uint64_t* id) {
  unsigned long long value = 0;
  const CUresult result = get_id(stream, &value, false);
  if (result == CUDA_SUCCESS) *id = value;
  return result;
}

}  // namespace vgpu::client

using namespace vgpu::client;

VGPU_EXPORT CUresult cuStreamCreate(CUstream* phStream, unsigned int Flags) {
  return create_stream(phStream, Flags, 0);
}
VGPU_EXPORT CUresult cuStreamCreateWithPriority(CUstream* phStream, unsigned int flags, int priority) {
  return create_stream(phStream, flags, priority);
}
VGPU_EXPORT CUresult cuStreamDestroy(CUstream hStream) {
  return destroy_stream(hStream);
}
VGPU_EXPORT CUresult cuStreamDestroy_v2(CUstream hStream) {
  return destroy_stream(hStream);
}

VGPU_EXPORT CUresult cuStreamSynchronize(CUstream hStream) {
  return synchronize_stream(hStream, false);
}
VGPU_EXPORT CUresult cuStreamSynchronize_ptsz(CUstream hStream) {
  return synchronize_stream(hStream, true);
}
VGPU_EXPORT CUresult cuStreamQuery(CUstream hStream) {
  return query_stream(hStream, false);
}
VGPU_EXPORT CUresult cuStreamQuery_ptsz(CUstream hStream) {
  return query_stream(hStream, true);
}

VGPU_EXPORT CUresult cuStreamGetPriority(CUstream hStream, int* priority) {
  return get_priority(hStream, priority, false);
}
VGPU_EXPORT CUresult cuStreamGetPriority_ptsz(CUstream hStream, int* priority) {
  return get_priority(hStream, priority, true);
}
VGPU_EXPORT CUresult cuStreamGetFlags(CUstream hStream, unsigned int* flags) {
  return get_flags(hStream, flags, false);
}
VGPU_EXPORT CUresult cuStreamGetFlags_ptsz(CUstream hStream, unsigned int* flags) {
  return get_flags(hStream, flags, true);
}
VGPU_EXPORT CUresult cuStreamGetId(CUstream hStream, unsigned long long* streamId) {
  return get_id(hStream, streamId, false);
}
VGPU_EXPORT CUresult cuStreamGetId_ptsz(CUstream hStream, unsigned long long* streamId) {
  return get_id(hStream, streamId, true);
}
VGPU_EXPORT CUresult cuStreamGetCtx(CUstream hStream, CUcontext* pctx) {
  return get_context(hStream, pctx, false);
}
VGPU_EXPORT CUresult cuStreamGetCtx_ptsz(CUstream hStream, CUcontext* pctx) {
  return get_context(hStream, pctx, true);
}
VGPU_EXPORT CUresult cuStreamGetCtx_v2(CUstream hStream, CUcontext* pCtx, CUgreenCtx* pGreenCtx) {
  return get_context_v2(hStream, pCtx, pGreenCtx, false);
}
VGPU_EXPORT CUresult cuStreamGetCtx_v2_ptsz(CUstream hStream, CUcontext* pCtx, CUgreenCtx* pGreenCtx) {
  return get_context_v2(hStream, pCtx, pGreenCtx, true);
}
VGPU_EXPORT CUresult cuStreamGetDevice(CUstream hStream, CUdevice* device) {
  return get_device(hStream, device, false);
}
VGPU_EXPORT CUresult cuStreamGetDevice_ptsz(CUstream hStream, CUdevice* device) {
  return get_device(hStream, device, true);
}
VGPU_EXPORT CUresult cuStreamAttachMemAsync(CUstream hStream, CUdeviceptr dptr, size_t, unsigned int) {
  return attach_memory(hStream, dptr, false);
}
VGPU_EXPORT CUresult cuStreamAttachMemAsync_ptsz(CUstream hStream, CUdeviceptr dptr, size_t, unsigned int) {
  return attach_memory(hStream, dptr, true);
}

VGPU_EXPORT CUresult cuStreamBatchMemOp(CUstream stream, unsigned int count,
                                        CUstreamBatchMemOpParams* paramArray, unsigned int flags) {
  return batch_operations(stream, count, paramArray, flags, false);
}
VGPU_EXPORT CUresult cuStreamBatchMemOp_ptsz(CUstream stream, unsigned int count,
                                             CUstreamBatchMemOpParams* paramArray, unsigned int flags) {
  return batch_operations(stream, count, paramArray, flags, true);
}
VGPU_EXPORT CUresult cuStreamBatchMemOp_v2(CUstream stream, unsigned int count,
                                           CUstreamBatchMemOpParams* paramArray, unsigned int flags) {
  return batch_operations(stream, count, paramArray, flags, false);
}
VGPU_EXPORT CUresult cuStreamBatchMemOp_v2_ptsz(CUstream stream, unsigned int count,
                                                CUstreamBatchMemOpParams* paramArray, unsigned int flags) {
  return batch_operations(stream, count, paramArray, flags, true);
}

VGPU_EXPORT CUresult cuEventCreate(CUevent* phEvent, unsigned int Flags) {
  constexpr unsigned kKnown = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
  if (phEvent == nullptr || (Flags & ~kKnown) != 0) return CUDA_ERROR_INVALID_VALUE;
  if ((Flags & CU_EVENT_INTERPROCESS) != 0 && (Flags & CU_EVENT_DISABLE_TIMING) == 0)
    return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  const auto [event, handle] = call.process().events.create();
  if (event == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  event->context = call.context()->handle;
  event->flags = Flags;
  vgpu::record::cuEventCreate record;
  record.event = handle;
  record.flags = Flags;
  return hand_out(call.process().events, handle, call.post(record), phEvent);
}

VGPU_EXPORT CUresult cuEventDestroy(CUevent hEvent) {
  return destroy_event(hEvent);
}
VGPU_EXPORT CUresult cuEventDestroy_v2(CUevent hEvent) {
  return destroy_event(hEvent);
}
