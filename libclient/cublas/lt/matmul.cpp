// cublasLtMatmul(): a product, described and submitted.

#include "libclient/cublas/handle.hpp"
#include "libclient/cublas/lt/algorithm.hpp"
#include "libclient/cublas/lt/product.hpp"

using cudaabi::BlasDescriptor;
using vgpu::cublas::address_of;

CUBLAS_EXPORT cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                            const void* alpha, const void* a, cublasLtMatrixLayout_t layout_a,
                                            const void* b, cublasLtMatrixLayout_t layout_b, const void* beta,
                                            const void* c, cublasLtMatrixLayout_t layout_c, void* d,
                                            cublasLtMatrixLayout_t layout_d,
                                            const cublasLtMatmulAlgo_t* algorithm, void*, size_t,
                                            cudaStream_t stream) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (a == nullptr || b == nullptr || d == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  vgpu::cublas::Product product;
  cublasStatus_t status =
      vgpu::cublas::describe_product(operation, {layout_a, layout_b, layout_c, layout_d}, product);
  if (status == CUBLAS_STATUS_SUCCESS && algorithm != nullptr)
    status = vgpu::cublas::check_algorithm(algorithm);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  BlasDescriptor& x = product.descriptor;
  if (!vgpu::cublas::set_factor(product.factors, alpha, x.scalar_type, x.alpha) ||
      !vgpu::cublas::set_factor(product.factors, beta, x.scalar_type, x.beta) ||
      (product.biased && x.bias.address == 0)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  x.a.address = address_of(product.swapped ? b : a);
  x.b.address = address_of(product.swapped ? a : b);
  x.c.address = address_of(c);
  x.d.address = address_of(d);
  if (product.factors == vgpu::cublas::Factors::host && x.beta.value == 0.0) x.c = x.d;  // C is not read
  if (x.c.address == 0) return CUBLAS_STATUS_INVALID_VALUE;
  return vgpu::cublas::submit(*handle->table, stream, x);
}
