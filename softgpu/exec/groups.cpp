#include "softgpu/exec/groups.hpp"

#include <cpuid.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>

#include "softgpu/exec/texture_ops.hpp"

namespace softgpu::exec {

namespace {

#define SOFTGPU_GROUP_TABLE(level)                                                             \
  {                                                                                            \
    level::decode_move, level::decode_memory, level::decode_integer, level::decode_bits,       \
        level::decode_float, level::decode_compare, level::decode_convert, level::decode_half, \
        level::decode_warp, level::decode_atomic, level::decode_mma, level::decode_wmma,       \
        level::decode_video, decode_texture, nullptr                                           \
  }

constexpr DecodeFunction tables[][16] = {
    SOFTGPU_GROUP_TABLE(isa_base),
#ifdef SOFTGPU_ALL_ISA_LEVELS
    SOFTGPU_GROUP_TABLE(isa_v3),
    SOFTGPU_GROUP_TABLE(isa_v4),
#endif
};

// Not every compiler's __builtin_cpu_supports knows these names.
bool has_f16c_and_lzcnt() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c >> 29 & 1) != 0;
  const bool lzcnt = __get_cpuid(0x80000001, &a, &b, &c, &d) != 0 && (c >> 5 & 1) != 0;
  return f16c && lzcnt;
}

unsigned detect() {
  unsigned best = 0;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
      has_f16c_and_lzcnt())
    best = 1;
  if (best == 1 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512cd"))
    best = 2;
  best = std::min<unsigned>(best, std::size(tables) - 1);
  if (const char* wanted = std::getenv("SOFTGPU_ISA_LEVEL");
      wanted != nullptr && wanted[0] >= '0' && wanted[0] <= '2') {
    const auto level = static_cast<unsigned>(wanted[0] - '0');
    if (level < best) best = level;
  }
  return best;
}

}  // namespace

const DecodeFunction* groups(unsigned isa) {
  return tables[isa];
}

unsigned isa_level() {
  static const unsigned level = detect();
  return level;
}

}  // namespace softgpu::exec
