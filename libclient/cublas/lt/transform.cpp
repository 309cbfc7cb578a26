// cublasLtMatrixTransform(): a sum of two matrices, which also changes types and orders.

#include <cstdint>

#include "libclient/cublas/handle.hpp"
#include "libclient/cublas/lt/product.hpp"

namespace {

using cudaabi::BlasDescriptor;
using cudaabi::BlasMatrix;
using cudaabi::BlasScalar;
using vgpu::cublas::LayoutState;

// What one summand is in the caller's words. Without an address there is none.
struct Summand {
  const void* factor;
  const void* address;
  cublasLtMatrixLayout_t layout;
  std::int32_t operation;
};

// Describes a summand of a sum whose result is `result`; `flipped`: of the transposed sum.
cublasStatus_t describe_summand(const Summand& from, const LayoutState& result, bool flipped,
                                vgpu::cublas::Factors factors, const BlasDescriptor& sum, BlasMatrix& matrix,
                                BlasScalar& factor) {
  const auto layout = vgpu::cublas::load<LayoutState>(from.layout);
  if (!layout || !vgpu::cublas::set_factor(factors, from.factor, sum.scalar_type, factor))
    return CUBLAS_STATUS_INVALID_VALUE;
  if (from.operation > CUBLAS_OP_C) return CUBLAS_STATUS_NOT_SUPPORTED;
  const bool transposed = from.operation != CUBLAS_OP_N;
  const std::uint64_t rows = transposed ? layout->columns : layout->rows,
                      columns = transposed ? layout->rows : layout->columns;
  if (rows != result.rows || columns != result.columns || layout->batches != result.batches ||
      layout->batch_mode != result.batch_mode) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  const cublasStatus_t status = vgpu::cublas::describe_matrix(*layout, transposed != flipped, matrix);
  matrix.address = vgpu::cublas::address_of(from.address);
  return status;
}

cublasStatus_t describe_sum(cublasLtMatrixTransformDesc_t operation, const Summand& a, const Summand& b,
                            void* c, const LayoutState& result, BlasDescriptor& out) {
  const auto what = vgpu::cublas::load<vgpu::cublas::TransformState>(operation);
  if (!what || (a.address == nullptr && b.address == nullptr) || c == nullptr)
    return CUBLAS_STATUS_INVALID_VALUE;
  const auto factors = vgpu::cublas::factors_of_mode(what->pointer_mode);
  const auto scale = vgpu::cublas::element_of(static_cast<cudaDataType>(what->scale));
  if (!factors || !scale) return CUBLAS_STATUS_NOT_SUPPORTED;
  out.operation = cudaabi::BlasOperation::sum;
  out.scalar_type = *scale;
  out.batch = vgpu::cublas::batch_of(result);
  out.batches = result.batches;
  // A result by rows is one by columns, transposed, and so are its summands.
  const bool flipped = result.order == CUBLASLT_ORDER_ROW;
  out.m = static_cast<std::int64_t>(flipped ? result.columns : result.rows);
  out.n = static_cast<std::int64_t>(flipped ? result.rows : result.columns);
  cublasStatus_t status = vgpu::cublas::describe_matrix(result, flipped, out.d);
  out.d.address = vgpu::cublas::address_of(c);
  const auto take = [&](Summand from, std::int32_t transposition, BlasMatrix& matrix, BlasScalar& factor) {
    if (status != CUBLAS_STATUS_SUCCESS || from.address == nullptr) return;
    from.operation = transposition;
    status = describe_summand(from, result, flipped, *factors, out, matrix, factor);
  };
  take(a, what->operation_a, out.a, out.alpha);
  take(b, what->operation_b, out.b, out.beta);
  // What is not there has the factor zero, and any shape that fits.
  if (a.address == nullptr) out.a = out.b;
  if (b.address == nullptr) out.b = out.a;
  return status;
}

}  // namespace

CUBLAS_EXPORT cublasStatus_t cublasLtMatrixTransform(cublasLtHandle_t handle,
                                                     cublasLtMatrixTransformDesc_t operation,
                                                     const void* alpha, const void* a,
                                                     cublasLtMatrixLayout_t layout_a, const void* beta,
                                                     const void* b, cublasLtMatrixLayout_t layout_b, void* c,
                                                     cublasLtMatrixLayout_t layout_c, cudaStream_t stream) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  const auto result = vgpu::cublas::load<LayoutState>(layout_c);
  if (!result) return CUBLAS_STATUS_INVALID_VALUE;
  BlasDescriptor sum;
  const cublasStatus_t status =
      describe_sum(operation, {alpha, a, layout_a, 0}, {beta, b, layout_b, 0}, c, *result, sum);
  return status == CUBLAS_STATUS_SUCCESS ? vgpu::cublas::submit(*handle->table, stream, sum) : status;
}
