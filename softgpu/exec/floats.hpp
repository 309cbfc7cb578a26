// Floating-point helpers of the instruction groups. For files of an ISA level.
#pragma once

#include "softgpu/exec/types.hpp"
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace softgpu::exec::SOFTGPU_ISA {

inline float canonical(float x) {
  return x != x ? std::bit_cast<float>(0x7fffffffU) : x;
}
inline double canonical(double x) {
  return x;
}

inline float flushed(float x) {
  const u32 u = std::bit_cast<u32>(x);
  return (u & 0x7f800000U) == 0 ? std::bit_cast<float>(u & 0x80000000U) : x;
}

template <class T>
inline T saturated(T x) {
  return x > T{0} ? (x < T{1} ? x : T{1}) : T{0};
}

/// The MXCSR that an instruction's .rz/.rm/.rp and .ftz ask for.
inline u32 csr_of(const Instruction& i) {
  const u32 rounding = i.has("rz") ? csr_rz : i.has("rm") ? csr_rm : i.has("rp") ? csr_rp : csr_rn;
  return rounding | (i.has("ftz") ? csr_ftz : 0U);
}

/// binary16 to binary32, exact.
inline float half_to_float_one(u16 h) {
  const u32 sign = static_cast<u32>(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
  if (exponent == 31)
    return std::bit_cast<float>(sign | 0x7f800000U | fraction << 13 | (fraction != 0 ? 0x400000U : 0));
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float v = static_cast<float>(fraction) * 0x1p-24F;
  return sign != 0 ? -v : v;
}

enum class Round : u16 { nearest, zero, down, up };

/// binary64 to binary16 with any rounding, from the bits; NaN becomes 0x7fff.
inline u16 double_to_half_one(double x, Round mode) {
  const u64 u = std::bit_cast<u64>(x);
  const auto sign = static_cast<u16>(u >> 48 & 0x8000);
  const s64 exponent = static_cast<s64>(u >> 52 & 0x7ff) - 1023;
  if (exponent == 1024) return (u << 12) != 0 ? u16{0x7fff} : static_cast<u16>(sign | 0x7c00);
  if ((u << 1) == 0) return sign;
  const bool negative = sign != 0;
  if (exponent < -40) {
    const bool away = (mode == Round::up && !negative) || (mode == Round::down && negative);
    return static_cast<u16>(sign | (away ? 1 : 0));
  }
  // value = m * 2^(exponent - 52); wanted unit: 2^(e - 10), e at least -14.
  const u64 m = (u & 0xfffffffffffffU) | (exponent > -1023 ? u64{1} << 52 : 0);
  const s64 e = exponent < -14 ? -14 : exponent;
  const s64 drop = 42 + (e - exponent);  // bits below the unit
  u64 q = drop >= 64 ? 0 : m >> drop;
  const u64 rest = drop >= 64 ? m : m & ((u64{1} << drop) - 1);
  const u64 half = drop >= 64 ? ~u64{0} : u64{1} << (drop - 1);
  bool increment = false;
  if (mode == Round::nearest) increment = rest > half || (rest == half && (q & 1) != 0);
  if (mode == Round::up) increment = rest != 0 && !negative;
  if (mode == Round::down) increment = rest != 0 && negative;
  q += increment ? 1 : 0;
  // q holds the implicit bit at 10 for normal numbers; a carry moves into the exponent by itself.
  u64 bits = exponent < -14 ? q : (static_cast<u64>(e + 14) << 10) + q;
  if (bits >= 0x7c00) {
    const bool to_max =
        mode == Round::zero || (mode == Round::up && negative) || (mode == Round::down && !negative);
    bits = to_max ? 0x7bff : 0x7c00;
  }
  return static_cast<u16>(sign | bits);
}

inline void halves_to_floats(const u16* h, float* f) {
#if defined(__F16C__)
  for (unsigned i = 0; i < lanes; i += 8)
    _mm256_storeu_ps(f + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(h + i))));
#else
  for (unsigned i = 0; i < lanes; ++i) f[i] = half_to_float_one(h[i]);
#endif
}

inline u16 canonical_half(u16 h) {
  return (h & 0x7fff) > 0x7c00 ? u16{0x7fff} : h;
}

/// Rounds to nearest even.
inline void floats_to_halves(const float* f, u16* h) {
#if defined(__F16C__)
  for (unsigned i = 0; i < lanes; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(h + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(f + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  SOFTGPU_LANES h[i] = canonical_half(h[i]);
#else
  for (unsigned i = 0; i < lanes; ++i) h[i] = double_to_half_one(f[i], Round::nearest);
#endif
}

}  // namespace softgpu::exec::SOFTGPU_ISA
