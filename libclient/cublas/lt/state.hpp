// What lies in cublasLt's semi-opaque descriptors here. They are plain data of the caller's, which may be
// copied or abandoned: nothing in them owns anything, and a mark tells them from memory that was never set
// up.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>

namespace vgpu::cublas {

/// Of cublasLtMatmulDesc_t.
struct MatmulState {
  static constexpr std::uint32_t expected = 0x6d6c5601;
  std::uint32_t mark = expected;
  std::int32_t compute = 0, scale = 0;
  std::int32_t pointer_mode = CUBLASLT_POINTER_MODE_HOST;
  std::int32_t operation_a = CUBLAS_OP_N, operation_b = CUBLAS_OP_N, operation_c = CUBLAS_OP_N;
  std::int32_t fill = CUBLAS_FILL_MODE_FULL;
  std::uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  std::int32_t bias_type = -1;  ///< -1: D's
  std::int64_t bias_stride = 0;
  std::uint64_t bias = 0;
  std::int32_t sm_count_target = 0;
  std::int8_t fast_sums = 0;
};

/// Of cublasLtMatrixLayout_t.
struct LayoutState {
  static constexpr std::uint32_t expected = 0x6d6c5602;
  std::uint32_t mark = expected;
  std::int32_t type = 0;
  std::uint64_t rows = 0, columns = 0;
  std::int64_t leading = 0, stride = 0;
  std::int32_t order = CUBLASLT_ORDER_COL, batches = 1;
  std::uint32_t batch_mode = CUBLASLT_BATCH_MODE_STRIDED;
};

/// Of cublasLtMatmulPreference_t. No preference makes a difference here: there is one algorithm, which needs
/// no workspace.
struct PreferenceState {
  static constexpr std::uint32_t expected = 0x6d6c5603;
  std::uint32_t mark = expected;
  std::uint32_t search_mode = CUBLASLT_SEARCH_BEST_FIT;
  std::uint64_t workspace = 0, implementations = ~std::uint64_t{0};
  std::uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
  std::uint32_t alignment_a = 256, alignment_b = 256, alignment_c = 256, alignment_d = 256;
  float waves = 0;
};

/// Of cublasLtMatrixTransformDesc_t.
struct TransformState {
  static constexpr std::uint32_t expected = 0x6d6c5604;
  std::uint32_t mark = expected;
  std::int32_t scale = 0, pointer_mode = CUBLASLT_POINTER_MODE_HOST;
  std::int32_t operation_a = CUBLAS_OP_N, operation_b = CUBLAS_OP_N;
};

/// Of cublasLtMatmulAlgo_t.
struct AlgorithmState {
  static constexpr std::uint32_t expected = 0x6d6c5605;
  std::uint32_t mark = expected;
  std::int32_t id = 0, split_k = 1;
  std::uint32_t tile = 0, reduction = 0, swizzling = 0, custom = 0, stages = 0;
  std::uint16_t inner_shape = 0, cluster_shape = 0;
  std::uint64_t implementation = 0;  ///< CUBLASLT_NUMERICAL_IMPL_FLAGS_...
};

/// What a descriptor holds, or nothing if it is null or was never set up.
template <class State, class Opaque>
std::optional<State> load(const Opaque* from) {
  static_assert(sizeof(State) <= sizeof(Opaque) && std::is_trivially_copyable_v<State>);
  if (from == nullptr) return std::nullopt;
  State state;
  std::memcpy(&state, from->data, sizeof state);
  if (state.mark != State::expected) return std::nullopt;
  return state;
}

template <class State, class Opaque>
void store(const State& state, Opaque* into) {
  static_assert(sizeof(State) <= sizeof(Opaque) && std::is_trivially_copyable_v<State>);
  std::memcpy(into->data, &state, sizeof state);
}

}  // namespace vgpu::cublas
