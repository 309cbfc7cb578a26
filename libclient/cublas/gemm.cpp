// The matrix products of cuBLAS: each entry point describes its operands and submits one operation. The names
// with _64 take 64-bit sizes and are otherwise the same.

#include <cstdint>

#include "libclient/cublas/handle.hpp"
#include "libclient/cublas/operation.hpp"

namespace {

using cudaabi::BlasBatch;
using cudaabi::BlasDescriptor;
using cudaabi::BlasMatrix;

// A matrix as an entry point gives it; `address` is that of the matrix, or of the array of matrices.
struct Operand {
  const void* address;
  cudaDataType type;
  std::int64_t leading;
  long long stride = 0;
  cublasOperation_t operation = CUBLAS_OP_N;
};

struct Sizes {
  std::int64_t m, n, k, batches = 1;
};

constexpr cudaDataType r32 = CUDA_R_32F, r64 = CUDA_R_64F, r16 = CUDA_R_16F;

bool describe(const Operand& operand, BlasMatrix& out) {
  const auto type = vgpu::cublas::element_of(operand.type);
  if (!type) return false;
  // On real numbers the conjugate transpose is the transpose.
  out = {vgpu::cublas::address_of(operand.address), operand.leading, operand.stride, *type,
         operand.operation == CUBLAS_OP_N ? 0U : 1U};
  return true;
}

bool valid(cublasOperation_t operation) {
  return operation >= CUBLAS_OP_N && operation <= CUBLAS_OP_C;
}

cublasStatus_t gemm(cublasHandle_t handle, Sizes sizes, const void* alpha, const Operand& a, const Operand& b,
                    const void* beta, const Operand& c, cublasComputeType_t compute,
                    BlasBatch batch = BlasBatch::strided) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (!valid(a.operation) || !valid(b.operation)) return CUBLAS_STATUS_INVALID_VALUE;
  BlasDescriptor d;
  const auto scalar = vgpu::cublas::sum_type_of(compute);
  if (!scalar || !describe(a, d.a) || !describe(b, d.b) || !describe(c, d.c))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  d.d = d.c;
  d.batch = batch;
  d.scalar_type = *scalar;
  d.m = sizes.m, d.n = sizes.n, d.k = sizes.k, d.batches = sizes.batches;
  using vgpu::cublas::set_factor;
  const auto factors = vgpu::cublas::factors_of(*handle);
  if (!set_factor(factors, alpha, *scalar, d.alpha) || !set_factor(factors, beta, *scalar, d.beta)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  return vgpu::cublas::submit(*handle->table, handle->stream, d);
}

// y = alpha op(A) x + beta y as a product of row vectors: y' = x' op(A)'. Vectors with gaps are matrices with
// one row.
cublasStatus_t gemv(cublasHandle_t handle, cublasOperation_t operation, std::int64_t m, std::int64_t n,
                    const void* alpha, const void* a, std::int64_t lda, const void* x, std::int64_t incx,
                    const void* beta, void* y, std::int64_t incy, cudaDataType type,
                    cublasComputeType_t compute) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (!valid(operation) || incx == 0 || incy == 0) return CUBLAS_STATUS_INVALID_VALUE;
  if (incx < 0 || incy < 0) return CUBLAS_STATUS_NOT_SUPPORTED;
  const bool plain = operation == CUBLAS_OP_N;
  return gemm(handle, {1, plain ? m : n, plain ? n : m}, alpha, {x, type, incx},
              {a, type, lda, 0, plain ? CUBLAS_OP_T : CUBLAS_OP_N}, beta, {y, type, incy}, compute);
}

}  // namespace

// Each family stands once, for int and for int64_t sizes.
#define VGPU_BOTH_WIDTHS(FAMILY) \
  FAMILY(, int)                  \
  FAMILY(_64, std::int64_t)

#define VGPU_GEMM(SUFFIX, INT)                                                                             \
  CUBLAS_EXPORT cublasStatus_t cublasSgemm_v2##SUFFIX(                                                     \
      cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, INT m, INT n, INT k,              \
      const float* alpha, const float* a, INT lda, const float* b, INT ldb, const float* beta, float* c,   \
      INT ldc) {                                                                                           \
    return gemm(handle, {m, n, k}, alpha, {a, r32, lda, 0, ta}, {b, r32, ldb, 0, tb}, beta, {c, r32, ldc}, \
                CUBLAS_COMPUTE_32F);                                                                       \
  }                                                                                                        \
  CUBLAS_EXPORT cublasStatus_t cublasDgemm_v2##SUFFIX(                                                     \
      cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, INT m, INT n, INT k,              \
      const double* alpha, const double* a, INT lda, const double* b, INT ldb, const double* beta,         \
      double* c, INT ldc) {                                                                                \
    return gemm(handle, {m, n, k}, alpha, {a, r64, lda, 0, ta}, {b, r64, ldb, 0, tb}, beta, {c, r64, ldc}, \
                CUBLAS_COMPUTE_64F);                                                                       \
  }                                                                                                        \
  CUBLAS_EXPORT cublasStatus_t cublasHgemm##SUFFIX(                                                        \
      cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, INT m, INT n, INT k,              \
      const __half* alpha, const __half* a, INT lda, const __half* b, INT ldb, const __half* beta,         \
      __half* c, INT ldc) {                                                                                \
    return gemm(handle, {m, n, k}, alpha, {a, r16, lda, 0, ta}, {b, r16, ldb, 0, tb}, beta, {c, r16, ldc}, \
                CUBLAS_COMPUTE_16F);                                                                       \
  }                                                                                                        \
  CUBLAS_EXPORT cublasStatus_t cublasSgemmEx##SUFFIX(                                                      \
      cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, INT m, INT n, INT k,              \
      const float* alpha, const void* a, cudaDataType type_a, INT lda, const void* b, cudaDataType type_b, \
      INT ldb, const float* beta, void* c, cudaDataType type_c, INT ldc) {                                 \
    return gemm(handle, {m, n, k}, alpha, {a, type_a, lda, 0, ta}, {b, type_b, ldb, 0, tb}, beta,          \
                {c, type_c, ldc}, CUBLAS_COMPUTE_32F);                                                     \
  }                                                                                                        \
  CUBLAS_EXPORT cublasStatus_t cublasGemmEx##SUFFIX(                                                       \
      cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, INT m, INT n, INT k,              \
      const void* alpha, const void* a, cudaDataType type_a, INT lda, const void* b, cudaDataType type_b,  \
      INT ldb, const void* beta, void* c, cudaDataType type_c, INT ldc, cublasComputeType_t compute,       \
      cublasGemmAlgo_t) {                                                                                  \
    return gemm(handle, {m, n, k}, alpha, {a, type_a, lda, 0, ta}, {b, type_b, ldb, 0, tb}, beta,          \
                {c, type_c, ldc}, compute);                                                                \
  }
VGPU_BOTH_WIDTHS(VGPU_GEMM)

#define VGPU_STRIDED(SUFFIX, INT)                                                                            \
  CUBLAS_EXPORT cublasStatus_t cublasSgemmStridedBatched##SUFFIX(                                            \
      cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, INT m, INT n, INT k,                \
      const float* alpha, const float* a, INT lda, long long stride_a, const float* b, INT ldb,              \
      long long stride_b, const float* beta, float* c, INT ldc, long long stride_c, INT batches) {           \
    return gemm(handle, {m, n, k, batches}, alpha, {a, r32, lda, stride_a, ta}, {b, r32, ldb, stride_b, tb}, \
                beta, {c, r32, ldc, stride_c}, CUBLAS_COMPUTE_32F);                                          \
  }                                                                                                          \
  CUBLAS_EXPORT cublasStatus_t cublasDgemmStridedBatched##SUFFIX(                                            \
      cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, INT m, INT n, INT k,                \
      const double* alpha, const double* a, INT lda, long long stride_a, const double* b, INT ldb,           \
      long long stride_b, const double* beta, double* c, INT ldc, long long stride_c, INT batches) {         \
    return gemm(handle, {m, n, k, batches}, alpha, {a, r64, lda, stride_a, ta}, {b, r64, ldb, stride_b, tb}, \
                beta, {c, r64, ldc, stride_c}, CUBLAS_COMPUTE_64F);                                          \
  }                                                                                                          \
  CUBLAS_EXPORT cublasStatus_t cublasGemmStridedBatchedEx##SUFFIX(                                           \
      cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, INT m, INT n, INT k,                \
      const void* alpha, const void* a, cudaDataType type_a, INT lda, long long stride_a, const void* b,     \
      cudaDataType type_b, INT ldb, long long stride_b, const void* beta, void* c, cudaDataType type_c,      \
      INT ldc, long long stride_c, INT batches, cublasComputeType_t compute, cublasGemmAlgo_t) {             \
    return gemm(handle, {m, n, k, batches}, alpha, {a, type_a, lda, stride_a, ta},                           \
                {b, type_b, ldb, stride_b, tb}, beta, {c, type_c, ldc, stride_c}, compute);                  \
  }
VGPU_BOTH_WIDTHS(VGPU_STRIDED)

#define VGPU_BATCHED(SUFFIX, INT)                                                                          \
  CUBLAS_EXPORT cublasStatus_t cublasSgemmBatched##SUFFIX(                                                 \
      cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, INT m, INT n, INT k,              \
      const float* alpha, const float* const a[], INT lda, const float* const b[], INT ldb,                \
      const float* beta, float* const c[], INT ldc, INT batches) {                                         \
    return gemm(handle, {m, n, k, batches}, alpha, {a, r32, lda, 0, ta}, {b, r32, ldb, 0, tb}, beta,       \
                {c, r32, ldc}, CUBLAS_COMPUTE_32F, BlasBatch::pointers);                                   \
  }                                                                                                        \
  CUBLAS_EXPORT cublasStatus_t cublasDgemmBatched##SUFFIX(                                                 \
      cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, INT m, INT n, INT k,              \
      const double* alpha, const double* const a[], INT lda, const double* const b[], INT ldb,             \
      const double* beta, double* const c[], INT ldc, INT batches) {                                       \
    return gemm(handle, {m, n, k, batches}, alpha, {a, r64, lda, 0, ta}, {b, r64, ldb, 0, tb}, beta,       \
                {c, r64, ldc}, CUBLAS_COMPUTE_64F, BlasBatch::pointers);                                   \
  }                                                                                                        \
  CUBLAS_EXPORT cublasStatus_t cublasGemmBatchedEx##SUFFIX(                                                \
      cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, INT m, INT n, INT k,              \
      const void* alpha, const void* const a[], cudaDataType type_a, INT lda, const void* const b[],       \
      cudaDataType type_b, INT ldb, const void* beta, void* const c[], cudaDataType type_c, INT ldc,       \
      INT batches, cublasComputeType_t compute, cublasGemmAlgo_t) {                                        \
    return gemm(handle, {m, n, k, batches}, alpha, {a, type_a, lda, 0, ta}, {b, type_b, ldb, 0, tb}, beta, \
                {c, type_c, ldc}, compute, BlasBatch::pointers);                                           \
  }
VGPU_BOTH_WIDTHS(VGPU_BATCHED)

#define VGPU_GEMV(SUFFIX, INT)                                                                              \
  CUBLAS_EXPORT cublasStatus_t cublasSgemv_v2##SUFFIX(                                                      \
      cublasHandle_t handle, cublasOperation_t operation, INT m, INT n, const float* alpha, const float* a, \
      INT lda, const float* x, INT incx, const float* beta, float* y, INT incy) {                           \
    return gemv(handle, operation, m, n, alpha, a, lda, x, incx, beta, y, incy, r32, CUBLAS_COMPUTE_32F);   \
  }                                                                                                         \
  CUBLAS_EXPORT cublasStatus_t cublasDgemv_v2##SUFFIX(                                                      \
      cublasHandle_t handle, cublasOperation_t operation, INT m, INT n, const double* alpha,                \
      const double* a, INT lda, const double* x, INT incx, const double* beta, double* y, INT incy) {       \
    return gemv(handle, operation, m, n, alpha, a, lda, x, incx, beta, y, incy, r64, CUBLAS_COMPUTE_64F);   \
  }
VGPU_BOTH_WIDTHS(VGPU_GEMV)
