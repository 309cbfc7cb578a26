// Contexts: current, pushed, retained and created. Only what makes, resets or ends a context goes to the
// worker.
#include <mutex>

#include "cudaabi/context_storage.hpp"
#include "libclient/cuda/stub_runtime.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

constexpr unsigned kKnownFlags = CU_CTX_SCHED_MASK | CU_CTX_MAP_HOST | CU_CTX_LMEM_RESIZE_TO_MAX |
                                 CU_CTX_COREDUMP_ENABLE | CU_CTX_USER_COREDUMP_ENABLE | CU_CTX_SYNC_MEMOPS;

CUresult check_device(CUdevice device) {
  if (process() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  return process()->has_device(device) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

// Everything that lived in a context that is gone.
void drop_contents(Process& process, std::uint64_t context) {
  const auto drop = [context](auto& table) {
    std::vector<std::uint64_t> gone;
    table.for_each([&](const auto& object, std::uint64_t handle) {
      if (object.context == context) gone.push_back(handle);
    });
    for (const std::uint64_t handle : gone) table.destroy(handle);
  };
  process.streams.for_each([&](const Stream& stream, std::uint64_t handle) {
    if (stream.context == context) forget_capture(process, handle);
  });
  drop(process.streams);
  drop(process.events);
  std::vector<std::uint64_t> modules;
  process.modules.for_each([&](const Image& image, std::uint64_t handle) {
    if (image.context == context) modules.push_back(handle);
  });
  for (const std::uint64_t module : modules) {
    std::vector<std::uint64_t> functions;
    process.functions.for_each([&](const Function& function, std::uint64_t handle) {
      if (function.owner == module) functions.push_back(handle);
    });
    for (const std::uint64_t function : functions) process.functions.destroy(function);
    process.memory.remove_owned(MemoryKind::global, module);
    process.modules.destroy(module);
  }
  process.kernels.for_each([&](Function& kernel, std::uint64_t) {
    for (auto& counterpart : kernel.counterparts) counterpart = 0;
  });
  process.memory.remove_context(context);
}

// `ending`: nobody holds it any more. Most programs end with that, so variables get their first values only
// if somebody retains it again.
CUresult reset_primary(Call& call, CUdevice device, bool ending) {
  Process& process = call.process();
  Context& primary = process.contexts.primary(device);
  if (!process.contexts.reset_primary(device)) return CUDA_SUCCESS;
  if (const CUresult result = call.on_device(device); result != CUDA_SUCCESS) return result;
  cudaabi::context_storage_drop(primary.cu());
  primary.stale = ending;
  record::cuDevicePrimaryCtxReset_v2 record;
  record.variables = ending ? 0 : 1;
  const CUresult result = call.ask(record);
  drop_contents(process, primary.handle);
  return result;
}

CUresult create_context(CUcontext* out, unsigned flags, CUdevice device, unsigned api_version) {
  if (out == nullptr || (flags & ~kKnownFlags) != 0) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult result = check_device(device); result != CUDA_SUCCESS) return result;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  Context* context = call.process().contexts.create(device, flags, api_version);
  if (context == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  record::cuCtxCreate_v4 record;
  record.index = context->index;
  record.flags = flags;
  static_cast<void>(call.on_device(device));
  if (const CUresult result = call.ask(record); result != CUDA_SUCCESS) {
    call.process().contexts.destroy(*context);
    return result;
  }
  push_context(call.thread(), context);
  *out = context->cu();
  return CUDA_SUCCESS;
}

// The context a call names: `handle`, or the current one for null.
CUresult find_context(CUcontext handle, Context*& context) {
  Process* ready = process();
  if (ready == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  context = handle != nullptr ? ready->contexts.find(handle) : this_thread().current;
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  return CUDA_SUCCESS;
}

CUresult pop_current(CUcontext* out) {
  if (process() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  Context* popped = nullptr;
  if (const CUresult result = pop_context(this_thread(), popped); result != CUDA_SUCCESS) return result;
  if (out != nullptr) *out = popped != nullptr ? popped->cu() : nullptr;
  return CUDA_SUCCESS;
}

CUresult push_current(CUcontext handle) {
  Process* ready = process();
  if (ready == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  Context* context = nullptr;
  if (handle != nullptr) {
    context = ready->contexts.find(handle);
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  }
  push_context(this_thread(), context);
  return CUDA_SUCCESS;
}

CUresult release_primary(CUdevice device) {
  if (const CUresult result = check_device(device); result != CUDA_SUCCESS) return result;
  Process& ready = *process();
  {
    // The last release ends the context: it is reset before it counts as released, so that its contents go
    // too.
    const int left = ready.contexts.retained_primary(device);
    if (left == 0) return CUDA_ERROR_INVALID_CONTEXT;
    if (left == 1) {
      Call call;
      if (call.enter_without_context() == CUDA_SUCCESS) static_cast<void>(reset_primary(call, device, true));
    }
  }
  return ready.contexts.release_primary(device) >= 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult set_primary_flags(CUdevice device, unsigned flags) {
  if (const CUresult result = check_device(device); result != CUDA_SUCCESS) return result;
  if ((flags & ~kKnownFlags) != 0) return CUDA_ERROR_INVALID_VALUE;
  process()->contexts.primary(device).flags = flags;
  return CUDA_SUCCESS;
}

CUresult reset_primary_of(CUdevice device) {
  if (const CUresult result = check_device(device); result != CUDA_SUCCESS) return result;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  return reset_primary(call, device, false);
}

CUresult destroy_context(CUcontext handle) {
  Call call;
  if (const CUresult result = call.enter_without_context(); result == CUDA_ERROR_NOT_INITIALIZED) {
    return result;
  }
  Context* context = handle != nullptr ? call.process().contexts.find(handle) : nullptr;
  // A green context's other form ends with it.
  if (context == nullptr || context->primary || context->green != 0) return CUDA_ERROR_INVALID_CONTEXT;
  cudaabi::context_storage_drop(handle);
  record::cuCtxDestroy_v2 record;
  record.index = context->index;
  const std::uint64_t gone = context->handle;
  if (call.thread().current == context) {
    Context* ignored = nullptr;
    static_cast<void>(pop_context(call.thread(), ignored));
  }
  call.process().contexts.destroy(*context);
  Call detached;
  CUresult result = detached.enter_without_context();
  if (result == CUDA_SUCCESS) result = detached.ask(record);
  drop_contents(call.process(), gone);
  return result;
}

CUresult enter_with_peer(Call& call, CUcontext handle, Context*& peer) {
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  peer = handle != nullptr ? call.process().contexts.find(handle) : nullptr;
  return peer != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

// Sends a record about an event in a context that need not be the current one.
template <class Record>
CUresult with_event(CUcontext handle, CUevent event) {
  if (handle == nullptr || event == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Context* context = nullptr;
  if (const CUresult result = find_context(handle, context); result != CUDA_SUCCESS) return result;
  push_context(this_thread(), context);
  Call call;
  CUresult result = call.enter();
  if (result == CUDA_SUCCESS && call.process().events.find(bits(event)) == nullptr)
    result = CUDA_ERROR_INVALID_HANDLE;
  if (result == CUDA_SUCCESS) {
    Record record;
    record.event = bits(event);
    result = call.ask(record);
  }
  Context* ignored = nullptr;
  static_cast<void>(pop_context(this_thread(), ignored));
  return result;
}

}  // namespace

CUresult renew_primary(Call& call, CUdevice device) {
  static std::mutex mutex;
  Context& primary = call.process().contexts.primary(device);
  if (!primary.stale) return CUDA_SUCCESS;
  // Who comes second waits until it is as new.
  const std::lock_guard lock(mutex);
  if (!primary.stale) return CUDA_SUCCESS;
  if (const CUresult result = call.on_device(device); result != CUDA_SUCCESS) return result;
  record::cuDevicePrimaryCtxReset_v2 record;
  record.variables = 1;
  const CUresult result = call.ask(record);
  if (result == CUDA_SUCCESS) primary.stale = false;
  return result;
}

}  // namespace vgpu::client

using namespace vgpu::client;

VGPU_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* pctx, CUdevice dev) {
  if (pctx == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult result = check_device(dev); result != CUDA_SUCCESS) return result;
  Contexts& contexts = process()->contexts;
  if (contexts.primary(dev).stale) {
    Call call;
    if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
    if (const CUresult result = renew_primary(call, dev); result != CUDA_SUCCESS) return result;
  }
  contexts.retain_primary(dev);
  *pctx = contexts.primary(dev).cu();
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuDevicePrimaryCtxRelease(CUdevice dev) {
  return release_primary(dev);
}
VGPU_EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice dev) {
  return release_primary(dev);
}
VGPU_EXPORT CUresult cuDevicePrimaryCtxSetFlags(CUdevice dev, unsigned int flags) {
  return set_primary_flags(dev, flags);
}
VGPU_EXPORT CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice dev, unsigned int flags) {
  return set_primary_flags(dev, flags);
}
VGPU_EXPORT CUresult cuDevicePrimaryCtxReset(CUdevice dev) {
  return reset_primary_of(dev);
}
VGPU_EXPORT CUresult cuDevicePrimaryCtxReset_v2(CUdevice dev) {
  return reset_primary_of(dev);
}

VGPU_EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int* flags, int* active) {
  if (flags == nullptr || active == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult result = check_device(dev); result != CUDA_SUCCESS) return result;
  const Context& primary = process()->contexts.primary(dev);
  *flags = primary.flags.load(std::memory_order_relaxed);
  *active = primary.live.load(std::memory_order_relaxed) ? 1 : 0;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuCtxCreate(CUcontext* pctx, unsigned int flags, CUdevice dev) {
  return create_context(pctx, flags, dev, 3010);
}
VGPU_EXPORT CUresult cuCtxCreate_v2(CUcontext* pctx, unsigned int flags, CUdevice dev) {
  return create_context(pctx, flags, dev, 3020);
}
VGPU_EXPORT CUresult cuCtxCreate_v3(CUcontext* pctx, CUexecAffinityParam*, int numParams, unsigned int flags,
                                    CUdevice dev) {
  if (numParams != 0) return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
  return create_context(pctx, flags, dev, 3021);
}
VGPU_EXPORT CUresult cuCtxCreate_v4(CUcontext* pctx, CUctxCreateParams* ctxCreateParams, unsigned int flags,
                                    CUdevice dev) {
  if (ctxCreateParams != nullptr &&
      (ctxCreateParams->numExecAffinityParams != 0 || ctxCreateParams->cigParams != nullptr)) {
    return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
  }
  return create_context(pctx, flags, dev, 3021);
}

VGPU_EXPORT CUresult cuCtxDestroy(CUcontext ctx) {
  return destroy_context(ctx);
}
VGPU_EXPORT CUresult cuCtxDestroy_v2(CUcontext ctx) {
  return destroy_context(ctx);
}
VGPU_EXPORT CUresult cuCtxPushCurrent(CUcontext ctx) {
  return push_current(ctx);
}
VGPU_EXPORT CUresult cuCtxPushCurrent_v2(CUcontext ctx) {
  return push_current(ctx);
}
VGPU_EXPORT CUresult cuCtxPopCurrent(CUcontext* pctx) {
  return pop_current(pctx);
}
VGPU_EXPORT CUresult cuCtxPopCurrent_v2(CUcontext* pctx) {
  return pop_current(pctx);
}

// Deprecated: a count on the context beside its life (cuCtxCreate counts as one).
VGPU_EXPORT CUresult cuCtxAttach(CUcontext* pctx, unsigned int flags) {
  if (pctx == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  Context* context = nullptr;
  if (const CUresult result = find_context(nullptr, context); result != CUDA_SUCCESS) return result;
  ++context->attached;
  *pctx = context->cu();
  return CUDA_SUCCESS;
}
VGPU_EXPORT CUresult cuCtxDetach(CUcontext ctx) {
  Context* context = nullptr;
  if (const CUresult result = find_context(ctx, context); result != CUDA_SUCCESS) return result;
  if (ctx == nullptr || context != this_thread().current) return CUDA_ERROR_INVALID_CONTEXT;
  if (context->attached.load() > 0) {
    --context->attached;
    return CUDA_SUCCESS;
  }
  return destroy_context(ctx);
}

VGPU_EXPORT CUresult cuCtxRecordEvent(CUcontext hCtx, CUevent hEvent) {
  return with_event<vgpu::record::cuCtxRecordEvent>(hCtx, hEvent);
}
VGPU_EXPORT CUresult cuCtxWaitEvent(CUcontext hCtx, CUevent hEvent) {
  return with_event<vgpu::record::cuCtxWaitEvent>(hCtx, hEvent);
}

VGPU_EXPORT CUresult cuCtxSetCurrent(CUcontext ctx) {
  Process* ready = process();
  if (ready == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  Context* context = nullptr;
  if (ctx != nullptr) {
    context = ready->contexts.find(ctx);
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  }
  set_context(this_thread(), context);
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuCtxGetCurrent(CUcontext* pctx) {
  if (pctx == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (process() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  const Context* context = this_thread().current;
  *pctx = context != nullptr ? context->cu() : nullptr;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuCtxGetDevice(CUdevice* device) {
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Context* context = nullptr;
  if (const CUresult result = find_context(nullptr, context); result != CUDA_SUCCESS) return result;
  *device = context->device;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuCtxGetDevice_v2(CUdevice* device, CUcontext ctx) {
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Context* context = nullptr;
  if (const CUresult result = find_context(ctx, context); result != CUDA_SUCCESS) return result;
  *device = context->device;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuCtxGetFlags(unsigned int* flags) {
  if (flags == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Context* context = nullptr;
  if (const CUresult result = find_context(nullptr, context); result != CUDA_SUCCESS) return result;
  *flags = context->flags;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuCtxSetFlags(unsigned int flags) {
  if ((flags & ~kKnownFlags) != 0) return CUDA_ERROR_INVALID_VALUE;
  Context* context = nullptr;
  if (const CUresult result = find_context(nullptr, context); result != CUDA_SUCCESS) return result;
  context->flags = flags;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuCtxGetId(CUcontext ctx, unsigned long long* ctxId) {
  if (ctxId == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Context* context = nullptr;
  if (const CUresult result = find_context(ctx, context); result != CUDA_SUCCESS) return result;
  *ctxId = context->id;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuCtxGetApiVersion(CUcontext ctx, unsigned int* version) {
  if (version == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Context* context = nullptr;
  if (const CUresult result = find_context(ctx, context); result != CUDA_SUCCESS) return result;
  *version = context->primary ? process()->device(context->device).context_api_version : context->api_version;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuCtxGetStreamPriorityRange(int* leastPriority, int* greatestPriority) {
  Context* context = nullptr;
  if (const CUresult result = find_context(nullptr, context); result != CUDA_SUCCESS) return result;
  const vgpu::DeviceReport& report = process()->device(context->device);
  if (leastPriority != nullptr) *leastPriority = report.least_priority;
  if (greatestPriority != nullptr) *greatestPriority = report.greatest_priority;
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuCtxGetExecAffinity(CUexecAffinityParam*, CUexecAffinityType) {
  return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
}

VGPU_EXPORT CUresult cuCtxEnablePeerAccess(CUcontext peerContext, unsigned int Flags) {
  Call call;
  Context* peer = nullptr;
  if (const CUresult result = enter_with_peer(call, peerContext, peer); result != CUDA_SUCCESS) return result;
  if (peer->device == call.context()->device) return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
  vgpu::record::cuCtxEnablePeerAccess record;
  record.peer = peer->index;
  record.flags = Flags;
  return call.ask(record);
}
VGPU_EXPORT CUresult cuCtxDisablePeerAccess(CUcontext peerContext) {
  Call call;
  Context* peer = nullptr;
  if (const CUresult result = enter_with_peer(call, peerContext, peer); result != CUDA_SUCCESS) return result;
  if (peer->device == call.context()->device) return CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
  vgpu::record::cuCtxDisablePeerAccess record;
  record.peer = peer->index;
  return call.ask(record);
}

VGPU_EXPORT CUresult cuCtxSynchronize() {
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  if (const CUresult result = call.unsafe_in_capture(); result != CUDA_SUCCESS) return result;
  if (call.nothing_to_wait_for(true)) return CUDA_SUCCESS;
  const Call::Covered covered = call.covered();
  vgpu::record::cuCtxSynchronize record;
  const CUresult result = call.ask(record);
  if (result == CUDA_SUCCESS) call.ended(covered, true);
  return result;
}

VGPU_EXPORT CUresult cuCtxSynchronize_v2(CUcontext ctx) {
  if (ctx == nullptr) return cuCtxSynchronize();
  Context* context = nullptr;
  if (const CUresult result = find_context(ctx, context); result != CUDA_SUCCESS) return result;
  push_context(this_thread(), context);
  const CUresult result = cuCtxSynchronize();
  Context* ignored = nullptr;
  static_cast<void>(pop_context(this_thread(), ignored));
  return result;
}
