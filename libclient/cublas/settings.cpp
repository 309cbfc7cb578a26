// cuBLAS's functions that make, unmake and describe a handle.

#include <cstdint>

#include "libclient/cublas/handle.hpp"
#include "libclient/cublas/operation.hpp"
#include "libclient/cublas/status.hpp"

namespace {

template <class T, class Field>
cublasStatus_t get(cublasHandle_t handle, Field field, T* out) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (out == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  *out = handle->*field;
  return CUBLAS_STATUS_SUCCESS;
}

template <class T, class Field>
cublasStatus_t set(cublasHandle_t handle, Field field, T value) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  handle->*field = value;
  return CUBLAS_STATUS_SUCCESS;
}

// The modes of both major versions of the library, each with the flag or without.
bool known_math_mode(cublasMath_t mode) {
  switch (static_cast<int>(mode) & ~static_cast<int>(CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)) {
    case 0:  // default
    case 1:  // tensor cores; the same as the default since version 11
    case 2:  // pedantic
    case 3:  // TF32
    case 4:  // FP32 emulated by BF16
    case 8:  // FP64 emulated by fixed point
      return true;
    default:
      return false;
  }
}

}  // namespace

CUBLAS_EXPORT cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
  return vgpu::cublas::make_handle(handle);
}

CUBLAS_EXPORT cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
  return vgpu::cublas::unmake_handle(handle);
}

CUBLAS_EXPORT cublasStatus_t cublasGetVersion_v2(cublasHandle_t, int* version) {
  if (version == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  *version = CUBLAS_VERSION;
  return CUBLAS_STATUS_SUCCESS;
}

CUBLAS_EXPORT cublasStatus_t cublasGetProperty(libraryPropertyType type, int* value) {
  return vgpu::cublas::property(type, value);
}

CUBLAS_EXPORT size_t cublasGetCudartVersion() {
  return CUDART_VERSION;
}

CUBLAS_EXPORT cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
  return set(handle, &cublasContext::stream, stream);
}
CUBLAS_EXPORT cublasStatus_t cublasGetStream_v2(cublasHandle_t handle, cudaStream_t* stream) {
  return get(handle, &cublasContext::stream, stream);
}

CUBLAS_EXPORT cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t mode) {
  if (mode != CUBLAS_POINTER_MODE_HOST && mode != CUBLAS_POINTER_MODE_DEVICE)
    return CUBLAS_STATUS_INVALID_VALUE;
  return set(handle, &cublasContext::pointer_mode, mode);
}
CUBLAS_EXPORT cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t* mode) {
  return get(handle, &cublasContext::pointer_mode, mode);
}

CUBLAS_EXPORT cublasStatus_t cublasSetAtomicsMode(cublasHandle_t handle, cublasAtomicsMode_t mode) {
  return set(handle, &cublasContext::atomics_mode, mode);
}
CUBLAS_EXPORT cublasStatus_t cublasGetAtomicsMode(cublasHandle_t handle, cublasAtomicsMode_t* mode) {
  return get(handle, &cublasContext::atomics_mode, mode);
}

// Math modes allow less exact arithmetic than is done here; they are only remembered.
CUBLAS_EXPORT cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  if (!known_math_mode(mode))
    return handle == nullptr ? CUBLAS_STATUS_NOT_INITIALIZED : CUBLAS_STATUS_INVALID_VALUE;
  return set(handle, &cublasContext::math_mode, mode);
}
CUBLAS_EXPORT cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t* mode) {
  return get(handle, &cublasContext::math_mode, mode);
}

CUBLAS_EXPORT cublasStatus_t cublasSetSmCountTarget(cublasHandle_t handle, int count) {
  return set(handle, &cublasContext::sm_count_target, count);
}
CUBLAS_EXPORT cublasStatus_t cublasGetSmCountTarget(cublasHandle_t handle, int* count) {
  return get(handle, &cublasContext::sm_count_target, count);
}

// No workspace is needed; the caller's stays unused. Its alignment is as cuBLAS documents it.
CUBLAS_EXPORT cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void* workspace, size_t) {
  constexpr std::uintptr_t alignment = 256;
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  const bool aligned = reinterpret_cast<std::uintptr_t>(workspace) % alignment == 0;
  return aligned ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

CUBLAS_EXPORT const char* cublasGetStatusName(cublasStatus_t status) {
  return vgpu::cublas::status_name(status);
}

CUBLAS_EXPORT const char* cublasGetStatusString(cublasStatus_t status) {
  return vgpu::cublas::status_text(status);
}
