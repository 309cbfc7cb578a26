// cublasLt's choice of algorithms. There is one, which does whatever is carried out here and needs no
// workspace; preferences therefore rule nothing out.

#include "libclient/cublas/lt/algorithm.hpp"

#include <array>
#include <cstddef>
#include <cstdint>

#include "libclient/cublas/handle.hpp"
#include "libclient/cublas/lt/attributes.hpp"
#include "libclient/cublas/lt/product.hpp"
#include "libclient/cublas/lt/state.hpp"

namespace {

using cudaabi::BlasElement;
using vgpu::cublas::AlgorithmState;
using vgpu::cublas::Attribute;

constexpr int only_algorithm = 0;

#define VGPU_FIELD(FIELD) sizeof(AlgorithmState::FIELD), offsetof(AlgorithmState, FIELD)
constexpr std::array settings = {
    Attribute{CUBLASLT_ALGO_CONFIG_TILE_ID, VGPU_FIELD(tile)},
    Attribute{CUBLASLT_ALGO_CONFIG_SPLITK_NUM, VGPU_FIELD(split_k)},
    Attribute{CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, VGPU_FIELD(reduction)},
    Attribute{CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, VGPU_FIELD(swizzling)},
    Attribute{CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, VGPU_FIELD(custom)},
    Attribute{CUBLASLT_ALGO_CONFIG_STAGES_ID, VGPU_FIELD(stages)},
    Attribute{CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, VGPU_FIELD(inner_shape)},
    Attribute{CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, VGPU_FIELD(cluster_shape)},
};
#undef VGPU_FIELD

std::uint64_t implementation_of(BlasElement sum, BlasElement in) {
  std::uint64_t flags = CUBLASLT_NUMERICAL_IMPL_FLAGS_FMA;
  // Half-precision sums are made in f32, too.
  flags |= sum == BlasElement::f64 ? CUBLASLT_NUMERICAL_IMPL_FLAGS_ACCUMULATOR_64F
                                   : CUBLASLT_NUMERICAL_IMPL_FLAGS_ACCUMULATOR_32F;
  switch (in) {
    case BlasElement::f32:
      return flags | CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_32F;
    case BlasElement::f16:
      return flags | CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_16F;
    case BlasElement::bf16:
      return flags | CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_16BF;
    case BlasElement::f64:
      break;
  }
  return flags | CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_64F;
}

void give_algorithm(BlasElement sum, BlasElement in, cublasLtMatmulAlgo_t& out) {
  AlgorithmState state;
  state.id = only_algorithm;
  state.implementation = implementation_of(sum, in);
  out = {};
  vgpu::cublas::store(state, &out);
}

void give_result(const vgpu::cublas::Product& product, cublasLtMatmulHeuristicResult_t& out) {
  out = {};
  give_algorithm(product.descriptor.scalar_type, product.descriptor.a.type, out.algo);
  out.state = CUBLAS_STATUS_SUCCESS;
  out.wavesCount = 1;
}

struct TypeSet {
  cublasComputeType_t compute;
  cudaDataType scale, a, b, c, d;
};

// Judges the types alone, by the smallest product of them.
cublasStatus_t check_types_of(const TypeSet& types, BlasElement& sum, BlasElement& in) {
  using vgpu::cublas::element_of;
  const auto total = vgpu::cublas::sum_type_of(types.compute);
  const auto a = element_of(types.a), b = element_of(types.b), c = element_of(types.c),
             d = element_of(types.d);
  if (!total || element_of(types.scale) != total || !a || !b || !c || !d) return CUBLAS_STATUS_NOT_SUPPORTED;
  cudaabi::BlasDescriptor smallest;
  smallest.m = smallest.n = smallest.k = 1;
  smallest.scalar_type = *total;
  smallest.a = {0, 1, 0, *a}, smallest.b = {0, 1, 0, *b}, smallest.c = {0, 1, 0, *c};
  smallest.d = {0, 1, 0, *d};
  sum = *total, in = *a;
  return vgpu::cublas::judge(smallest);
}

template <class T>
cublasStatus_t give(T value, void* out, std::size_t room, std::size_t* written) {
  return vgpu::cublas::give_value(&value, sizeof value, out, room, written);
}

// A list of choices, of which there are none.
cublasStatus_t give_nothing(std::size_t* written) {
  if (written == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  *written = 0;
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

namespace vgpu::cublas {

cublasStatus_t check_algorithm(const cublasLtMatmulAlgo_t* algorithm) {
  const auto state = load<AlgorithmState>(algorithm);
  if (!state || state->id != only_algorithm) return CUBLAS_STATUS_INVALID_VALUE;
  const AlgorithmState plain;
  const bool same = state->tile == plain.tile && state->split_k == plain.split_k &&
                    state->reduction == plain.reduction && state->swizzling == plain.swizzling &&
                    state->custom == plain.custom && state->stages == plain.stages &&
                    state->inner_shape == plain.inner_shape && state->cluster_shape == plain.cluster_shape;
  return same ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

}  // namespace vgpu::cublas

CUBLAS_EXPORT cublasStatus_t
cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                               cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                               cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference, int requested,
                               cublasLtMatmulHeuristicResult_t results[], int* returned) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (returned == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  *returned = 0;
  if (results == nullptr || requested < 1) return CUBLAS_STATUS_INVALID_VALUE;
  const auto wish = vgpu::cublas::load<vgpu::cublas::PreferenceState>(preference);
  if (!wish) return CUBLAS_STATUS_INVALID_VALUE;
  if (wish->search_mode > CUBLASLT_SEARCH_LIMITED_BY_ALGO_ID) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (wish->search_mode == CUBLASLT_SEARCH_LIMITED_BY_ALGO_ID) {
    // The caller has put the algorithm that it wants into the first result.
    const cublasStatus_t status = vgpu::cublas::check_algorithm(&results[0].algo);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
  }
  vgpu::cublas::Product product;
  const cublasStatus_t status = vgpu::cublas::describe_product(operation, {a, b, c, d}, product);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  give_result(product, results[0]);
  *returned = 1;
  return CUBLAS_STATUS_SUCCESS;
}

CUBLAS_EXPORT cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                                     cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                                     cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                                     const cublasLtMatmulAlgo_t* algorithm,
                                                     cublasLtMatmulHeuristicResult_t* result) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (result == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  vgpu::cublas::Product product;
  cublasStatus_t status = vgpu::cublas::check_algorithm(algorithm);
  if (status == CUBLAS_STATUS_SUCCESS)
    status = vgpu::cublas::describe_product(operation, {a, b, c, d}, product);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const cublasLtMatmulAlgo_t untouched = result->algo;
  give_result(product, *result);
  result->algo = untouched;
  return CUBLAS_STATUS_SUCCESS;
}

CUBLAS_EXPORT cublasStatus_t cublasLtMatmulAlgoGetIds(cublasLtHandle_t handle, cublasComputeType_t compute,
                                                      cudaDataType scale, cudaDataType a, cudaDataType b,
                                                      cudaDataType c, cudaDataType d, int requested,
                                                      int ids[], int* returned) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (returned == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  *returned = 0;
  if (ids == nullptr || requested < 1) return CUBLAS_STATUS_INVALID_VALUE;
  BlasElement sum{}, in{};
  const cublasStatus_t status = check_types_of({compute, scale, a, b, c, d}, sum, in);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  ids[0] = only_algorithm;
  *returned = 1;
  return CUBLAS_STATUS_SUCCESS;
}

CUBLAS_EXPORT cublasStatus_t cublasLtMatmulAlgoInit(cublasLtHandle_t handle, cublasComputeType_t compute,
                                                    cudaDataType scale, cudaDataType a, cudaDataType b,
                                                    cudaDataType c, cudaDataType d, int id,
                                                    cublasLtMatmulAlgo_t* algorithm) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (algorithm == nullptr || id != only_algorithm) return CUBLAS_STATUS_INVALID_VALUE;
  BlasElement sum{}, in{};
  const cublasStatus_t status = check_types_of({compute, scale, a, b, c, d}, sum, in);
  if (status == CUBLAS_STATUS_SUCCESS) give_algorithm(sum, in, *algorithm);
  return status;
}

CUBLAS_EXPORT cublasStatus_t cublasLtMatmulAlgoCapGetAttribute(const cublasLtMatmulAlgo_t* algorithm,
                                                               cublasLtMatmulAlgoCapAttributes_t attribute,
                                                               void* out, size_t room, size_t* written) {
  const auto state = vgpu::cublas::load<AlgorithmState>(algorithm);
  if (!state) return CUBLAS_STATUS_INVALID_VALUE;
  constexpr std::int32_t yes = 1, no = 0;
  switch (attribute) {
    case CUBLASLT_ALGO_CAP_TILE_IDS:
    case CUBLASLT_ALGO_CAP_STAGES_IDS:
      return give_nothing(written);
    case CUBLASLT_ALGO_CAP_STRIDED_BATCH_SUPPORT:
    case CUBLASLT_ALGO_CAP_POINTER_ARRAY_BATCH_SUPPORT:
    case CUBLASLT_ALGO_CAP_OUT_OF_PLACE_RESULT_SUPPORT:
      return give(yes, out, room, written);
    case CUBLASLT_ALGO_CAP_SPLITK_SUPPORT:
    case CUBLASLT_ALGO_CAP_REDUCTION_SCHEME_MASK:
    case CUBLASLT_ALGO_CAP_CTA_SWIZZLING_SUPPORT:
    case CUBLASLT_ALGO_CAP_UPLO_SUPPORT:
    case CUBLASLT_ALGO_CAP_CUSTOM_OPTION_MAX:
    case CUBLASLT_ALGO_CAP_CUSTOM_MEMORY_ORDER:
    case CUBLASLT_ALGO_CAP_LD_NEGATIVE:
    case CUBLASLT_ALGO_CAP_FLOATING_POINT_EMULATION_SUPPORT:
      return give(no, out, room, written);
    case CUBLASLT_ALGO_CAP_POINTER_MODE_MASK:
      return give<std::uint32_t>(CUBLASLT_POINTER_MODE_MASK_HOST | CUBLASLT_POINTER_MODE_MASK_DEVICE, out,
                                 room, written);
    case CUBLASLT_ALGO_CAP_EPILOGUE_MASK:
      return give<std::uint32_t>(CUBLASLT_EPILOGUE_DEFAULT | CUBLASLT_EPILOGUE_BIAS | CUBLASLT_EPILOGUE_RELU |
                                     CUBLASLT_EPILOGUE_GELU,
                                 out, room, written);
    case CUBLASLT_ALGO_CAP_NUMERICAL_IMPL_FLAGS:
      return give(state->implementation, out, room, written);
    case CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_D_BYTES:
      return give<std::uint32_t>(8, out, room, written);  // enough for every type
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

CUBLAS_EXPORT cublasStatus_t cublasLtMatmulAlgoConfigSetAttribute(
    cublasLtMatmulAlgo_t* algorithm, cublasLtMatmulAlgoConfigAttributes_t attribute, const void* value,
    size_t bytes) {
  auto state = vgpu::cublas::load<AlgorithmState>(algorithm);
  if (!state) return CUBLAS_STATUS_INVALID_VALUE;
  const cublasStatus_t status = vgpu::cublas::set_attribute(*state, settings, attribute, value, bytes);
  if (status == CUBLAS_STATUS_SUCCESS) vgpu::cublas::store(*state, algorithm);
  return status;
}

CUBLAS_EXPORT cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(
    const cublasLtMatmulAlgo_t* algorithm, cublasLtMatmulAlgoConfigAttributes_t attribute, void* out,
    size_t room, size_t* written) {
  const auto state = vgpu::cublas::load<AlgorithmState>(algorithm);
  if (!state) return CUBLAS_STATUS_INVALID_VALUE;
  if (attribute == CUBLASLT_ALGO_CONFIG_ID) return give(state->id, out, room, written);
  return vgpu::cublas::get_attribute(*state, settings, attribute, out, room, written);
}
