// wmma on 4-bit integers and single bits, against plain loops over the elements.
#include <algorithm>
#include <bit>
#include <random>
#include <string>

#include "softgpu/exec/test_device.hpp"

namespace softgpu::test {
namespace {

using u32 = std::uint32_t;
using s32 = std::int32_t;
using s64 = std::int64_t;

constexpr u32 line = 4;  // words of a row of A or a column of B

struct SmallCase {
  const char* shape;
  const char* elements[2];  // of A and B
  const char* operation;    // between mma and its shape
  u32 stride;               // elements from line to line in memory
  const char* end = "";
};

std::string program(const SmallCase& w) {
  const std::string shape = std::string(".") + w.shape + ".", stride = std::to_string(w.stride);
  return header() + R"(.visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 d)
{ .reg .b32 %r<6>; .reg .b64 %x<4>;
  ld.param.u64 %x0, [a]; ld.param.u64 %x1, [b]; ld.param.u64 %x2, [c]; ld.param.u64 %x3, [d];
  wmma.load.a.sync.aligned.row)" +
         shape + "global." + w.elements[0] + " {%r0}, [%x0], " + stride + ";\n" +
         "wmma.load.b.sync.aligned.col" + shape + w.elements[1] + " {%r1}, [%x1], " + stride + ";\n" +
         "wmma.load.c.sync.aligned.col" + shape + "global.s32 {%r2, %r3}, [%x2];\n" + "wmma.mma" +
         w.operation + ".sync.aligned.row.col" + shape + "s32." + w.elements[0] + "." + w.elements[1] +
         ".s32" + w.end + " {%r4, %r5}, {%r0}, {%r1}, {%r2, %r3};\n" + "wmma.store.d.sync.aligned.row" +
         shape + "s32 [%x3], {%r4, %r5}, 12; ret; }";
}

s64 nibble(u32 word, u32 k, bool is_signed) {
  const s64 bits = word >> (4 * k) & 15;
  return is_signed && bits > 7 ? bits - 16 : bits;
}

void check(const SmallCase& w, s32 addend) {
  const bool bits = std::string(w.elements[0]) == "b1";
  const u32 pitch = w.stride * (bits ? 1 : 4) / 32;  // words
  const Array<u32> a(8 * pitch), b(8 * pitch);
  const Array<s32> c(64), d(96);
  std::mt19937 random(static_cast<u32>(addend) + w.stride);
  for (u32 i = 0; i < a.size(); ++i) a[i] = static_cast<u32>(random()), b[i] = static_cast<u32>(random());
  for (u32 i = 0; i < 64; ++i) c[i] = addend - static_cast<s32>(i);
  Program p(program(w), 1);
  p.expect_ok("k", {1}, {32}, Params().add(a.address()).add(b.address()).add(c.address()).add(d.address()));
  for (u32 m = 0; m < 8; ++m) {
    for (u32 n = 0; n < 8; ++n) {
      s64 want = c[8 * n + m];
      for (u32 k = 0; k < line; ++k) {
        const u32 x = a[pitch * m + k], y = b[pitch * n + k];
        if (bits) want += std::popcount(x ^ y);
        for (u32 e = 0; e < 8 && !bits; ++e)
          want += nibble(x, e, w.elements[0][0] == 's') * nibble(y, e, w.elements[1][0] == 's');
      }
      if (w.end[0] != 0) want = std::clamp<s64>(want, INT32_MIN, INT32_MAX);
      EXPECT_EQ(d[12 * m + n], static_cast<s32>(want)) << w.shape << " " << m << "," << n;
    }
  }
}

TEST(SmallWmma, MultipliesNibblesOfEitherSign) {
  check({"m8n8k32", {"s4", "s4"}, "", 32}, 5);
  check({"m8n8k32", {"u4", "u4"}, "", 64}, 1000);
  check({"m8n8k32", {"s4", "u4"}, "", 32}, -7);
}

TEST(SmallWmma, WrapsOrSaturates) {
  check({"m8n8k32", {"u4", "u4"}, "", 32}, INT32_MAX);
  check({"m8n8k32", {"u4", "u4"}, "", 32, ".satfinite"}, INT32_MAX);
}

TEST(SmallWmma, CountsTheBitsThatDiffer) {
  check({"m8n8k128", {"b1", "b1"}, ".xor.popc", 128}, 3);
  check({"m8n8k128", {"b1", "b1"}, ".xor.popc", 256}, -64);
}

}  // namespace
}  // namespace softgpu::test
