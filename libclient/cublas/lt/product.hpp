// From cublasLt's descriptors to one of ours: what a product is, judged before anything of it is carried out.
// Never: follows a pointer to operands.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <optional>

#include "cudaabi/blas_extension.hpp"
#include "libclient/cublas/lt/state.hpp"
#include "libclient/cublas/operation.hpp"

namespace vgpu::cublas {

struct Layouts {
  cublasLtMatrixLayout_t a, b, c, d;
};

/// A product without the addresses of its matrices and its factors.
struct Product {
  cudaabi::BlasDescriptor descriptor;
  /// A result by rows is one by columns, transposed: its left operand is the caller's B, transposed.
  bool swapped = false;
  bool biased = false;
  Factors factors = Factors::host;
};

/// SUCCESS when the product is carried out here. INVALID_VALUE: the descriptors make no sense or contradict
/// one another; NOT_SUPPORTED: they are sensible.
cublasStatus_t describe_product(cublasLtMatmulDesc_t operation, const Layouts& layouts, Product& out);

/// A layout's matrix as our descriptors understand it, `transposed` or not. NOT_SUPPORTED for types and
/// orders that are not carried out.
cublasStatus_t describe_matrix(const LayoutState& layout, bool transposed, cudaabi::BlasMatrix& out);

/// How the matrices of a layout's batch are found.
cudaabi::BlasBatch batch_of(const LayoutState& layout);

/// Where a pointer mode says that factors are, or nothing for vectors of factors.
std::optional<Factors> factors_of_mode(std::int32_t pointer_mode);

}  // namespace vgpu::cublas
