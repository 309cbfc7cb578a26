// How every exported driver function begins: no exception leaves it, the driver is initialised, a context
// current.
#pragma once

#include <cuda.h>

#include <new>
#include <utility>

#include "softgpu/driver/driver.hpp"

#define SOFTGPU_API extern "C" __attribute__((visibility("default"))) CUresult

namespace softgpu {

template <class Body>
CUresult guarded(Body&& body) noexcept {
  try {
    return std::forward<Body>(body)();
  } catch (const std::bad_alloc&) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  } catch (...) {
    return CUDA_ERROR_UNKNOWN;
  }
}

/// Runs body(Driver&) after cuInit.
template <class Body>
CUresult with_driver(Body&& body) noexcept {
  return guarded([&]() -> CUresult {
    if (const CUresult error = require_driver(); error != CUDA_SUCCESS) return error;
    return std::forward<Body>(body)(Driver::get());
  });
}

/// Runs body(Driver&, Device&) with the device of an ordinal.
template <class Body>
CUresult with_device(CUdevice ordinal, Body&& body) noexcept {
  return with_driver([&](Driver& driver) -> CUresult {
    if (!driver.has_device(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
    return std::forward<Body>(body)(driver, driver.device(ordinal));
  });
}

/// Error of the calling thread's context: none, destroyed, or its sticky error.
inline CUresult context_error(const Context* context) {
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (!context->alive.load(std::memory_order_acquire)) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  const CUresult error = context->error();
  // What kernels wrote before a fault is out when a call has told it.
  if (error != CUDA_SUCCESS) flush_printf();
  return error;
}

/// Runs body(Driver&, Context&) with the current context, which is alive and has no sticky error.
template <class Body>
CUresult in_context(Body&& body) noexcept {
  return with_driver([&](Driver& driver) -> CUresult {
    Context* const context = current_context();
    if (const CUresult error = context_error(context); error != CUDA_SUCCESS) return error;
    return std::forward<Body>(body)(driver, *context);
  });
}

/// The stream of a handle, in the current context for the default streams; nullptr for an unknown handle.
inline std::shared_ptr<Stream> find_stream(Driver& driver, Context& context, CUstream handle) {
  if (handle == nullptr || handle == CU_STREAM_LEGACY) return context.legacy_stream();
  if (handle == CU_STREAM_PER_THREAD) return context.per_thread_stream();
  return driver.streams.find(handle);
}

/// Runs body(Driver&, Context&, Stream&) with the current context and the stream of `handle`; the context
/// given is the stream's.
template <class Body>
CUresult on_stream(CUstream handle, Body&& body) noexcept {
  return in_context([&](Driver& driver, Context& current) -> CUresult {
    const std::shared_ptr<Stream> stream = find_stream(driver, current, handle);
    if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (&stream->context != &current) {
      if (const CUresult error = context_error(&stream->context); error != CUDA_SUCCESS) return error;
    }
    return std::forward<Body>(body)(driver, stream->context, *stream);
  });
}

/// What CUDA says of a failed memory request.
inline CUresult error_of(MemoryError error) {
  return error == MemoryError::out_of_memory ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_INVALID_VALUE;
}

/// Stream 0 as the plain calls mean it, and as the per-thread forms (_ptds) do.
inline constexpr CUstream legacy_default = nullptr;
inline const CUstream per_thread_default = CU_STREAM_PER_THREAD;

/// Stream 0 as the per-thread variants (_ptsz, _ptds) mean it.
inline CUstream per_thread(CUstream stream) {
  return stream == nullptr ? CU_STREAM_PER_THREAD : stream;
}

}  // namespace softgpu
