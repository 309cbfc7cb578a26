// The arguments of the cuTensorMap calls in one plain structure: the tail of a tensor_map record.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace vgpu {

enum class TensorMapForm : std::uint32_t { tiled, im2col, im2col_wide, replace_address };

inline constexpr std::uint32_t max_tensor_rank = 5;

/// Enumerations as numbers; what a form does not use is zero.
struct TensorMapRequest {
  TensorMapForm form{};
  std::int32_t data_type = 0;
  std::uint32_t rank = 0;
  std::int32_t interleave = 0, swizzle = 0, l2_promotion = 0, oob_fill = 0, wide_mode = 0;
  std::uint64_t address = 0;  ///< in the device's address space; never followed on the host
  std::uint64_t dimensions[max_tensor_rank] = {};
  std::uint64_t strides[max_tensor_rank] = {};  ///< rank - 1 of them, bytes
  std::uint32_t box[max_tensor_rank] = {};
  std::uint32_t element_strides[max_tensor_rank] = {};
  std::int32_t lower_corner[max_tensor_rank] = {}, upper_corner[max_tensor_rank] = {};
  std::uint32_t channels = 0, pixels = 0;
  std::uint64_t map[sizeof(CUtensorMap) / sizeof(std::uint64_t)] = {};  ///< replace_address: the old one
};

}  // namespace vgpu
