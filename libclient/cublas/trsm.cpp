// The triangular solves of cuBLAS: single and in batches of pointers.

#include <cstdint>

#include "libclient/cublas/handle.hpp"
#include "libclient/cublas/operation.hpp"

namespace {

using cudaabi::BlasBatch;
using cudaabi::BlasDescriptor;
using cudaabi::BlasElement;

// How the triangle is to be understood.
struct Triangle {
  cublasSideMode_t side;
  cublasFillMode_t fill;
  cublasOperation_t operation;
  cublasDiagType_t diagonal;

  bool valid() const {
    return (side == CUBLAS_SIDE_LEFT || side == CUBLAS_SIDE_RIGHT) &&
           (fill == CUBLAS_FILL_MODE_LOWER || fill == CUBLAS_FILL_MODE_UPPER) && operation >= CUBLAS_OP_N &&
           operation <= CUBLAS_OP_C && (diagonal == CUBLAS_DIAG_UNIT || diagonal == CUBLAS_DIAG_NON_UNIT);
  }
};

struct Matrix {
  const void* address;
  std::int64_t leading;
};

cublasStatus_t trsm(cublasHandle_t handle, const Triangle& triangle, std::int64_t m, std::int64_t n,
                    const void* alpha, Matrix a, Matrix b, std::int64_t batches, BlasElement type,
                    BlasBatch batch) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (!triangle.valid()) return CUBLAS_STATUS_INVALID_VALUE;
  BlasDescriptor d;
  d.operation = cudaabi::BlasOperation::trsm;
  d.batch = batch;
  d.scalar_type = type;
  d.right_side = triangle.side == CUBLAS_SIDE_RIGHT ? 1 : 0;
  d.upper = triangle.fill == CUBLAS_FILL_MODE_UPPER ? 1 : 0;
  d.unit_diagonal = triangle.diagonal == CUBLAS_DIAG_UNIT ? 1 : 0;
  d.m = m, d.n = n, d.batches = batches;
  const std::uint32_t transpose = triangle.operation == CUBLAS_OP_N ? 0 : 1;
  d.a = {vgpu::cublas::address_of(a.address), a.leading, 0, type, transpose};
  d.b = {vgpu::cublas::address_of(b.address), b.leading, 0, type};
  if (!vgpu::cublas::set_factor(vgpu::cublas::factors_of(*handle), alpha, type, d.alpha))
    return CUBLAS_STATUS_INVALID_VALUE;
  return vgpu::cublas::submit(*handle->table, handle->stream, d);
}

}  // namespace

// NOLINTBEGIN(bugprone-macro-parentheses): REAL is a type
#define VGPU_TRSM(LETTER, REAL, TYPE, SUFFIX, INT)                                                         \
  CUBLAS_EXPORT cublasStatus_t cublas##LETTER##trsm_v2##SUFFIX(                                            \
      cublasHandle_t handle, cublasSideMode_t side, cublasFillMode_t fill, cublasOperation_t operation,    \
      cublasDiagType_t diagonal, INT m, INT n, const REAL* alpha, const REAL* a, INT lda, REAL* b,         \
      INT ldb) {                                                                                           \
    return trsm(handle, {side, fill, operation, diagonal}, m, n, alpha, {a, lda}, {b, ldb}, 1, TYPE,       \
                BlasBatch::strided);                                                                       \
  }                                                                                                        \
  CUBLAS_EXPORT cublasStatus_t cublas##LETTER##trsmBatched##SUFFIX(                                        \
      cublasHandle_t handle, cublasSideMode_t side, cublasFillMode_t fill, cublasOperation_t operation,    \
      cublasDiagType_t diagonal, INT m, INT n, const REAL* alpha, const REAL* const a[], INT lda,          \
      REAL* const b[], INT ldb, INT batches) {                                                             \
    return trsm(handle, {side, fill, operation, diagonal}, m, n, alpha, {a, lda}, {b, ldb}, batches, TYPE, \
                BlasBatch::pointers);                                                                      \
  }

VGPU_TRSM(S, float, BlasElement::f32, , int)
VGPU_TRSM(S, float, BlasElement::f32, _64, std::int64_t)
VGPU_TRSM(D, double, BlasElement::f64, , int)
VGPU_TRSM(D, double, BlasElement::f64, _64, std::int64_t)
// NOLINTEND(bugprone-macro-parentheses)
