// Integer instructions against the same sums in C++.
#include <algorithm>
#include <cstdint>

#include "softgpu/exec/test_kit.hpp"

namespace softgpu::test {
namespace {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;
__extension__ using u128 = unsigned __int128;
__extension__ using s128 = __int128;

TEST(Integer, AddsAndSubtractsModuloTheWidth) {
  check<u16, u16, u16>("add.u16 d, a, b;", [](u16 a, u16 b) { return a + b; });
  check<u32, u32, u32>("add.s32 d, a, b;", [](u32 a, u32 b) { return a + b; });
  check<u64, u64, u64>("add.s64 d, a, b;", [](u64 a, u64 b) { return a + b; });
  check<u16, u16, u16>("sub.s16 d, a, b;", [](u16 a, u16 b) { return a - b; });
  check<u32, u32>("sub.u32 d, a, 5;", [](u32 a) { return a - 5; });
  check<u32, u32>("sub.u32 d, -7, a;", [](u32 a) { return u32(-7) - a; });
  check<u64, u64, u64>("sub.u64 d, a, b;", [](u64 a, u64 b) { return a - b; });
}

TEST(Integer, SaturatesWhereAsked) {
  const auto clamp = [](s64 v) { return static_cast<s32>(std::clamp<s64>(v, INT32_MIN, INT32_MAX)); };
  check<s32, s32, s32>("add.sat.s32 d, a, b;", [&](s32 a, s32 b) { return clamp(s64{a} + b); });
  check<s32, s32, s32>("sub.sat.s32 d, a, b;", [&](s32 a, s32 b) { return clamp(s64{a} - b); });
}

TEST(Integer, CarriesAcrossWords) {
  check<u64, u64, u64>(
      "{ .reg .b32 a0, a1, b0, b1, d0, d1; mov.b64 {a0, a1}, a; mov.b64 {b0, b1}, b;"
      " add.cc.u32 d0, a0, b0; addc.u32 d1, a1, b1; mov.b64 d, {d0, d1}; }",
      [](u64 a, u64 b) { return a + b; });
  check<u64, u64, u64>(
      "{ .reg .b32 a0, a1, b0, b1, d0, d1; mov.b64 {a0, a1}, a; mov.b64 {b0, b1}, b;"
      " sub.cc.u32 d0, a0, b0; subc.u32 d1, a1, b1; mov.b64 d, {d0, d1}; }",
      [](u64 a, u64 b) { return a - b; });
  check<u64, u64, u64>("{ add.cc.u64 rd, a, b; addc.u64 d, 0, 0; }",
                       [](u64 a, u64 b) { return a + b < a ? 1 : 0; });
  check<u64, u32, u32, u64>(
      "{ .reg .b32 c0, c1, d0, d1; mov.b64 {c0, c1}, c; mad.lo.cc.u32 d0, a, b, c0;"
      " madc.hi.u32 d1, a, b, c1; mov.b64 d, {d0, d1}; }",
      [](u32 a, u32 b, u64 c) { return u64{a} * b + c; });
}

TEST(Integer, Multiplies) {
  check<u16, u16, u16>("mul.lo.u16 d, a, b;", [](u16 a, u16 b) { return u32{a} * b; });
  check<u32, u32, u32>("mul.lo.s32 d, a, b;", [](u32 a, u32 b) { return a * b; });
  check<u64, u64, u64>("mul.lo.s64 d, a, b;", [](u64 a, u64 b) { return a * b; });
  check<u16, u16, u16>("mul.hi.u16 d, a, b;", [](u16 a, u16 b) { return u32{a} * b >> 16; });
  check<s16, s16, s16>("mul.hi.s16 d, a, b;", [](s16 a, s16 b) { return s32{a} * b >> 16; });
  check<u32, u32, u32>("mul.hi.u32 d, a, b;", [](u32 a, u32 b) { return u64{a} * b >> 32; });
  check<s32, s32, s32>("mul.hi.s32 d, a, b;", [](s32 a, s32 b) { return s64{a} * b >> 32; });
  check<u64, u64, u64>("mul.hi.u64 d, a, b;", [](u64 a, u64 b) { return u128{a} * b >> 64; });
  check<s64, s64, s64>("mul.hi.s64 d, a, b;", [](s64 a, s64 b) { return s128{a} * b >> 64; });
  check<u32, u16, u16>("mul.wide.u16 d, a, b;", [](u16 a, u16 b) { return u32{a} * b; });
  check<s32, s16, s16>("mul.wide.s16 d, a, b;", [](s16 a, s16 b) { return s32{a} * b; });
  check<u64, u32, u32>("mul.wide.u32 d, a, b;", [](u32 a, u32 b) { return u64{a} * b; });
  check<s64, s32, s32>("mul.wide.s32 d, a, b;", [](s32 a, s32 b) { return s64{a} * b; });
  check<s64, s32>("mul.wide.s32 d, a, -12;", [](s32 a) { return s64{a} * -12; });
}

TEST(Integer, MultipliesAndAdds) {
  check<u16, u16, u16, u16>("mad.lo.u16 d, a, b, c;", [](u16 a, u16 b, u16 c) { return u32{a} * b + c; });
  check<u32, u32, u32, u32>("mad.lo.s32 d, a, b, c;", [](u32 a, u32 b, u32 c) { return a * b + c; });
  check<u64, u64, u64, u64>("mad.lo.s64 d, a, b, c;", [](u64 a, u64 b, u64 c) { return a * b + c; });
  check<u32, u32, u32, u32>("mad.hi.u32 d, a, b, c;",
                            [](u32 a, u32 b, u32 c) { return (u64{a} * b >> 32) + c; });
  check<u32, s32, s32, s32>("mad.hi.s32 d, a, b, c;", [](s32 a, s32 b, s32 c) {
    return static_cast<u32>(s64{a} * b >> 32) + static_cast<u32>(c);
  });
  check<u64, u32, u32, u64>("mad.wide.u32 d, a, b, c;", [](u32 a, u32 b, u64 c) { return u64{a} * b + c; });
  check<u64, s32, s32, u64>("mad.wide.s32 d, a, b, c;",
                            [](s32 a, s32 b, u64 c) { return static_cast<u64>(s64{a} * b) + c; });
  check<u32, u32, u32, u32>("mad24.lo.u32 d, a, b, c;",
                            [](u32 a, u32 b, u32 c) { return (a & 0xffffff) * (b & 0xffffff) + c; });
  check<u32, u32, u32>("mul24.lo.u32 d, a, b;", [](u32 a, u32 b) { return (a & 0xffffff) * (b & 0xffffff); });
}

// A GPU gives all ones for a division by zero, and the dividend as its remainder.
TEST(Integer, DividesAndTakesRemainders) {
  check<u32, u32, u32>("div.u32 d, a, b;", [](u32 a, u32 b) { return b == 0 ? ~0U : a / b; });
  check<u32, u32, u32>("rem.u32 d, a, b;", [](u32 a, u32 b) { return b == 0 ? a : a % b; });
  check<u64, u64, u64>("div.u64 d, a, b;", [](u64 a, u64 b) { return b == 0 ? ~u64{0} : a / b; });
  check<u64, u64, u64>("rem.u64 d, a, b;", [](u64 a, u64 b) { return b == 0 ? a : a % b; });
  check<u16, u16, u16>("{ or.b16 h, b, 1; div.u16 d, a, h; }", [](u16 a, u16 b) { return a / (b | 1); });
  check<s32, s32, s32>("{ or.b32 r, b, 1; div.s32 d, a, r; }", [](s32 a, s32 b) { return s64{a} / (b | 1); });
  check<s32, s32, s32>("{ or.b32 r, b, 1; rem.s32 d, a, r; }", [](s32 a, s32 b) { return s64{a} % (b | 1); });
  check<s64, s64, s64>("{ or.b64 rd, b, 1; div.s64 d, a, rd; }",
                       [](s64 a, s64 b) { return s128{a} / (b | 1); });
  check<s64, s64, s64>("{ or.b64 rd, b, 1; rem.s64 d, a, rd; }",
                       [](s64 a, s64 b) { return s128{a} % (b | 1); });
}

TEST(Integer, TakesExtremesAndAbsolutes) {
  check<u32, u32, u32>("min.u32 d, a, b;", [](u32 a, u32 b) { return std::min(a, b); });
  check<s32, s32, s32>("min.s32 d, a, b;", [](s32 a, s32 b) { return std::min(a, b); });
  check<s16, s16, s16>("max.s16 d, a, b;", [](s16 a, s16 b) { return std::max(a, b); });
  check<u64, u64, u64>("max.u64 d, a, b;", [](u64 a, u64 b) { return std::max(a, b); });
  check<s64, s64, s64>("min.s64 d, a, b;", [](s64 a, s64 b) { return std::min(a, b); });
  check<u32, s32>("abs.s32 d, a;",
                  [](s32 a) { return a < 0 ? 0U - static_cast<u32>(a) : static_cast<u32>(a); });
  check<u64, s64>("abs.s64 d, a;",
                  [](s64 a) { return a < 0 ? 0U - static_cast<u64>(a) : static_cast<u64>(a); });
  check<u32, u32>("neg.s32 d, a;", [](u32 a) { return 0U - a; });
  check<u16, u16>("neg.s16 d, a;", [](u16 a) { return -a; });
  check<u64, u64>("neg.s64 d, a;", [](u64 a) { return 0U - a; });
  check<u32, u32, u32, u32>("sad.u32 d, a, b, c;",
                            [](u32 a, u32 b, u32 c) { return (a > b ? a - b : b - a) + c; });
}

TEST(Integer, AddsProductsOfPackedBytesAndHalves) {
  const auto byte = [](u32 v, unsigned k, bool is_signed) {
    const auto b = static_cast<u8>(v >> (8 * k));
    return is_signed ? s32{static_cast<std::int8_t>(b)} : s32{b};
  };
  for (const bool as : {false, true}) {
    for (const bool bs : {false, true}) {
      const std::string types = std::string(as ? ".s32" : ".u32") + (bs ? ".s32" : ".u32");
      check<u32, u32, u32, u32>("dp4a" + types + " d, a, b, c;", [&](u32 a, u32 b, u32 c) {
        for (unsigned k = 0; k < 4; ++k) c += static_cast<u32>(byte(a, k, as) * byte(b, k, bs));
        return c;
      });
      for (const unsigned high : {0U, 1U}) {
        check<u32, u32, u32, u32>(std::string("dp2a.") + (high != 0 ? "hi" : "lo") + types + " d, a, b, c;",
                                  [&](u32 a, u32 b, u32 c) {
                                    for (unsigned k = 0; k < 2; ++k) {
                                      const auto h = static_cast<u16>(a >> (16 * k));
                                      const s32 x = as ? s32{static_cast<s16>(h)} : s32{h};
                                      c += static_cast<u32>(x * byte(b, 2 * high + k, bs));
                                    }
                                    return c;
                                  });
      }
    }
  }
}

}  // namespace
}  // namespace softgpu::test
