// A cuBLAS handle of ours: settings, and the way to the driver library's matrix operations. State lives here,
// in the client; an operation is one message. Never: computes, or keeps results.
#pragma once

#include <cublas_api.h>

#include "cudaabi/blas_extension.hpp"

#define CUBLAS_EXPORT extern "C" __attribute__((visibility("default")))

/// What cublasHandle_t points to. As in cuBLAS, one thread at a time uses a handle.
struct cublasContext {
  const cudaabi::BlasTable* table = nullptr;
  cudaStream_t stream = nullptr;
  cublasPointerMode_t pointer_mode = CUBLAS_POINTER_MODE_HOST;
  cublasAtomicsMode_t atomics_mode = CUBLAS_ATOMICS_NOT_ALLOWED;
  cublasMath_t math_mode = CUBLAS_DEFAULT_MATH;
  int sm_count_target = 0;
};

namespace vgpu::cublas {

/// The matrix operations of the process's libcuda.so.1, or nullptr if that has none. Makes the first device's
/// primary context current if the thread has no context, as cuBLAS does.
const cudaabi::BlasTable* driver_table();

/// Puts the operation into the handle's stream, after judging it: NOT_SUPPORTED, INVALID_VALUE, or
/// EXECUTION_FAILED when the driver refuses. An operation without elements is a success.
cublasStatus_t submit(const cublasContext& handle, const cudaabi::BlasDescriptor& descriptor);

/// Sets a factor from the caller's pointer: read now, or by the device when the operation runs, as the handle
/// says. False for a null pointer.
bool set_factor(const cublasContext& handle, const void* from, cudaabi::BlasElement type,
                cudaabi::BlasScalar& out);

}  // namespace vgpu::cublas
