// cuCtx* and cuDevicePrimaryCtx*: contexts, the threads' stacks of current ones, limits.
#include <mutex>
#include <utility>

#include "softgpu/driver/api.hpp"
#include "softgpu/driver/graph.hpp"
#include "softgpu/driver/library.hpp"

using namespace softgpu;

namespace {

// The context of a handle, the current one for null.
Context* context_or_current(Driver& driver, CUcontext handle) {
  if (handle == nullptr) return current_context();
  return find_context(driver, handle).get();
}

constexpr unsigned known_flags = CU_CTX_FLAGS_MASK;

bool flags_valid(unsigned flags) {
  const unsigned schedule = flags & CU_CTX_SCHED_MASK;
  return (flags & ~known_flags) == 0 && (schedule & (schedule - 1)) == 0;
}

CUresult create_context(CUcontext* out, unsigned flags, CUdevice device, unsigned api_version) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (out == nullptr || !flags_valid(flags)) return CUDA_ERROR_INVALID_VALUE;
    if (!driver.has_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    auto context = std::make_shared<Context>(device, false, flags);
    context->api_version.store(api_version);
    if (!push_context(context.get())) return CUDA_ERROR_OUT_OF_MEMORY;
    *out = context->handle();
    driver.contexts.add(std::move(context));
    return CUDA_SUCCESS;
  });
}

CUresult synchronize(Context& context) {
  if (const CUresult error = refuse_in_capture(); error != CUDA_SUCCESS) return error;
  context.synchronize();
  flush_printf();
  return context.error();
}

// Runs body(Device&, Context&) with the device's primary context, one call after the other.
template <class Body>
CUresult on_primary(CUdevice ordinal, Body&& body) noexcept {
  return with_device(ordinal, [&](Driver&, Device& device) -> CUresult {
    static std::mutex mutex;
    const std::unique_lock lock(mutex);
    return body(device, device.primary);
  });
}

}  // namespace

SOFTGPU_API cuDevicePrimaryCtxRetain(CUcontext* out, CUdevice ordinal) {
  return on_primary(ordinal, [&](Device& device, Context& primary) -> CUresult {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    // Not at its end, with which most programs end.
    if (std::exchange(device.primary_ended, false)) renew_libraries(ordinal);
    device.primary_references.fetch_add(1);
    primary.alive.store(true, std::memory_order_release);
    *out = primary.handle();
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuDevicePrimaryCtxRelease_v2(CUdevice ordinal) {
  return on_primary(ordinal, [&](Device& device, Context& primary) -> CUresult {
    if (device.primary_references.load() == 0) return CUDA_ERROR_INVALID_CONTEXT;
    if (device.primary_references.fetch_sub(1) == 1) {
      primary.reset();
      primary.alive.store(false, std::memory_order_release);
      device.primary_ended = true;
    }
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuDevicePrimaryCtxRelease(CUdevice device) {
  return cuDevicePrimaryCtxRelease_v2(device);
}

SOFTGPU_API cuDevicePrimaryCtxReset_v2(CUdevice device) {
  return on_primary(device, [&](Device&, Context& primary) -> CUresult {
    // What its kernels print is written out by its end, so they are not cut short.
    primary.synchronize();
    primary.reset();
    renew_libraries(device);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuDevicePrimaryCtxReset(CUdevice device) {
  return cuDevicePrimaryCtxReset_v2(device);
}

SOFTGPU_API cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags) {
  return on_primary(device, [&](Device&, Context& primary) -> CUresult {
    if (!flags_valid(flags)) return CUDA_ERROR_INVALID_VALUE;
    primary.flags.store(flags);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned flags) {
  return cuDevicePrimaryCtxSetFlags_v2(device, flags);
}

SOFTGPU_API cuDevicePrimaryCtxGetState(CUdevice ordinal, unsigned* flags, int* active) {
  return with_device(ordinal, [&](Driver&, Device& device) -> CUresult {
    if (flags == nullptr || active == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *flags = device.primary.flags.load();
    *active = device.primary.alive.load() ? 1 : 0;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuCtxCreate_v2(CUcontext* out, unsigned flags, CUdevice device) {
  return create_context(out, flags, device, 3020);
}

SOFTGPU_API cuCtxCreate_v3(CUcontext* out, CUexecAffinityParam*, int affinities, unsigned flags,
                           CUdevice device) {
  if (affinities != 0) return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
  return create_context(out, flags, device, 11040);
}

SOFTGPU_API cuCtxCreate_v4(CUcontext* out, CUctxCreateParams* params, unsigned flags, CUdevice device) {
  if (params != nullptr && params->numExecAffinityParams != 0) return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
  if (params != nullptr && params->cigParams != nullptr) return CUDA_ERROR_NOT_SUPPORTED;
  return create_context(out, flags, device, 12050);
}

SOFTGPU_API cuCtxDestroy_v2(CUcontext handle) {
  return with_driver([&](Driver& driver) -> CUresult {
    const std::shared_ptr<Context> context = find_context(driver, handle);
    if (context == nullptr || context->primary) return CUDA_ERROR_INVALID_CONTEXT;
    if (!context->alive.exchange(false)) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    context->reset();
    if (current_context() == context.get()) pop_context();
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuCtxPushCurrent_v2(CUcontext handle) {
  return with_driver([&](Driver& driver) -> CUresult {
    const std::shared_ptr<Context> context = find_context(driver, handle);
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    return push_context(context.get()) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
  });
}

SOFTGPU_API cuCtxPopCurrent_v2(CUcontext* out) {
  return with_driver([&](Driver&) -> CUresult {
    Context* const context = pop_context();
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    if (out != nullptr) *out = context->handle();
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuCtxSetCurrent(CUcontext handle) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (handle == nullptr) {
      set_context(nullptr);
      return CUDA_SUCCESS;
    }
    const std::shared_ptr<Context> context = find_context(driver, handle);
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    // NVIDIA's runtime makes the primary context current before it retains it.
    if (!context->alive.load() && !context->primary) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    set_context(context.get());
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuCtxGetCurrent(CUcontext* out) {
  return with_driver([&](Driver&) -> CUresult {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    Context* const context = current_context();
    *out = context != nullptr ? context->handle() : nullptr;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuCtxGetDevice_v2(CUdevice* device, CUcontext handle) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const Context* const context = context_or_current(driver, handle);
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    *device = context->device;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuCtxGetDevice(CUdevice* device) {
  return cuCtxGetDevice_v2(device, nullptr);
}

SOFTGPU_API cuCtxGetFlags(unsigned* flags) {
  return with_driver([&](Driver&) -> CUresult {
    const Context* const context = current_context();
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    if (flags == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *flags = context->flags.load();
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuCtxSetFlags(unsigned flags) {
  return in_context([&](Driver&, Context& context) -> CUresult {
    if (!flags_valid(flags)) return CUDA_ERROR_INVALID_VALUE;
    context.flags.store(flags);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuCtxGetId(CUcontext handle, unsigned long long* id) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (id == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const Context* const context = context_or_current(driver, handle);
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    *id = context->id;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuCtxGetApiVersion(CUcontext handle, unsigned* version) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (version == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const Context* const context = context_or_current(driver, handle);
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    *version = 3020;  // what NVIDIA's driver answers for every context since that version
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuCtxSynchronize(void) {
  return in_context([](Driver&, Context& context) { return synchronize(context); });
}

SOFTGPU_API cuCtxSynchronize_v2(CUcontext handle) {
  if (handle == nullptr) return cuCtxSynchronize();
  return with_driver([&](Driver& driver) -> CUresult {
    const std::shared_ptr<Context> context = find_context(driver, handle);
    if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    if (const CUresult error = context_error(context.get()); error != CUDA_SUCCESS) return error;
    return synchronize(*context);
  });
}

SOFTGPU_API cuCtxGetLimit(std::size_t* value, CUlimit limit) {
  return in_context([&](Driver&, Context& context) -> CUresult {
    if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (limit < 0 || limit > CU_LIMIT_PERSISTING_L2_CACHE_SIZE) return CUDA_ERROR_UNSUPPORTED_LIMIT;
    *value = context.limits[static_cast<std::size_t>(limit)].load();
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuCtxSetLimit(CUlimit limit, std::size_t value) {
  return in_context([&](Driver&, Context& context) -> CUresult {
    if (limit < 0 || limit > CU_LIMIT_PERSISTING_L2_CACHE_SIZE) return CUDA_ERROR_UNSUPPORTED_LIMIT;
    constexpr std::size_t largest_stack = std::size_t{512} << 10;
    if (limit == CU_LIMIT_STACK_SIZE && value > largest_stack) return CUDA_ERROR_INVALID_VALUE;
    if (limit == CU_LIMIT_PERSISTING_L2_CACHE_SIZE && value != 0) return CUDA_ERROR_UNSUPPORTED_LIMIT;
    context.limits[static_cast<std::size_t>(limit)].store(value);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuCtxGetCacheConfig(CUfunc_cache* config) {
  return in_context([&](Driver&, Context& context) -> CUresult {
    if (config == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *config = static_cast<CUfunc_cache>(context.cache_config.load());
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuCtxSetCacheConfig(CUfunc_cache config) {
  return in_context([&](Driver&, Context& context) -> CUresult {
    if (config < 0 || config > CU_FUNC_CACHE_PREFER_EQUAL) return CUDA_ERROR_INVALID_VALUE;
    context.cache_config.store(config);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuCtxGetSharedMemConfig(CUsharedconfig* config) {
  return in_context([&](Driver&, Context& context) -> CUresult {
    if (config == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *config = static_cast<CUsharedconfig>(context.shared_config.load());
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuCtxSetSharedMemConfig(CUsharedconfig config) {
  return in_context([&](Driver&, Context& context) -> CUresult {
    if (config < 0 || config > CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE) return CUDA_ERROR_INVALID_VALUE;
    context.shared_config.store(config);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  return in_context([&](Driver&, Context&) -> CUresult {
    // Priorities are accepted and have no effect: one level.
    if (least != nullptr) *least = 0;
    if (greatest != nullptr) *greatest = 0;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuCtxResetPersistingL2Cache(void) {
  return in_context([](Driver&, Context&) { return CUDA_SUCCESS; });
}

SOFTGPU_API cuCtxAttach(CUcontext* out, unsigned flags) {
  return in_context([&](Driver&, Context& context) -> CUresult {
    if (out == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
    *out = context.handle();
    return CUDA_SUCCESS;
  });
}
