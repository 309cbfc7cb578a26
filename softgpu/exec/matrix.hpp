// Helpers of the matrix instructions: 8x8 transposes and small products. For files of an ISA level.
//
// A register of a warp is 32 lanes in a row, so a fragment in which lane l holds the elements 2l and 2l+1 of
// a matrix is that matrix, row by row, in memory. PTX's m8n8 layouts are of this kind.
#pragma once

#include "softgpu/exec/floats.hpp"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace softgpu::exec::SOFTGPU_ISA {

/// Gives a 32-bit register its value in the active lanes.
inline void store_register(Context& c, u32* d, const u32* value) {
  if (c.mask == all_lanes) {
    std::memcpy(d, value, lanes * sizeof(u32));
  } else {
    merge(c.mask, d, value);
  }
}

/// to[j][i] = from[i][j] of 8 x 8 words, 32-byte aligned.
inline void transpose_words(const u32* from, u32* to) {
#if defined(__AVX2__)
  const auto row = [&](int i) { return _mm256_load_ps(reinterpret_cast<const float*>(from + 8 * i)); };
  __m256 t[8], s[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(row(i), row(i + 1));
    t[i + 1] = _mm256_unpackhi_ps(row(i), row(i + 1));
  }
  for (int i = 0; i < 8; i += 4) {
    s[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    s[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    s[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    s[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_store_ps(reinterpret_cast<float*>(to + 8 * i), _mm256_permute2f128_ps(s[i], s[i + 4], 0x20));
    _mm256_store_ps(reinterpret_cast<float*>(to + 8 * (i + 4)), _mm256_permute2f128_ps(s[i], s[i + 4], 0x31));
  }
#else
  for (unsigned i = 0; i < 8; ++i)
    for (unsigned j = 0; j < 8; ++j) to[8 * j + i] = from[8 * i + j];
#endif
}

/// to[j][i] = from[i][j] of 8 x 8 halves.
inline void transpose_halves(const u16* from, u16* to) {
  for (unsigned i = 0; i < 8; ++i)
    for (unsigned j = 0; j < 8; ++j) to[8 * j + i] = from[8 * i + j];
}

/// The 64 halves of a register of pairs, in lane order, as floats.
inline void pairs_to_floats(const u32* pairs, float* f) {
  alignas(64) u16 h[2 * lanes];
  std::memcpy(h, pairs, sizeof h);
  halves_to_floats(h, f);
  halves_to_floats(h + lanes, f + lanes);
}

/// The reverse, rounded to nearest even.
inline void floats_to_pairs(const float* f, u32* pairs) {
  alignas(64) u16 h[2 * lanes];
  floats_to_halves(f, h);
  floats_to_halves(f + lanes, h + lanes);
  std::memcpy(pairs, h, sizeof h);
}

/// flat[2l] = even[l], flat[2l+1] = odd[l].
template <class T>
void interleave(const T* even, const T* odd, T* flat) {
  SOFTGPU_LANES {
    flat[2 * i] = even[i];
    flat[2 * i + 1] = odd[i];
  }
}
template <class T>
void deinterleave(const T* flat, T* even, T* odd) {
  SOFTGPU_LANES {
    even[i] = flat[2 * i];
    odd[i] = flat[2 * i + 1];
  }
}

/// c[m][N] += a[m][K] * b[K][N], all row by row and 32-byte aligned. Products of halves are exact in
/// binary32, so that it makes no difference whether the compiler fuses them into the sums.
template <unsigned M, unsigned N, unsigned K, class T>
void multiply_add(const T* a, const T* b, T* c) {
  for (unsigned m = 0; m < M; ++m) {
    alignas(32) T row[N];
    for (unsigned n = 0; n < N; ++n) row[n] = c[m * N + n];
    for (unsigned k = 0; k < K; ++k)
      for (unsigned n = 0; n < N; ++n) row[n] += a[m * K + k] * b[k * N + n];
    for (unsigned n = 0; n < N; ++n) c[m * N + n] = row[n];
  }
}

/// c[16][8] += a[16][8] * b[8][8].
inline void multiply_add_16x8x8(const float* a, const float* b, float* c) {
#if defined(__AVX2__) && defined(__FMA__)
  __m256 column[8];
  for (int k = 0; k < 8; ++k) column[k] = _mm256_load_ps(b + 8 * k);
  for (int m = 0; m < 16; m += 4) {
    __m256 sum[4];
    for (int r = 0; r < 4; ++r) sum[r] = _mm256_load_ps(c + 8 * (m + r));
    for (int k = 0; k < 8; ++k)
      for (int r = 0; r < 4; ++r)
        sum[r] = _mm256_fmadd_ps(_mm256_broadcast_ss(a + 8 * (m + r) + k), column[k], sum[r]);
    for (int r = 0; r < 4; ++r) _mm256_store_ps(c + 8 * (m + r), sum[r]);
  }
#else
  multiply_add<16, 8, 8>(a, b, c);
#endif
}

/// d[8][8] = a[8][K] * b[8][K]^T of 16-bit integers whose products of pairs fit in 32 bits; 32-byte aligned.
template <unsigned K>
void dot_products(const s16* a, const s16* b, s32* d) {
#if defined(__AVX2__)
  static_assert(K % 16 == 0);
  __m256i sum[8] = {};
  for (unsigned part = 0; part < K; part += 16) {
    alignas(32) u32 pairs[64], turned[64];
    for (unsigned n = 0; n < 8; ++n) std::memcpy(pairs + 8 * n, b + n * K + part, 32);
    transpose_words(pairs, turned);
    __m256i column[8];
    for (int k = 0; k < 8; ++k)
      column[k] = _mm256_load_si256(reinterpret_cast<const __m256i*>(turned + 8 * k));
    for (unsigned m = 0; m < 8; ++m) {
      s32 row[8];
      std::memcpy(row, a + m * K + part, 32);
      for (int k = 0; k < 8; ++k)
        sum[m] = _mm256_add_epi32(sum[m], _mm256_madd_epi16(_mm256_set1_epi32(row[k]), column[k]));
    }
  }
  for (unsigned m = 0; m < 8; ++m) _mm256_store_si256(reinterpret_cast<__m256i*>(d + 8 * m), sum[m]);
#else
  for (unsigned m = 0; m < 8; ++m)
    for (unsigned n = 0; n < 8; ++n) {
      s32 sum = 0;
      for (unsigned k = 0; k < K; ++k) sum += a[m * K + k] * b[n * K + k];
      d[8 * m + n] = sum;
    }
#endif
}

/// The registers of a `{ }` operand, or of a lone one; fails unless there are `count`.
inline std::vector<const ptx::Operand*> elements(Builder& b, const ptx::Operand& o, std::size_t count) {
  std::vector<const ptx::Operand*> list;
  if (const auto* v = std::get_if<ptx::VectorOperand>(&o.value)) {
    for (const auto& e : v->elements) list.push_back(&e);
  } else {
    list.push_back(&o);
  }
  if (list.size() != count) {
    b.fail("a fragment of " + std::to_string(list.size()) + " registers where " + std::to_string(count) +
           " are needed");
    list.clear();
  }
  return list;
}

}  // namespace softgpu::exec::SOFTGPU_ISA
