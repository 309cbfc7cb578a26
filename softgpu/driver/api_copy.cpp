// cuMemcpy* and cuMemset*: every form of both, by way of copy_plan, but for the Peer forms (api_peer.cpp).
#include "softgpu/driver/api.hpp"
#include "softgpu/driver/copy_plan.hpp"
#include "softgpu/driver/graph.hpp"

using namespace softgpu;

namespace {

std::uint64_t number(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer);
}

CUresult copy_flat(CUstream stream_handle, bool blocking, std::uint64_t to, Claim to_claim,
                   std::uint64_t from, Claim from_claim, std::size_t bytes) {
  return on_stream(stream_handle, [&](Driver&, Context&, Stream& stream) {
    return copy(stream, flat_plan(to, to_claim, from, from_claim, bytes), blocking);
  });
}

CUresult copy_box(CUstream stream_handle, bool blocking, const CUDA_MEMCPY3D& params) {
  return on_stream(stream_handle, [&](Driver&, Context&, Stream& stream) -> CUresult {
    CopyPlan plan;
    if (const CUresult error = plan_of(params, plan); error != CUDA_SUCCESS) return error;
    return copy(stream, std::move(plan), blocking);
  });
}

CUresult copy_2d(CUstream stream, bool blocking, const CUDA_MEMCPY2D* params) {
  return params == nullptr ? CUDA_ERROR_INVALID_VALUE : copy_box(stream, blocking, widened(*params));
}

CUresult copy_3d(CUstream stream, bool blocking, const CUDA_MEMCPY3D* params) {
  return params == nullptr ? CUDA_ERROR_INVALID_VALUE : copy_box(stream, blocking, *params);
}

CUresult set(CUstream stream_handle, CUdeviceptr to, std::size_t pitch, std::uint32_t value,
             std::uint32_t element, std::size_t width, std::size_t height) {
  return on_stream(stream_handle, [&](Driver& driver, Context&, Stream& stream) -> CUresult {
    if (width == 0 || height == 0) return CUDA_SUCCESS;
    // Sizes whose product wraps around would pass for small ones.
    if (width > SIZE_MAX / element || (height > 1 && pitch > (SIZE_MAX - width * element) / (height - 1)))
      return CUDA_ERROR_INVALID_VALUE;
    if (to % element != 0) return CUDA_ERROR_INVALID_VALUE;
    if (height > 1 && (pitch < width * element || pitch % element != 0)) return CUDA_ERROR_INVALID_VALUE;
    if (!driver.memory.accessible(to, (height - 1) * pitch + width * element))
      return CUDA_ERROR_INVALID_VALUE;
    return enqueue(stream, MemsetWork{to, pitch, value, element, width, height});
  });
}

}  // namespace

SOFTGPU_API cuMemcpy(CUdeviceptr to, CUdeviceptr from, std::size_t n) {
  return copy_flat(legacy_default, true, to, Claim::any, from, Claim::any, n);
}
SOFTGPU_API cuMemcpy_ptds(CUdeviceptr to, CUdeviceptr from, std::size_t n) {
  return copy_flat(per_thread_default, true, to, Claim::any, from, Claim::any, n);
}
SOFTGPU_API cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, std::size_t n, CUstream s) {
  return copy_flat(s, false, to, Claim::any, from, Claim::any, n);
}
SOFTGPU_API cuMemcpyAsync_ptsz(CUdeviceptr to, CUdeviceptr from, std::size_t n, CUstream s) {
  return cuMemcpyAsync(to, from, n, per_thread(s));
}

SOFTGPU_API cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, std::size_t n) {
  return copy_flat(legacy_default, true, to, Claim::device, number(from), Claim::host, n);
}
SOFTGPU_API cuMemcpyHtoD_v2_ptds(CUdeviceptr to, const void* from, std::size_t n) {
  return copy_flat(per_thread_default, true, to, Claim::device, number(from), Claim::host, n);
}
SOFTGPU_API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, std::size_t n, CUstream s) {
  return copy_flat(s, false, to, Claim::device, number(from), Claim::host, n);
}
SOFTGPU_API cuMemcpyHtoDAsync_v2_ptsz(CUdeviceptr to, const void* from, std::size_t n, CUstream s) {
  return cuMemcpyHtoDAsync_v2(to, from, n, per_thread(s));
}

SOFTGPU_API cuMemcpyDtoH_v2(void* to, CUdeviceptr from, std::size_t n) {
  return copy_flat(legacy_default, true, number(to), Claim::host, from, Claim::device, n);
}
SOFTGPU_API cuMemcpyDtoH_v2_ptds(void* to, CUdeviceptr from, std::size_t n) {
  return copy_flat(per_thread_default, true, number(to), Claim::host, from, Claim::device, n);
}
SOFTGPU_API cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, std::size_t n, CUstream s) {
  return copy_flat(s, false, number(to), Claim::host, from, Claim::device, n);
}
SOFTGPU_API cuMemcpyDtoHAsync_v2_ptsz(void* to, CUdeviceptr from, std::size_t n, CUstream s) {
  return cuMemcpyDtoHAsync_v2(to, from, n, per_thread(s));
}

SOFTGPU_API cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, std::size_t n) {
  return copy_flat(legacy_default, true, to, Claim::device, from, Claim::device, n);
}
SOFTGPU_API cuMemcpyDtoD_v2_ptds(CUdeviceptr to, CUdeviceptr from, std::size_t n) {
  return copy_flat(per_thread_default, true, to, Claim::device, from, Claim::device, n);
}
SOFTGPU_API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, std::size_t n, CUstream s) {
  return copy_flat(s, false, to, Claim::device, from, Claim::device, n);
}
SOFTGPU_API cuMemcpyDtoDAsync_v2_ptsz(CUdeviceptr to, CUdeviceptr from, std::size_t n, CUstream s) {
  return cuMemcpyDtoDAsync_v2(to, from, n, per_thread(s));
}

SOFTGPU_API cuMemcpy2D_v2(const CUDA_MEMCPY2D* p) {
  return copy_2d(legacy_default, true, p);
}
SOFTGPU_API cuMemcpy2D_v2_ptds(const CUDA_MEMCPY2D* p) {
  return copy_2d(per_thread_default, true, p);
}
SOFTGPU_API cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D* p) {
  return copy_2d(legacy_default, true, p);
}
SOFTGPU_API cuMemcpy2DUnaligned_v2_ptds(const CUDA_MEMCPY2D* p) {
  return copy_2d(per_thread_default, true, p);
}
SOFTGPU_API cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* p, CUstream s) {
  return copy_2d(s, false, p);
}
SOFTGPU_API cuMemcpy2DAsync_v2_ptsz(const CUDA_MEMCPY2D* p, CUstream s) {
  return copy_2d(per_thread(s), false, p);
}
SOFTGPU_API cuMemcpy3D_v2(const CUDA_MEMCPY3D* p) {
  return copy_3d(legacy_default, true, p);
}
SOFTGPU_API cuMemcpy3D_v2_ptds(const CUDA_MEMCPY3D* p) {
  return copy_3d(per_thread_default, true, p);
}
SOFTGPU_API cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D* p, CUstream s) {
  return copy_3d(s, false, p);
}
SOFTGPU_API cuMemcpy3DAsync_v2_ptsz(const CUDA_MEMCPY3D* p, CUstream s) {
  return copy_3d(per_thread(s), false, p);
}

// Memsets of device memory are asynchronous in all forms.
#define SOFTGPU_MEMSET(NAME, ASYNC, NAME_2D, ASYNC_2D, TYPE, ELEMENT)                                      \
  SOFTGPU_API NAME##_v2(CUdeviceptr to, TYPE v, std::size_t n) {                                           \
    return set(legacy_default, to, 0, v, ELEMENT, n, 1);                                                   \
  }                                                                                                        \
  SOFTGPU_API NAME##_v2_ptds(CUdeviceptr to, TYPE v, std::size_t n) {                                      \
    return set(per_thread_default, to, 0, v, ELEMENT, n, 1);                                               \
  }                                                                                                        \
  SOFTGPU_API ASYNC(CUdeviceptr to, TYPE v, std::size_t n, CUstream s) {                                   \
    return set(s, to, 0, v, ELEMENT, n, 1);                                                                \
  }                                                                                                        \
  SOFTGPU_API ASYNC##_ptsz(CUdeviceptr to, TYPE v, std::size_t n, CUstream s) {                            \
    return set(per_thread(s), to, 0, v, ELEMENT, n, 1);                                                    \
  }                                                                                                        \
  SOFTGPU_API NAME_2D##_v2(CUdeviceptr to, std::size_t pitch, TYPE v, std::size_t w, std::size_t h) {      \
    return set(legacy_default, to, pitch, v, ELEMENT, w, h);                                               \
  }                                                                                                        \
  SOFTGPU_API NAME_2D##_v2_ptds(CUdeviceptr to, std::size_t pitch, TYPE v, std::size_t w, std::size_t h) { \
    return set(per_thread_default, to, pitch, v, ELEMENT, w, h);                                           \
  }                                                                                                        \
  SOFTGPU_API ASYNC_2D(CUdeviceptr to, std::size_t pitch, TYPE v, std::size_t w, std::size_t h,            \
                       CUstream s) {                                                                       \
    return set(s, to, pitch, v, ELEMENT, w, h);                                                            \
  }                                                                                                        \
  SOFTGPU_API ASYNC_2D##_ptsz(CUdeviceptr to, std::size_t pitch, TYPE v, std::size_t w, std::size_t h,     \
                              CUstream s) {                                                                \
    return set(per_thread(s), to, pitch, v, ELEMENT, w, h);                                                \
  }

SOFTGPU_MEMSET(cuMemsetD8, cuMemsetD8Async, cuMemsetD2D8, cuMemsetD2D8Async, unsigned char, 1)
SOFTGPU_MEMSET(cuMemsetD16, cuMemsetD16Async, cuMemsetD2D16, cuMemsetD2D16Async, unsigned short, 2)
SOFTGPU_MEMSET(cuMemsetD32, cuMemsetD32Async, cuMemsetD2D32, cuMemsetD2D32Async, unsigned int, 4)
