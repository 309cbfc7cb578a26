// A cuBLAS handle of ours: settings only. State lives here, in the client; an operation is one message
// (operation.hpp). Never: computes, or keeps results.
#pragma once

#include <cublas_api.h>

#include <new>

#include "cudaabi/blas_extension.hpp"
#include "libclient/cublas/operation.hpp"

#define CUBLAS_EXPORT extern "C" __attribute__((visibility("default")))

/// What cublasLtHandle_t points to. Programs may give a cublasHandle_t in its place.
struct cublasLtContext {
  const cudaabi::BlasTable* table = nullptr;
};

/// What cublasHandle_t points to. As in cuBLAS, one thread at a time uses a handle.
struct cublasContext : cublasLtContext {
  cudaStream_t stream = nullptr;
  cublasPointerMode_t pointer_mode = CUBLAS_POINTER_MODE_HOST;
  cublasAtomicsMode_t atomics_mode = CUBLAS_ATOMICS_NOT_ALLOWED;
  cublasMath_t math_mode = CUBLAS_DEFAULT_MATH;
  int sm_count_target = 0;
};

namespace vgpu::cublas {

/// Makes a handle of either library: a cublasContext or a cublasLtContext.
template <class Context>
cublasStatus_t make_handle(Context** handle) {
  if (handle == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  *handle = nullptr;
  const cudaabi::BlasTable* table = driver_table();
  if (table == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  auto* made = new (std::nothrow) Context;
  if (made == nullptr) return CUBLAS_STATUS_ALLOC_FAILED;
  made->table = table;
  *handle = made;
  return CUBLAS_STATUS_SUCCESS;
}

template <class Context>
cublasStatus_t unmake_handle(Context* handle) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

inline Factors factors_of(const cublasContext& handle) {
  return handle.pointer_mode == CUBLAS_POINTER_MODE_DEVICE ? Factors::device : Factors::host;
}

}  // namespace vgpu::cublas
