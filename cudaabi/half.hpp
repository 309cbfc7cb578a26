// Half-precision numbers as bits: widening to f32 and rounding back to nearest, ties to even. Written so that
// the compiler turns loops over them into vector code on any x86-64.
#pragma once

#include <bit>
#include <cstdint>

namespace cudaabi {

inline float widen_f16(std::uint16_t half) {
  const std::uint32_t magnitude = static_cast<std::uint32_t>(half & 0x7fff) << 13;
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000) << 16;
  // The exponent's bias differs by 112; multiplying also puts subnormal numbers right.
  const auto scaled = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112F);
  const std::uint32_t special = magnitude >= 0x0f800000 ? 0x7f800000U : 0U;  // infinities and NaNs
  return std::bit_cast<float>(scaled | special | sign);
}

inline std::uint16_t round_f16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7fffffff;
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
  std::uint32_t result;
  if (magnitude > 0x7f800000) {
    result = 0x7e00;  // NaN
  } else if (magnitude >= 0x47800000) {
    result = 0x7c00;  // 65536 and above
  } else if (magnitude < 0x38800000) {
    // Below 2^-14: adding 0.5 leaves a subnormal half's bits at the end of the mantissa, rounded by the
    // hardware.
    result = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3f000000;
  } else {
    result =
        (magnitude - (112U << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;  // a carry may give infinity: right
  }
  return static_cast<std::uint16_t>(result | sign);
}

inline float widen_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

inline std::uint16_t round_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  if (nan) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace cudaabi
