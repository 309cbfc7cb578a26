// cublasLt's descriptors of products, layouts, preferences and transforms: made, unmade, their attributes.

#include <array>
#include <cstddef>
#include <cstdint>
#include <new>
#include <span>

#include "libclient/cublas/handle.hpp"
#include "libclient/cublas/lt/attributes.hpp"
#include "libclient/cublas/lt/state.hpp"

namespace {

using vgpu::cublas::Attribute;
using vgpu::cublas::LayoutState;
using vgpu::cublas::MatmulState;
using vgpu::cublas::PreferenceState;
using vgpu::cublas::TransformState;

#define VGPU_FIELD(STATE, FIELD) sizeof(STATE::FIELD), offsetof(STATE, FIELD)

// Scale factors, auxiliary buffers, largest values and emulation are for operations that are not carried out.
constexpr std::array matmul_attributes = {
    Attribute{CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, VGPU_FIELD(MatmulState, compute)},
    Attribute{CUBLASLT_MATMUL_DESC_SCALE_TYPE, VGPU_FIELD(MatmulState, scale)},
    Attribute{CUBLASLT_MATMUL_DESC_POINTER_MODE, VGPU_FIELD(MatmulState, pointer_mode)},
    Attribute{CUBLASLT_MATMUL_DESC_TRANSA, VGPU_FIELD(MatmulState, operation_a)},
    Attribute{CUBLASLT_MATMUL_DESC_TRANSB, VGPU_FIELD(MatmulState, operation_b)},
    Attribute{CUBLASLT_MATMUL_DESC_TRANSC, VGPU_FIELD(MatmulState, operation_c)},
    Attribute{CUBLASLT_MATMUL_DESC_FILL_MODE, VGPU_FIELD(MatmulState, fill)},
    Attribute{CUBLASLT_MATMUL_DESC_EPILOGUE, VGPU_FIELD(MatmulState, epilogue)},
    Attribute{CUBLASLT_MATMUL_DESC_BIAS_POINTER, VGPU_FIELD(MatmulState, bias)},
    Attribute{CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, VGPU_FIELD(MatmulState, bias_stride)},
    Attribute{CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, VGPU_FIELD(MatmulState, bias_type)},
    Attribute{CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, VGPU_FIELD(MatmulState, sm_count_target)},
    Attribute{CUBLASLT_MATMUL_DESC_FAST_ACCUM, VGPU_FIELD(MatmulState, fast_sums)},
    Attribute{CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, 8},
    Attribute{CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, 8},
    Attribute{CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, 8},
    Attribute{CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, 4, Attribute::none, 0xff},
    Attribute{CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_SCALE_POINTER, 8},
    Attribute{CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_AMAX_POINTER, 8},
    Attribute{CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_SCALE_MODE, 4},
    Attribute{CUBLASLT_MATMUL_DESC_ALPHA_VECTOR_BATCH_STRIDE, 8},
    Attribute{CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, 8},
    Attribute{CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, 8},
    Attribute{CUBLASLT_MATMUL_DESC_C_SCALE_POINTER, 8},
    Attribute{CUBLASLT_MATMUL_DESC_D_SCALE_POINTER, 8},
    Attribute{CUBLASLT_MATMUL_DESC_AMAX_D_POINTER, 8},
    Attribute{CUBLASLT_MATMUL_DESC_A_SCALE_MODE, 4},
    Attribute{CUBLASLT_MATMUL_DESC_B_SCALE_MODE, 4},
    Attribute{CUBLASLT_MATMUL_DESC_C_SCALE_MODE, 4},
    Attribute{CUBLASLT_MATMUL_DESC_D_SCALE_MODE, 4},
    Attribute{CUBLASLT_MATMUL_DESC_D_OUT_SCALE_POINTER, 8},
    Attribute{CUBLASLT_MATMUL_DESC_D_OUT_SCALE_MODE, 4},
    Attribute{CUBLASLT_MATMUL_DESC_EMULATION_DESCRIPTOR, 8},
};

constexpr std::array layout_attributes = {
    Attribute{CUBLASLT_MATRIX_LAYOUT_TYPE, VGPU_FIELD(LayoutState, type)},
    Attribute{CUBLASLT_MATRIX_LAYOUT_ORDER, VGPU_FIELD(LayoutState, order)},
    Attribute{CUBLASLT_MATRIX_LAYOUT_ROWS, VGPU_FIELD(LayoutState, rows)},
    Attribute{CUBLASLT_MATRIX_LAYOUT_COLS, VGPU_FIELD(LayoutState, columns)},
    Attribute{CUBLASLT_MATRIX_LAYOUT_LD, VGPU_FIELD(LayoutState, leading)},
    Attribute{CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, VGPU_FIELD(LayoutState, batches)},
    Attribute{CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, VGPU_FIELD(LayoutState, stride)},
    Attribute{CUBLASLT_MATRIX_LAYOUT_BATCH_MODE, VGPU_FIELD(LayoutState, batch_mode)},
    Attribute{CUBLASLT_MATRIX_LAYOUT_PLANE_OFFSET, 8},
};

constexpr std::array preference_attributes = {
    Attribute{CUBLASLT_MATMUL_PREF_SEARCH_MODE, VGPU_FIELD(PreferenceState, search_mode)},
    Attribute{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, VGPU_FIELD(PreferenceState, workspace)},
    Attribute{CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, VGPU_FIELD(PreferenceState, reductions)},
    Attribute{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, VGPU_FIELD(PreferenceState, alignment_a)},
    Attribute{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, VGPU_FIELD(PreferenceState, alignment_b)},
    Attribute{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, VGPU_FIELD(PreferenceState, alignment_c)},
    Attribute{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, VGPU_FIELD(PreferenceState, alignment_d)},
    Attribute{CUBLASLT_MATMUL_PREF_MAX_WAVES_COUNT, VGPU_FIELD(PreferenceState, waves)},
    Attribute{CUBLASLT_MATMUL_PREF_IMPL_MASK, VGPU_FIELD(PreferenceState, implementations)},
};

constexpr std::array transform_attributes = {
    Attribute{CUBLASLT_MATRIX_TRANSFORM_DESC_SCALE_TYPE, VGPU_FIELD(TransformState, scale)},
    Attribute{CUBLASLT_MATRIX_TRANSFORM_DESC_POINTER_MODE, VGPU_FIELD(TransformState, pointer_mode)},
    Attribute{CUBLASLT_MATRIX_TRANSFORM_DESC_TRANSA, VGPU_FIELD(TransformState, operation_a)},
    Attribute{CUBLASLT_MATRIX_TRANSFORM_DESC_TRANSB, VGPU_FIELD(TransformState, operation_b)},
};

#undef VGPU_FIELD

constexpr bool within(std::int32_t value, std::int32_t first, std::int32_t last) {
  return value >= first && value <= last;
}
constexpr bool is_type(std::int32_t value) {
  return within(value, 0, CUDA_R_4F_E2M1);
}
constexpr bool is_operation(std::int32_t value) {
  return within(value, CUBLAS_OP_N, CUBLAS_OP_CONJG);
}
constexpr bool is_pointer_mode(std::int32_t value) {
  return within(value, CUBLASLT_POINTER_MODE_HOST, CUBLASLT_POINTER_MODE_ALPHA_DEVICE_VECTOR_BETA_HOST);
}

// No state that fails these comes into a descriptor. What is merely not carried out passes.
bool makes_sense(const MatmulState& x) {
  return within(x.compute, CUBLAS_COMPUTE_16F, CUBLAS_COMPUTE_64F_EMULATED_FIXEDPOINT) && is_type(x.scale) &&
         is_pointer_mode(x.pointer_mode) && is_operation(x.operation_a) && is_operation(x.operation_b) &&
         is_operation(x.operation_c) && within(x.fill, CUBLAS_FILL_MODE_LOWER, CUBLAS_FILL_MODE_FULL) &&
         x.epilogue != 0 && x.epilogue < 2 * CUBLASLT_EPILOGUE_BGRADB &&
         (x.bias_type == -1 || is_type(x.bias_type));
}
bool makes_sense(const LayoutState& x) {
  return is_type(x.type) && within(x.order, CUBLASLT_ORDER_COL, CUBLASLT_ORDER_COL32_2R_4R4) &&
         x.batches >= 1 && x.batch_mode <= CUBLASLT_BATCH_MODE_POINTER_ARRAY;
}
bool makes_sense(const PreferenceState& x) {
  return x.search_mode <= CUBLASLT_SEARCH_RESERVED_09;
}
bool makes_sense(const TransformState& x) {
  return is_type(x.scale) && is_pointer_mode(x.pointer_mode) && is_operation(x.operation_a) &&
         is_operation(x.operation_b);
}

// In memory of the caller's, `size` bytes of it.
template <class State, class Opaque>
cublasStatus_t set_up(const State& state, Opaque* into, std::size_t size) {
  if (into == nullptr || size < sizeof state || !makes_sense(state)) return CUBLAS_STATUS_INVALID_VALUE;
  vgpu::cublas::store(state, into);
  return CUBLAS_STATUS_SUCCESS;
}

template <class State, class Opaque>
cublasStatus_t make(const State& state, Opaque** out) {
  if (out == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  *out = nullptr;
  if (!makes_sense(state)) return CUBLAS_STATUS_INVALID_VALUE;
  auto* made = new (std::nothrow) Opaque{};
  if (made == nullptr) return CUBLAS_STATUS_ALLOC_FAILED;
  vgpu::cublas::store(state, made);
  *out = made;
  return CUBLAS_STATUS_SUCCESS;
}

// The mark goes first, so that a second call for the same descriptor is more likely to be noticed.
template <class State, class Opaque>
cublasStatus_t unmake(Opaque* descriptor) {
  if (!vgpu::cublas::load<State>(descriptor)) return CUBLAS_STATUS_INVALID_VALUE;
  descriptor->data[0] = 0;
  delete descriptor;
  return CUBLAS_STATUS_SUCCESS;
}

template <class State, class Opaque>
cublasStatus_t set(Opaque* descriptor, std::span<const Attribute> known, int id, const void* value,
                   std::size_t bytes) {
  auto state = vgpu::cublas::load<State>(descriptor);
  if (!state) return CUBLAS_STATUS_INVALID_VALUE;
  const cublasStatus_t status = vgpu::cublas::set_attribute(*state, known, id, value, bytes);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  if (!makes_sense(*state)) return CUBLAS_STATUS_INVALID_VALUE;
  vgpu::cublas::store(*state, descriptor);
  return CUBLAS_STATUS_SUCCESS;
}

template <class State, class Opaque>
cublasStatus_t get(Opaque* descriptor, std::span<const Attribute> known, int id, void* out, std::size_t room,
                   std::size_t* written) {
  const auto state = vgpu::cublas::load<State>(descriptor);
  if (!state) return CUBLAS_STATUS_INVALID_VALUE;
  return vgpu::cublas::get_attribute(*state, known, id, out, room, written);
}

MatmulState matmul_state(cublasComputeType_t compute, cudaDataType scale) {
  MatmulState state;
  state.compute = compute, state.scale = scale;
  return state;
}

LayoutState layout_state(cudaDataType type, std::uint64_t rows, std::uint64_t columns, std::int64_t leading) {
  LayoutState state;
  state.type = type, state.rows = rows, state.columns = columns, state.leading = leading;
  return state;
}

TransformState transform_state(cudaDataType scale) {
  TransformState state;
  state.scale = scale;
  return state;
}

}  // namespace

CUBLAS_EXPORT cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t descriptor, size_t size,
                                                             cublasComputeType_t compute,
                                                             cudaDataType scale) {
  return set_up(matmul_state(compute, scale), descriptor, size);
}
CUBLAS_EXPORT cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* descriptor,
                                                      cublasComputeType_t compute, cudaDataType scale) {
  return make(matmul_state(compute, scale), descriptor);
}

CUBLAS_EXPORT cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t descriptor, size_t size,
                                                               cudaDataType type, uint64_t rows,
                                                               uint64_t columns, int64_t leading) {
  return set_up(layout_state(type, rows, columns, leading), descriptor, size);
}
CUBLAS_EXPORT cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* descriptor, cudaDataType type,
                                                        uint64_t rows, uint64_t columns, int64_t leading) {
  return make(layout_state(type, rows, columns, leading), descriptor);
}

CUBLAS_EXPORT cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t descriptor,
                                                                   size_t size) {
  return set_up(PreferenceState{}, descriptor, size);
}
CUBLAS_EXPORT cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* descriptor) {
  return make(PreferenceState{}, descriptor);
}

CUBLAS_EXPORT cublasStatus_t cublasLtMatrixTransformDescInit_internal(
    cublasLtMatrixTransformDesc_t descriptor, size_t size, cudaDataType scale) {
  return set_up(transform_state(scale), descriptor, size);
}
CUBLAS_EXPORT cublasStatus_t cublasLtMatrixTransformDescCreate(cublasLtMatrixTransformDesc_t* descriptor,
                                                               cudaDataType scale) {
  return make(transform_state(scale), descriptor);
}

// NOLINTBEGIN(bugprone-macro-parentheses): types and names
#define VGPU_DESCRIPTOR(NAME, ATTRIBUTE, STATE, KNOWN)                                               \
  CUBLAS_EXPORT cublasStatus_t cublasLt##NAME##Destroy(cublasLt##NAME##_t descriptor) {              \
    return unmake<STATE>(descriptor);                                                                \
  }                                                                                                  \
  CUBLAS_EXPORT cublasStatus_t cublasLt##NAME##SetAttribute(                                         \
      cublasLt##NAME##_t descriptor, ATTRIBUTE attribute, const void* value, size_t bytes) {         \
    return set<STATE>(descriptor, KNOWN, attribute, value, bytes);                                   \
  }                                                                                                  \
  CUBLAS_EXPORT cublasStatus_t cublasLt##NAME##GetAttribute(                                         \
      cublasLt##NAME##_t descriptor, ATTRIBUTE attribute, void* out, size_t room, size_t* written) { \
    return get<STATE>(descriptor, KNOWN, attribute, out, room, written);                             \
  }

VGPU_DESCRIPTOR(MatmulDesc, cublasLtMatmulDescAttributes_t, MatmulState, matmul_attributes)
VGPU_DESCRIPTOR(MatrixLayout, cublasLtMatrixLayoutAttribute_t, LayoutState, layout_attributes)
VGPU_DESCRIPTOR(MatmulPreference, cublasLtMatmulPreferenceAttributes_t, PreferenceState,
                preference_attributes)
VGPU_DESCRIPTOR(MatrixTransformDesc, cublasLtMatrixTransformDescAttributes_t, TransformState,
                transform_attributes)
// NOLINTEND(bugprone-macro-parentheses)
