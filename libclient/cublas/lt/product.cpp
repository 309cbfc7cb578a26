#include "libclient/cublas/lt/product.hpp"

#include <algorithm>
#include <initializer_list>
#include <utility>

namespace vgpu::cublas {
namespace {

using cudaabi::BlasActivation;
using cudaabi::BlasBatch;
using cudaabi::BlasDescriptor;
using cudaabi::BlasMatrix;

struct Ending {
  BlasActivation activation;
  bool biased;
};

std::optional<Ending> ending_of(std::uint32_t epilogue) {
  switch (epilogue) {
    case CUBLASLT_EPILOGUE_DEFAULT:
      return Ending{BlasActivation::none, false};
    case CUBLASLT_EPILOGUE_BIAS:
      return Ending{BlasActivation::none, true};
    case CUBLASLT_EPILOGUE_RELU:
      return Ending{BlasActivation::relu, false};
    case CUBLASLT_EPILOGUE_RELU_BIAS:
      return Ending{BlasActivation::relu, true};
    case CUBLASLT_EPILOGUE_GELU:
      return Ending{BlasActivation::gelu, false};
    case CUBLASLT_EPILOGUE_GELU_BIAS:
      return Ending{BlasActivation::gelu, true};
    default:
      return std::nullopt;
  }
}

struct Extent {
  std::int64_t rows, columns;
  bool operator==(const Extent&) const = default;
};

// Sizes beyond any memory become negative, which no descriptor may be.
Extent extent_of(const LayoutState& layout, bool transposed = false) {
  const auto rows = static_cast<std::int64_t>(layout.rows),
             columns = static_cast<std::int64_t>(layout.columns);
  return transposed ? Extent{columns, rows} : Extent{rows, columns};
}

struct States {
  MatmulState operation;
  LayoutState a, b, c, d;
};

std::optional<States> load_all(cublasLtMatmulDesc_t operation, const Layouts& layouts) {
  const auto what = load<MatmulState>(operation);
  const auto a = load<LayoutState>(layouts.a), b = load<LayoutState>(layouts.b),
             c = load<LayoutState>(layouts.c), d = load<LayoutState>(layouts.d);
  if (!what || !a || !b || !c || !d) return std::nullopt;
  return States{*what, *a, *b, *c, *d};
}

// True when the four matrices fit together as D = op(A) op(B) + C.
bool consistent(const States& x) {
  const Extent a = extent_of(x.a, x.operation.operation_a != CUBLAS_OP_N),
               b = extent_of(x.b, x.operation.operation_b != CUBLAS_OP_N), d = extent_of(x.d);
  if (a.rows != d.rows || b.columns != d.columns || a.columns != b.rows || extent_of(x.c) != d) return false;
  return std::ranges::all_of(std::initializer_list<const LayoutState*>{&x.a, &x.b, &x.c},
                             [&](const LayoutState* other) {
                               return other->batches == x.d.batches && other->batch_mode == x.d.batch_mode;
                             });
}

cublasStatus_t describe_bias(const MatmulState& operation, BlasDescriptor& out) {
  const auto type =
      operation.bias_type == -1 ? out.d.type : element_of(static_cast<cudaDataType>(operation.bias_type));
  if (!type) return CUBLAS_STATUS_NOT_SUPPORTED;
  out.bias.address = operation.bias;
  out.bias.stride = operation.bias_stride;
  out.bias.type = *type;
  return CUBLAS_STATUS_SUCCESS;
}

// D' = op(B)' op(A)'. The bias, an element for each of D's rows, is one for each column of D'.
void swap_operands(BlasDescriptor& d) {
  std::swap(d.a, d.b);
  std::swap(d.m, d.n);
  d.bias.to_rows = 1;
}

}  // namespace

std::optional<Factors> factors_of_mode(std::int32_t pointer_mode) {
  if (pointer_mode == CUBLASLT_POINTER_MODE_HOST) return Factors::host;
  if (pointer_mode == CUBLASLT_POINTER_MODE_DEVICE) return Factors::device;
  return std::nullopt;
}

cudaabi::BlasBatch batch_of(const LayoutState& layout) {
  return layout.batch_mode == CUBLASLT_BATCH_MODE_POINTER_ARRAY ? BlasBatch::pointers : BlasBatch::strided;
}

cublasStatus_t describe_matrix(const LayoutState& layout, bool transposed, BlasMatrix& out) {
  const auto type = element_of(static_cast<cudaDataType>(layout.type));
  if (!type || (layout.order != CUBLASLT_ORDER_COL && layout.order != CUBLASLT_ORDER_ROW))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  // A matrix by rows is its transpose by columns.
  const bool flipped = transposed != (layout.order == CUBLASLT_ORDER_ROW);
  out = {0, layout.leading, layout.stride, *type, flipped ? 1U : 0U};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t describe_product(cublasLtMatmulDesc_t operation, const Layouts& layouts, Product& out) {
  const auto states = load_all(operation, layouts);
  if (!states || !consistent(*states)) return CUBLAS_STATUS_INVALID_VALUE;
  const MatmulState& what = states->operation;
  const auto factors = factors_of_mode(what.pointer_mode);
  const auto ending = ending_of(what.epilogue);
  const auto sum = sum_type_of(static_cast<cublasComputeType_t>(what.compute));
  if (!factors || !ending || !sum || element_of(static_cast<cudaDataType>(what.scale)) != sum)
    return CUBLAS_STATUS_NOT_SUPPORTED;
  if (what.operation_a > CUBLAS_OP_C || what.operation_b > CUBLAS_OP_C || what.operation_c != CUBLAS_OP_N ||
      what.fill != CUBLAS_FILL_MODE_FULL || states->c.order != states->d.order) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  out = {};
  BlasDescriptor& d = out.descriptor;
  out.swapped = states->d.order == CUBLASLT_ORDER_ROW;
  for (const cublasStatus_t status :
       {describe_matrix(states->a, (what.operation_a != CUBLAS_OP_N) != out.swapped, d.a),
        describe_matrix(states->b, (what.operation_b != CUBLAS_OP_N) != out.swapped, d.b),
        describe_matrix(states->c, out.swapped, d.c), describe_matrix(states->d, out.swapped, d.d)}) {
    if (status != CUBLAS_STATUS_SUCCESS) return status;
  }
  const Extent result = extent_of(states->d);
  d.m = result.rows, d.n = result.columns;
  d.k = extent_of(states->a, what.operation_a != CUBLAS_OP_N).columns;
  d.batch = batch_of(states->d);
  d.batches = states->d.batches;
  d.scalar_type = *sum;
  d.activation = ending->activation;
  out.biased = ending->biased;
  out.factors = *factors;
  if (out.biased) {
    if (const cublasStatus_t status = describe_bias(what, d); status != CUBLAS_STATUS_SUCCESS) return status;
  }
  if (out.swapped) swap_operands(d);
  // An algorithm may be asked for before the bias is known; its type counts all the same.
  BlasDescriptor judged = d;
  if (out.biased) judged.bias.address = 1;
  return judge(judged);
}

}  // namespace vgpu::cublas
