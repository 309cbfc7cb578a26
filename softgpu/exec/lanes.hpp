// Loops over a warp's 32 lanes for instruction handlers. Included only by files compiled once for every ISA
// level; everything here lives in the level's own namespace, so that the linker never mixes levels.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "softgpu/exec/code.hpp"

#ifndef SOFTGPU_ISA
#error "lanes.hpp is for files of an ISA level"
#endif

namespace softgpu::exec::SOFTGPU_ISA {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s8 = std::int8_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;
__extension__ using u128 = unsigned __int128;
__extension__ using s128 = __int128;

// SOFTGPU_LANES goes over the lanes together, SOFTGPU_EACH_LANE one by one: what each lane does there is so
// little that a jump a lane would be most of it.
#if defined(__clang__)
#define SOFTGPU_LANES for (unsigned i = 0; i < lanes; ++i)
#define SOFTGPU_EACH_LANE SOFTGPU_LANES
#else
#define SOFTGPU_LANES _Pragma("GCC ivdep") for (unsigned i = 0; i < lanes; ++i)
#define SOFTGPU_EACH_LANE _Pragma("GCC unroll 8") for (unsigned i = 0; i < lanes; ++i)
#endif

inline constexpr u32 lane_bit[32] = {1U << 0,  1U << 1,  1U << 2,  1U << 3,  1U << 4,  1U << 5,  1U << 6,
                                     1U << 7,  1U << 8,  1U << 9,  1U << 10, 1U << 11, 1U << 12, 1U << 13,
                                     1U << 14, 1U << 15, 1U << 16, 1U << 17, 1U << 18, 1U << 19, 1U << 20,
                                     1U << 21, 1U << 22, 1U << 23, 1U << 24, 1U << 25, 1U << 26, 1U << 27,
                                     1U << 28, 1U << 29, 1U << 30, 1U << 31};

/// d = t in the active lanes.
template <class D>
inline __attribute__((always_inline)) void merge(u32 mask, D* d, const D* t) {
  SOFTGPU_LANES d[i] = (mask & lane_bit[i]) ? t[i] : d[i];
}

/// d[i] = f(i) in the active lanes; f must be harmless in the others.
template <class D, class F>
inline __attribute__((always_inline)) void each(Context& c, D* d, F f) {
  if (c.mask == all_lanes) {
    SOFTGPU_LANES d[i] = f(i);
  } else {
    alignas(64) D t[lanes];
    SOFTGPU_LANES t[i] = f(i);
    merge(c.mask, d, t);
  }
}

/// t[i] = a[from[i]]; from[i] < lanes. All are 64-byte aligned, and t is none of the other two.
inline __attribute__((always_inline)) void permute(u32* t, const u32* a, const u32* from) {
#if defined(__AVX512F__)
  // One instruction for half a warp; the compiler finds single loads only.
  const __m512i low = _mm512_load_si512(a), high = _mm512_load_si512(a + lanes / 2);
  for (unsigned i = 0; i < lanes; i += lanes / 2)
    _mm512_store_si512(t + i, _mm512_permutex2var_epi32(low, _mm512_load_si512(from + i), high));
#else
  SOFTGPU_EACH_LANE t[i] = a[from[i]];
#endif
}

/// Calls f(lane) for every active lane, lowest first.
template <class F>
inline void each_active(u32 mask, F f) {
  for (u32 m = mask; m != 0; m &= m - 1) f(static_cast<unsigned>(std::countr_zero(m)));
}

/// A predicate's bits from f(i) in all lanes.
template <class F>
inline __attribute__((always_inline)) u32 bits_of(F f) {
  u32 r = 0;
  SOFTGPU_LANES r |= f(i) ? lane_bit[i] : 0U;
  return r;
}

/// Writes a predicate in the active lanes.
inline void set_predicate(Context& c, u32 offset, u32 value) {
  u32* p = reg<u32>(c, offset);
  *p = (*p & ~c.mask) | (value & c.mask);
}

}  // namespace softgpu::exec::SOFTGPU_ISA
