// Matrix operations of clients that use our forwarding libcublas on a card: carried out by the card's own
// cuBLAS, which is loaded at the first of them. Not for the software GPU, whose driver library has an
// executor of its own.
#pragma once

#include <cublas_api.h>
#include <cuda.h>

#include <map>
#include <memory>
#include <span>
#include <string>
#include <tl/expected.hpp>

#include "cudaabi/blas_extension.hpp"

namespace vgpu::worker {

/// An opened cuBLAS and its handles, one a context. One thread at a time uses it.
class CardBlas {
 public:
  /// Opens the first of these libraries that loads; it stays loaded until the process ends. Give the driver
  /// library the worker uses the soname libcuda.so.1 before: cuBLAS asks for it by that name. The error is a
  /// sentence.
  static tl::expected<std::unique_ptr<CardBlas>, std::string> open(std::span<const std::string> candidates);
  /// Where cuBLAS is looked for: the loader's path, then the CUDA Toolkit's usual folder; newest first.
  static std::span<const std::string> usual_places();
  ~CardBlas();
  CardBlas(const CardBlas&) = delete;
  CardBlas& operator=(const CardBlas&) = delete;

  /// Puts the operation into a stream of the current context. Checks every field of the descriptor, which may
  /// come from anyone: INVALID_VALUE, NOT_SUPPORTED, OUT_OF_MEMORY, or LAUNCH_FAILED. A product with a bias,
  /// an activation function or a C besides the result is NOT_SUPPORTED, as is a sum: cuBLAS has none
  /// such in every type.
  CUresult enqueue(CUcontext context, CUstream stream, const cudaabi::BlasDescriptor& descriptor);
  /// The context is about to be destroyed, and with it what cuBLAS keeps there.
  void forget(CUcontext context) { handles_.erase(context); }

 private:
  struct Functions {
    decltype(&cublasCreate_v2) create = nullptr;
    decltype(&cublasDestroy_v2) destroy = nullptr;
    decltype(&cublasSetStream_v2) set_stream = nullptr;
    decltype(&cublasSetPointerMode_v2) set_pointer_mode = nullptr;
    // The header overloads these two for C++; these are the exported ones.
    cublasStatus_t (*gemm_strided)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int m, int n, int k,
                                   const void* alpha, const void* a, cudaDataType, int lda,
                                   long long stride_a, const void* b, cudaDataType, int ldb,
                                   long long stride_b, const void* beta, void* c, cudaDataType, int ldc,
                                   long long stride_c, int batches, cublasComputeType_t,
                                   cublasGemmAlgo_t) = nullptr;
    cublasStatus_t (*gemm_pointers)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int m, int n, int k,
                                    const void* alpha, const void* const a[], cudaDataType, int lda,
                                    const void* const b[], cudaDataType, int ldb, const void* beta,
                                    void* const c[], cudaDataType, int ldc, int batches, cublasComputeType_t,
                                    cublasGemmAlgo_t) = nullptr;
    decltype(&cublasStrsm_v2) strsm = nullptr;
    decltype(&cublasDtrsm_v2) dtrsm = nullptr;
    decltype(&cublasStrsmBatched) strsm_batched = nullptr;
    decltype(&cublasDtrsmBatched) dtrsm_batched = nullptr;
  };

  CardBlas() = default;
  bool resolve(void* library);
  cublasStatus_t handle_for(CUcontext context, cublasHandle_t& handle);
  cublasStatus_t gemm(cublasHandle_t handle, const cudaabi::BlasDescriptor& d, const void* alpha,
                      const void* beta) const;
  cublasStatus_t trsm(cublasHandle_t handle, const cudaabi::BlasDescriptor& d, const void* alpha) const;

  Functions f_;
  std::map<CUcontext, cublasHandle_t> handles_;
};

}  // namespace vgpu::worker
