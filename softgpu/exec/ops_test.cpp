// Every instruction group against values computed on the CPU, on random and edge operands.
#include <gtest/gtest-spi.h>

#include <algorithm>
#include <bit>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>

#include "softgpu/exec/test_device.hpp"

namespace softgpu::test {
namespace {

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

constexpr unsigned cases = 2048;

// What a register of this kind is called and how operands are drawn.
struct Kind {
  const char* reg;  // b16, b32, b64, f32, f64
  unsigned bytes;
};
constexpr Kind b16{"b16", 2}, b32{"b32", 4}, b64{"b64", 8}, f32{"f32", 4}, f64{"f64", 8};

u64 draw(const Kind& k, std::mt19937_64& random) {
  static const u64 edges[] = {0,
                              1,
                              2,
                              0x7f,
                              0x80,
                              0xff,
                              0x7fff,
                              0x8000,
                              0xffff,
                              0x7fffffff,
                              0x80000000,
                              0xffffffff,
                              31,
                              32,
                              33,
                              63,
                              64,
                              0x7fffffffffffffff,
                              0x8000000000000000,
                              0xffffffffffffffff,
                              0x100000000};
  static const u32 floats[] = {0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000,
                               0x7fc00000, 0x00000001, 0x807fffff, 0x00800000, 0x7f7fffff, 0x3f000000,
                               0x40200000, 0x4f000000, 0xcf000000, 0x4f800000, 0x5f000000, 0x7fffffff};
  static const u16 halves[] = {0,      0x8000, 0x3c00, 0xbc00, 0x7c00, 0xfc00,
                               0x7e00, 0x0001, 0x83ff, 0x0400, 0x7bff, 0x3555};
  const bool edge = random() % 4 == 0;
  const std::string_view name = k.reg;
  if (name == "f32") {
    if (edge) return floats[random() % std::size(floats)];
    if (random() % 2 == 0)
      return std::bit_cast<u32>(static_cast<float>(static_cast<double>(random()) / 1e18 - 9));
    return static_cast<u32>(random());
  }
  if (name == "f64") {
    if (edge) {
      const double d = std::bit_cast<float>(floats[random() % std::size(floats)]);
      return std::bit_cast<u64>(random() % 8 == 0 ? d * 0x1p-1000 : d);
    }
    if (random() % 2 == 0) return std::bit_cast<u64>(static_cast<double>(random()) / 1e18 - 9);
    return random();
  }
  if (name == "b16" && edge && random() % 2 == 0) return halves[random() % std::size(halves)];
  const u64 mask = k.bytes == 8 ? ~u64{0} : (u64{1} << (8 * k.bytes)) - 1;
  return (edge ? edges[random() % std::size(edges)] : random() >> (random() % 64)) & mask;
}

using Expected = std::function<u64(u64, u64, u64)>;
using Same = std::function<bool(u64 got, u64 want)>;

// Runs `body` (with $d, $a, $b, $c) on many operands; the destination is a register of kind `d`.
void check(const std::string& body, Kind d, std::vector<Kind> sources, const Expected& expected,
           const Same& same = {}) {
  std::string text = header() + ".visible .entry k(.param .u64 in, .param .u64 out)\n{\n";
  text += ".reg .pred %p<4>; .reg .b32 %i<4>; .reg .b64 %x<4>;\n";
  text += std::string(".reg .") + d.reg + " %d;\n";
  const char* names[] = {"%a", "%b", "%c"};
  for (std::size_t k = 0; k < sources.size(); ++k)
    text += std::string(".reg .") + sources[k].reg + " " + names[k] + ";\n";
  text +=
      "ld.param.u64 %x0, [in]; ld.param.u64 %x1, [out]; mov.u32 %i0, %ctaid.x; mov.u32 %i1, %ntid.x; mov.u32 "
      "%i2, %tid.x;\n";
  text +=
      "mad.lo.s32 %i0, %i0, %i1, %i2; mul.wide.u32 %x2, %i0, 24; add.s64 %x0, %x0, %x2; mul.wide.u32 %x2, "
      "%i0, 8; add.s64 %x1, %x1, %x2;\n";
  for (std::size_t k = 0; k < sources.size(); ++k)
    text += std::string("ld.global.") + sources[k].reg + " " + names[k] + ", [%x0+" + std::to_string(8 * k) +
            "];\n";
  text += std::string("mov.") + d.reg + " %d, " +
          (d.reg[0] == 'f' ? (d.bytes == 4 ? "0f00000000" : "0d0000000000000000") : "0") + ";\n";
  std::string code = body;
  for (const auto& [from, to] :
       {std::pair<std::string, std::string>{"$d", "%d"}, {"$a", "%a"}, {"$b", "%b"}, {"$c", "%c"}}) {
    for (std::size_t at = 0; (at = code.find(from, at)) != std::string::npos; at += to.size())
      code.replace(at, from.size(), to);
  }
  text += code + "\nst.global." + d.reg + " [%x1], %d;\nret;\n}\n";

  Program p(text, 1);
  Array<u64> in(3 * cases), out(cases);
  std::mt19937_64 random(body.size() * 7919 + sources.size());
  for (unsigned i = 0; i < cases; ++i) {
    for (std::size_t k = 0; k < 3; ++k) in[3 * i + k] = k < sources.size() ? draw(sources[k], random) : 0;
    out[i] = 0;
  }
  const LaunchResult r = p.run("k", {cases / 64}, {64}, Params().add(in.address()).add(out.address()));
  ASSERT_EQ(r.fault, Fault::none) << body << ": " << r.reason;
  unsigned bad = 0;
  for (unsigned i = 0; i < cases && bad < 4; ++i) {
    const u64 mask = d.bytes == 8 ? ~u64{0} : (u64{1} << (8 * d.bytes)) - 1;
    const u64 want = expected(in[3 * i], in[3 * i + 1], in[3 * i + 2]) & mask;
    if (same ? same(out[i], want) : out[i] == want) continue;
    ++bad;
    ADD_FAILURE() << body << std::hex << ": a=" << in[3 * i] << " b=" << in[3 * i + 1]
                  << " c=" << in[3 * i + 2] << " got " << out[i] << " want " << want;
  }
}

float F(u64 v) {
  return std::bit_cast<float>(static_cast<u32>(v));
}
double D(u64 v) {
  return std::bit_cast<double>(v);
}
u64 U(float v) {
  return v != v ? 0x7fffffff : std::bit_cast<u32>(v);
}
u64 U(double v) {
  return std::bit_cast<u64>(v);
}
float flush(float v) {
  return std::fpclassify(v) == FP_SUBNORMAL ? std::copysign(0.0F, v) : v;
}
// f64 NaNs may differ in sign and payload.
bool same64(u64 got, u64 want) {
  return got == want || (D(got) != D(got) && D(want) != D(want));
}
double half(u64 bits) {
  const auto h = static_cast<u16>(bits);
  const int e = h >> 10 & 31, f = h & 1023;
  double v = 0;
  if (e == 31)
    v = f != 0 ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  else if (e == 0)
    v = std::ldexp(f, -24);
  else
    v = std::ldexp(1024 + f, e - 25);
  return (h & 0x8000) != 0 ? -v : v;
}
// Nearest half by search among neighbours, ties to even; independent of the engine's way.
u64 to_half(double v) {
  if (v != v) return 0x7fff;
  const u64 sign = std::signbit(v) ? 0x8000 : 0;
  const double a = std::fabs(v);
  if (a >= 65520) return sign | 0x7c00;
  u64 low = 0, high = 0x7c00;
  while (high - low > 1) {
    const u64 mid = (low + high) / 2;
    (half(mid) <= a ? low : high) = mid;
  }
  const double down = a - half(low), up = (high == 0x7c00 ? 65536.0 : half(high)) - a;
  if (down < up || (down == up && low % 2 == 0)) return sign | low;
  return sign | high;
}

TEST(Ops, WrongResultsAreNoticed) {
  testing::TestPartResultArray failures;
  {
    const testing::ScopedFakeTestPartResultReporter reporter(&failures);
    check("add.s32 $d, $a, 1;", b32, {b32}, [](u64 a, u64, u64) { return a == 7 ? a : a + 1; });
  }
  ASSERT_GE(failures.size(), 1);
  EXPECT_NE(std::string(failures.GetTestPartResult(0).message()).find("a=7 "), std::string::npos);
}

TEST(Ops, IntegerArithmetic) {
  check("add.s32 $d, $a, $b;", b32, {b32, b32}, [](u64 a, u64 b, u64) { return a + b; });
  check("sub.s16 $d, $a, $b;", b16, {b16, b16}, [](u64 a, u64 b, u64) { return a - b; });
  check("add.s64 $d, $a, -5;", b64, {b64}, [](u64 a, u64, u64) { return a - 5; });
  check("mul.lo.s16 $d, $a, $b;", b16, {b16, b16}, [](u64 a, u64 b, u64) { return a * b; });
  check("mul.lo.s64 $d, $a, $b;", b64, {b64, b64}, [](u64 a, u64 b, u64) { return a * b; });
  check("mul.hi.s32 $d, $a, $b;", b32, {b32, b32}, [](u64 a, u64 b, u64) {
    return static_cast<u64>((s64{static_cast<s32>(a)} * static_cast<s32>(b)) >> 32);
  });
  check("mul.hi.u32 $d, $a, $b;", b32, {b32, b32}, [](u64 a, u64 b, u64) { return (a * b) >> 32; });
  check("mul.hi.u64 $d, $a, $b;", b64, {b64, b64},
        [](u64 a, u64 b, u64) { return static_cast<u64>((static_cast<u128>(a) * b) >> 64); });
  check("mul.hi.s64 $d, $a, $b;", b64, {b64, b64}, [](u64 a, u64 b, u64) {
    return static_cast<u64>((static_cast<s128>(static_cast<s64>(a)) * static_cast<s64>(b)) >> 64);
  });
  check("mul.wide.s32 $d, $a, $b;", b64, {b32, b32},
        [](u64 a, u64 b, u64) { return static_cast<u64>(s64{static_cast<s32>(a)} * static_cast<s32>(b)); });
  check("mul.wide.u16 $d, $a, $b;", b32, {b16, b16}, [](u64 a, u64 b, u64) { return a * b; });
  check("mad.lo.s32 $d, $a, $b, $c;", b32, {b32, b32, b32}, [](u64 a, u64 b, u64 c) { return a * b + c; });
  check("mad.wide.u32 $d, $a, $b, $c;", b64, {b32, b32, b64}, [](u64 a, u64 b, u64 c) { return a * b + c; });
  check("mad.hi.u32 $d, $a, $b, $c;", b32, {b32, b32, b32},
        [](u64 a, u64 b, u64 c) { return (a * b >> 32) + c; });
  check("div.u32 $d, $a, $b;", b32, {b32, b32}, [](u64 a, u64 b, u64) { return b == 0 ? ~u64{0} : a / b; });
  check("rem.u32 $d, $a, $b;", b32, {b32, b32}, [](u64 a, u64 b, u64) { return b == 0 ? a : a % b; });
  check("div.s32 $d, $a, $b;", b32, {b32, b32}, [](u64 a, u64 b, u64) {
    return b == 0 ? ~u64{0} : static_cast<u64>(s64{static_cast<s32>(a)} / static_cast<s32>(b));
  });
  check("rem.s32 $d, $a, $b;", b32, {b32, b32}, [](u64 a, u64 b, u64) {
    return b == 0 ? a : static_cast<u64>(s64{static_cast<s32>(a)} % static_cast<s32>(b));
  });
  check("div.u64 $d, $a, $b;", b64, {b64, b64}, [](u64 a, u64 b, u64) { return b == 0 ? ~u64{0} : a / b; });
  check("rem.s64 $d, $a, $b;", b64, {b64, b64}, [](u64 a, u64 b, u64) {
    return b == 0 ? a : static_cast<u64>(static_cast<s128>(static_cast<s64>(a)) % static_cast<s64>(b));
  });
  check("abs.s32 $d, $a;", b32, {b32}, [](u64 a, u64, u64) { return static_cast<s32>(a) < 0 ? 0 - a : a; });
  check("neg.s64 $d, $a;", b64, {b64}, [](u64 a, u64, u64) { return 0 - a; });
  check("min.s32 $d, $a, $b;", b32, {b32, b32},
        [](u64 a, u64 b, u64) { return static_cast<s32>(a) < static_cast<s32>(b) ? a : b; });
  check("max.u16 $d, $a, $b;", b16, {b16, b16}, [](u64 a, u64 b, u64) { return std::max(a, b); });
  check("sad.s32 $d, $a, $b, $c;", b32, {b32, b32, b32}, [](u64 a, u64 b, u64 c) {
    return c + static_cast<u64>(std::abs(s64{static_cast<s32>(a)} - static_cast<s32>(b)));
  });
  check("add.sat.s32 $d, $a, $b;", b32, {b32, b32}, [](u64 a, u64 b, u64) {
    return static_cast<u64>(
        std::clamp<s64>(s64{static_cast<s32>(a)} + static_cast<s32>(b), INT32_MIN, INT32_MAX));
  });
  check("mul24.lo.s32 $d, $a, $b;", b32, {b32, b32}, [](u64 a, u64 b, u64) {
    return static_cast<u64>(s64{static_cast<s32>(a << 8) >> 8} * (static_cast<s32>(b << 8) >> 8));
  });
  check("dp4a.s32.u32 $d, $a, $b, $c;", b32, {b32, b32, b32}, [](u64 a, u64 b, u64 c) {
    for (int k = 0; k < 4; ++k)
      c += static_cast<u64>(s64{static_cast<s8>(a >> 8 * k)} * static_cast<u8>(b >> 8 * k));
    return c;
  });
  check("dp2a.hi.s32.s32 $d, $a, $b, $c;", b32, {b32, b32, b32}, [](u64 a, u64 b, u64 c) {
    for (int k = 0; k < 2; ++k)
      c += static_cast<u64>(s64{static_cast<s16>(a >> 16 * k)} * static_cast<s8>(b >> (16 + 8 * k)));
    return c;
  });
}

TEST(Ops, CarryChains) {
  const std::string split =
      "{ .reg .b32 %l<2>, %m<2>, %n<2>, %q<2>; mov.b64 {%l0, %l1}, $a; mov.b64 {%m0, %m1}, $b; mov.b64 {%q0, "
      "%q1}, $c; ";
  check(split + "add.cc.u32 %n0, %l0, %m0; addc.u32 %n1, %l1, %m1; mov.b64 $d, {%n0, %n1}; }", b64,
        {b64, b64, b64}, [](u64 a, u64 b, u64) { return a + b; });
  check(split + "sub.cc.u32 %n0, %l0, %m0; subc.u32 %n1, %l1, %m1; mov.b64 $d, {%n0, %n1}; }", b64,
        {b64, b64, b64}, [](u64 a, u64 b, u64) { return a - b; });
  check(split + "mad.lo.cc.u32 %n0, %l0, %m0, %q0; madc.hi.u32 %n1, %l0, %m0, %q1; mov.b64 $d, {%n0, %n1}; }",
        b64, {b64, b64, b64}, [](u64 a, u64 b, u64 c) { return (a & 0xffffffff) * (b & 0xffffffff) + c; });
  check("add.cc.s64 %x3, $a, $b; addc.s64 $d, $c, 0;", b64, {b64, b64, b64},
        [](u64 a, u64 b, u64 c) { return c + (a + b < a ? 1U : 0U); });
  check("sub.cc.s64 %x3, $a, $b; subc.s64 $d, $c, 0;", b64, {b64, b64, b64},
        [](u64 a, u64 b, u64 c) { return c - (a < b ? 1U : 0U); });
}

TEST(Ops, Bits) {
  check("and.b32 $d, $a, $b;", b32, {b32, b32}, [](u64 a, u64 b, u64) { return a & b; });
  check("xor.b64 $d, $a, $b;", b64, {b64, b64}, [](u64 a, u64 b, u64) { return a ^ b; });
  check("not.b16 $d, $a;", b16, {b16}, [](u64 a, u64, u64) { return ~a; });
  check("cnot.b32 $d, $a;", b32, {b32}, [](u64 a, u64, u64) { return u64{a == 0}; });
  for (const int lut : {0xe8, 0x96, 0x80, 0xfe, 0x1b}) {
    check("lop3.b32 $d, $a, $b, $c, " + std::to_string(lut) + ";", b32, {b32, b32, b32},
          [lut](u64 a, u64 b, u64 c) {
            u64 r = 0;
            for (int k = 0; k < 32; ++k)
              r |= static_cast<u64>(lut >> ((a >> k & 1) * 4 + (b >> k & 1) * 2 + (c >> k & 1)) & 1) << k;
            return r;
          });
  }
  check("shl.b32 $d, $a, $b;", b32, {b32, b32}, [](u64 a, u64 b, u64) { return b > 31 ? 0 : a << b; });
  check("shl.b64 $d, $a, $b;", b64, {b64, b32}, [](u64 a, u64 b, u64) { return b > 63 ? 0 : a << b; });
  check("shl.b16 $d, $a, $b;", b16, {b16, b32}, [](u64 a, u64 b, u64) { return b > 15 ? 0 : a << b; });
  check("shr.u32 $d, $a, $b;", b32, {b32, b32}, [](u64 a, u64 b, u64) { return b > 31 ? 0 : a >> b; });
  check("shr.s32 $d, $a, $b;", b32, {b32, b32},
        [](u64 a, u64 b, u64) { return static_cast<u64>(s64{static_cast<s32>(a)} >> std::min<u64>(b, 31)); });
  check("shr.s16 $d, $a, $b;", b16, {b16, b32},
        [](u64 a, u64 b, u64) { return static_cast<u64>(s64{static_cast<s16>(a)} >> std::min<u64>(b, 31)); });
  check("shf.l.wrap.b32 $d, $a, $b, $c;", b32, {b32, b32, b32},
        [](u64 a, u64 b, u64 c) { return ((b << 32 | a) << (c & 31)) >> 32; });
  check("shf.r.clamp.b32 $d, $a, $b, $c;", b32, {b32, b32, b32},
        [](u64 a, u64 b, u64 c) { return (b << 32 | a) >> std::min<u64>(c, 32); });
  check("prmt.b32 $d, $a, $b, $c;", b32, {b32, b32, b32}, [](u64 a, u64 b, u64 c) {
    u64 r = 0;
    for (int k = 0; k < 4; ++k) {
      const u64 s = c >> 4 * k & 15;
      const u8 byte = static_cast<u8>((b << 32 | a) >> 8 * (s & 7));
      r |= static_cast<u64>(s & 8 ? (byte & 0x80 ? 0xff : 0) : byte) << 8 * k;
    }
    return r;
  });
  check("popc.b64 $d, $a;", b32, {b64}, [](u64 a, u64, u64) { return static_cast<u64>(std::popcount(a)); });
  check("clz.b32 $d, $a;", b32, {b32},
        [](u64 a, u64, u64) { return static_cast<u64>(std::countl_zero(static_cast<u32>(a))); });
  check("brev.b32 $d, $a;", b32, {b32}, [](u64 a, u64, u64) {
    u64 r = 0;
    for (int k = 0; k < 32; ++k) r |= (a >> k & 1) << (31 - k);
    return r;
  });
  check("bfind.u32 $d, $a;", b32, {b32},
        [](u64 a, u64, u64) { return a == 0 ? ~u64{0} : static_cast<u64>(63 - std::countl_zero(a)); });
  check("bfind.shiftamt.s64 $d, $a;", b32, {b64}, [](u64 a, u64, u64) {
    const u64 v = static_cast<s64>(a) < 0 ? ~a : a;
    return v == 0 ? ~u64{0} : static_cast<u64>(std::countl_zero(v));
  });
  auto bfe = [](u64 a, u64 b, u64 c, unsigned width, bool is_signed) {
    const u64 pos = b & 255, len = c & 255;
    u64 r = 0;
    const u64 sign = is_signed && len != 0 ? a >> std::min<u64>(pos + len - 1, width - 1) & 1 : 0;
    for (u64 k = 0; k < width; ++k) r |= (k < len && pos + k < width ? a >> (pos + k) & 1 : sign) << k;
    return r;
  };
  check("bfe.u32 $d, $a, $b, $c;", b32, {b32, b32, b32},
        [&](u64 a, u64 b, u64 c) { return bfe(a, b, c, 32, false); });
  check("bfe.s32 $d, $a, $b, $c;", b32, {b32, b32, b32},
        [&](u64 a, u64 b, u64 c) { return bfe(a, b, c, 32, true); });
  check("bfe.s64 $d, $a, $b, $c;", b64, {b64, b32, b32},
        [&](u64 a, u64 b, u64 c) { return bfe(a, b, c, 64, true); });
  check("bfi.b32 $d, $a, $b, 7, 9;", b32, {b32, b32},
        [](u64 a, u64 b, u64) { return (b & ~u64{0x1ff << 7}) | (a & 0x1ff) << 7; });
  check("bfi.b64 $d, $a, $b, 32, 32;", b64, {b64, b64},
        [](u64 a, u64 b, u64) { return a << 32 | (b & 0xffffffff); });
  check("bmsk.clamp.b32 $d, $a, $b;", b32, {b32, b32},
        [](u64 a, u64 b, u64) { return a > 31 ? 0 : ((u64{1} << std::min<u64>(b, 32)) - 1) << a; });
}

TEST(Ops, SinglePrecision) {
  check("add.f32 $d, $a, $b;", f32, {f32, f32}, [](u64 a, u64 b, u64) { return U(F(a) + F(b)); });
  check("sub.ftz.f32 $d, $a, $b;", f32, {f32, f32},
        [](u64 a, u64 b, u64) { return U(flush(flush(F(a)) - flush(F(b)))); });
  check("mul.ftz.f32 $d, $a, $b;", f32, {f32, f32},
        [](u64 a, u64 b, u64) { return U(flush(flush(F(a)) * flush(F(b)))); });
  check("mul.rn.sat.f32 $d, $a, $b;", f32, {f32, f32}, [](u64 a, u64 b, u64) {
    const float r = F(a) * F(b);
    return U(r > 0 ? std::min(r, 1.0F) : 0.0F);
  });
  check("fma.rn.f32 $d, $a, $b, $c;", f32, {f32, f32, f32},
        [](u64 a, u64 b, u64 c) { return U(std::fma(F(a), F(b), F(c))); });
  for (const auto& [name, mode] :
       {std::pair<std::string, int>{"rz", FE_TOWARDZERO}, {"rm", FE_DOWNWARD}, {"rp", FE_UPWARD}}) {
    auto with = [m = mode](auto f) {
      std::fesetround(m);
      volatile auto r = f();
      std::fesetround(FE_TONEAREST);
      return U(decltype(f())(r));
    };
    check("add." + name + ".f32 $d, $a, $b;", f32, {f32, f32}, [&](u64 a, u64 b, u64) {
      return with([&] {
        volatile float x = F(a), y = F(b);
        return x + y;
      });
    });
    check("fma." + name + ".f32 $d, $a, $b, $c;", f32, {f32, f32, f32}, [&](u64 a, u64 b, u64 c) {
      return with([&] {
        volatile float x = F(a), y = F(b), z = F(c);
        return std::fma(float(x), float(y), float(z));
      });
    });
    check("div." + name + ".f32 $d, $a, $b;", f32, {f32, f32}, [&](u64 a, u64 b, u64) {
      return with([&] {
        volatile float x = F(a), y = F(b);
        return x / y;
      });
    });
    check(
        "mul." + name + ".f64 $d, $a, $b;", f64, {f64, f64},
        [&](u64 a, u64 b, u64) {
          return with([&] {
            volatile double x = D(a), y = D(b);
            return x * y;
          });
        },
        same64);
  }
  check("div.rn.f32 $d, $a, $b;", f32, {f32, f32}, [](u64 a, u64 b, u64) { return U(F(a) / F(b)); });
  check("sqrt.rn.f32 $d, $a;", f32, {f32}, [](u64 a, u64, u64) { return U(std::sqrt(F(a))); });
  check("rcp.rn.f32 $d, $a;", f32, {f32}, [](u64 a, u64, u64) { return U(1.0F / F(a)); });
  check("abs.f32 $d, $a;", f32, {f32}, [](u64 a, u64, u64) { return a & 0x7fffffff; });
  check("neg.ftz.f32 $d, $a;", f32, {f32},
        [](u64 a, u64, u64) { return std::bit_cast<u32>(flush(F(a))) ^ 0x80000000; });
  auto least = [](float a, float b) {
    return a != a ? b : b != b ? a : a == b ? (std::signbit(a) ? a : b) : std::min(a, b);
  };
  check("min.f32 $d, $a, $b;", f32, {f32, f32}, [=](u64 a, u64 b, u64) { return U(least(F(a), F(b))); });
  check("max.ftz.f32 $d, $a, $b;", f32, {f32, f32},
        [=](u64 a, u64 b, u64) { return U(-least(-flush(F(a)), -flush(F(b)))); });
  check("min.NaN.f32 $d, $a, $b;", f32, {f32, f32},
        [=](u64 a, u64 b, u64) { return F(a) != F(a) || F(b) != F(b) ? 0x7fffffff : U(least(F(a), F(b))); });
  check("copysign.f32 $d, $a, $b;", f32, {f32, f32},
        [](u64 a, u64 b, u64) { return (a & 0x80000000) | (b & 0x7fffffff); });
}

TEST(Ops, Approximations) {
  auto close = [](double relative, double absolute) {
    return [=](u64 got, u64 want) {
      const double g = F(got), w = F(want);
      if (w != w) return g != g;
      if (std::isinf(w)) return g == w;
      if (std::fabs(w) < 0x1p-125) return std::fabs(g - w) <= 0x1p-125;
      return std::fabs(g - w) <= std::max(relative * std::fabs(w), absolute) ||
             (std::isinf(g) && std::fabs(w) > 3.4e38);
    };
  };
  check(
      "ex2.approx.f32 $d, $a;", f32, {f32},
      [](u64 a, u64, u64) { return U(static_cast<float>(std::exp2(double{F(a)}))); }, close(0x1p-22, 0));
  check(
      "ex2.approx.ftz.f32 $d, $a;", f32, {f32},
      [](u64 a, u64, u64) { return U(flush(static_cast<float>(std::exp2(double{F(a)})))); },
      close(0x1p-22, 0));
  check(
      "lg2.approx.f32 $d, $a;", f32, {f32},
      [](u64 a, u64, u64) { return U(static_cast<float>(std::log2(double{F(a)}))); },
      close(0x1p-22, 0x1p-22));
  auto small = [](u64 a) { return std::fabs(F(a)) <= 1e5F || F(a) != F(a) || std::isinf(F(a)); };
  check(
      "sin.approx.f32 $d, $a;", f32, {f32},
      [=](u64 a, u64, u64) { return small(a) ? U(static_cast<float>(std::sin(double{F(a)}))) : 0; },
      [=](u64 g, u64 w) { return close(0, 0x1p-20)(g, w) || w == 0; });
  check(
      "cos.approx.f32 $d, $a;", f32, {f32},
      [=](u64 a, u64, u64) { return small(a) ? U(static_cast<float>(std::cos(double{F(a)}))) : 0; },
      [=](u64 g, u64 w) { return close(0, 0x1p-20)(g, w) || w == 0; });
  check(
      "tanh.approx.f32 $d, $a;", f32, {f32},
      [](u64 a, u64, u64) { return U(static_cast<float>(std::tanh(double{F(a)}))); }, close(0x1p-11, 0));
  check(
      "rcp.approx.ftz.f32 $d, $a;", f32, {f32}, [](u64 a, u64, u64) { return U(flush(1 / flush(F(a)))); },
      close(0x1p-22, 0));
  check(
      "rsqrt.approx.f32 $d, $a;", f32, {f32},
      [](u64 a, u64, u64) { return U(static_cast<float>(1 / std::sqrt(double{F(a)}))); }, close(0x1p-22, 0));
  check(
      "sqrt.approx.f32 $d, $a;", f32, {f32}, [](u64 a, u64, u64) { return U(std::sqrt(F(a))); },
      close(0x1p-22, 0));
  check(
      "div.full.f32 $d, $a, $b;", f32, {f32, f32}, [](u64 a, u64 b, u64) { return U(F(a) / F(b)); },
      close(0x1p-21, 0));
}

TEST(Ops, DoublePrecision) {
  check(
      "add.f64 $d, $a, $b;", f64, {f64, f64}, [](u64 a, u64 b, u64) { return U(D(a) + D(b)); }, same64);
  check(
      "fma.rn.f64 $d, $a, $b, $c;", f64, {f64, f64, f64},
      [](u64 a, u64 b, u64 c) { return U(std::fma(D(a), D(b), D(c))); }, same64);
  check(
      "div.rn.f64 $d, $a, $b;", f64, {f64, f64}, [](u64 a, u64 b, u64) { return U(D(a) / D(b)); }, same64);
  check(
      "sqrt.rn.f64 $d, $a;", f64, {f64}, [](u64 a, u64, u64) { return U(std::sqrt(D(a))); }, same64);
  check("neg.f64 $d, $a;", f64, {f64}, [](u64 a, u64, u64) { return a ^ (u64{1} << 63); });
  check(
      "mul.f64 $d, $a, 0d3FF8000000000000;", f64, {f64}, [](u64 a, u64, u64) { return U(D(a) * 1.5); },
      same64);
  auto near = [](u64 g, u64 w) {
    const double x = D(g), y = D(w);
    return same64(g, w) || std::fabs(x - y) <= std::fabs(y) * 0x1p-19 || std::fabs(y) < 0x1p-1020;
  };
  check(
      "rcp.approx.ftz.f64 $d, $a;", f64, {f64},
      [](u64 a, u64, u64) {
        const double x = std::fpclassify(D(a)) == FP_SUBNORMAL ? std::copysign(0.0, D(a)) : D(a);
        return U(1 / x);
      },
      near);
}

TEST(Ops, HalfPrecision) {
  check("add.f16 $d, $a, $b;", b16, {b16, b16}, [](u64 a, u64 b, u64) { return to_half(half(a) + half(b)); });
  check("mul.f16 $d, $a, $b;", b16, {b16, b16}, [](u64 a, u64 b, u64) { return to_half(half(a) * half(b)); });
  // long double holds every product plus addend of halves exactly.
  auto fma = [](u64 a, u64 b, u64 c) {
    const long double exact = static_cast<long double>(half(a)) * static_cast<long double>(half(b)) +
                              static_cast<long double>(half(c));
    const auto rounded = static_cast<double>(exact);
    if (rounded != rounded || std::isinf(rounded) || static_cast<long double>(rounded) == exact)
      return to_half(rounded);
    // Nudge to odd so that the second rounding is right.
    u64 bits = std::bit_cast<u64>(rounded) & ~u64{0};
    if (std::fabs(static_cast<long double>(rounded)) > std::fabs(exact)) --bits;
    return to_half(std::bit_cast<double>(bits | 1));
  };
  check("fma.rn.f16 $d, $a, $b, $c;", b16, {b16, b16, b16}, fma);
  check("fma.rn.f16x2 $d, $a, $b, $c;", b32, {b32, b32, b32}, [=](u64 a, u64 b, u64 c) {
    return fma(a & 0xffff, b & 0xffff, c & 0xffff) | fma(a >> 16, b >> 16, c >> 16) << 16;
  });
  check("sub.f16x2 $d, $a, $b;", b32, {b32, b32}, [](u64 a, u64 b, u64) {
    return to_half(half(a) - half(b)) | to_half(half(a >> 16) - half(b >> 16)) << 16;
  });
  check("neg.f16x2 $d, $a;", b32, {b32}, [](u64 a, u64, u64) { return a ^ 0x80008000; });
}

TEST(Ops, Comparisons) {
  const std::string sel = " selp.u32 $d, 1, 0, %p1;";
  check("setp.lt.s32 %p1, $a, $b;" + sel, b32, {b32, b32},
        [](u64 a, u64 b, u64) { return u64{static_cast<s32>(a) < static_cast<s32>(b)}; });
  check("setp.hs.u64 %p1, $a, $b;" + sel, b32, {b64, b64}, [](u64 a, u64 b, u64) { return u64{a >= b}; });
  check("setp.ne.s16 %p1, $a, $b;" + sel, b32, {b16, b16}, [](u64 a, u64 b, u64) { return u64{a != b}; });
  check("setp.lt.f32 %p1, $a, $b;" + sel, b32, {f32, f32},
        [](u64 a, u64 b, u64) { return u64{F(a) < F(b)}; });
  check("setp.geu.ftz.f32 %p1, $a, $b;" + sel, b32, {f32, f32},
        [](u64 a, u64 b, u64) { return u64{!(flush(F(a)) < flush(F(b)))}; });
  check("setp.ne.f64 %p1, $a, $b;" + sel, b32, {f64, f64},
        [](u64 a, u64 b, u64) { return u64{D(a) < D(b) || D(a) > D(b)}; });
  check("setp.neu.f32 %p1, $a, $b;" + sel, b32, {f32, f32},
        [](u64 a, u64 b, u64) { return u64{F(a) != F(b)}; });
  check("setp.nan.f32 %p1, $a, $b;" + sel, b32, {f32, f32},
        [](u64 a, u64 b, u64) { return u64{F(a) != F(a) || F(b) != F(b)}; });
  check("setp.gt.f16 %p1, $a, $b;" + sel, b32, {b16, b16},
        [](u64 a, u64 b, u64) { return u64{half(a) > half(b)}; });
  check(
      "setp.eq.s32 %p2, $c, 0; setp.lt.and.u32 %p1|%p3, $a, $b, !%p2; selp.u32 $d, 1, 0, %p1; @%p3 add.u32 "
      "$d, $d, 2;",
      b32, {b32, b32, b32},
      [](u64 a, u64 b, u64 c) { return (a < b && c != 0 ? 1U : 0U) + (a >= b && c != 0 ? 2U : 0U); });
  check("set.gt.u32.f32 $d, $a, $b;", b32, {f32, f32},
        [](u64 a, u64 b, u64) { return F(a) > F(b) ? 0xffffffffU : 0; });
  check("slct.b32.s32 $d, $a, $b, $c;", b32, {b32, b32, b32},
        [](u64 a, u64 b, u64 c) { return static_cast<s32>(c) >= 0 ? a : b; });
  check("testp.subnormal.f32 %p1, $a;" + sel, b32, {f32},
        [](u64 a, u64, u64) { return u64{std::fpclassify(F(a)) == FP_SUBNORMAL}; });
}

TEST(Ops, IntegerConversions) {
  check("cvt.u32.u16 $d, $a;", b32, {b16}, [](u64 a, u64, u64) { return a; });
  check("cvt.s32.s8 $d, $a;", b32, {b32},
        [](u64 a, u64, u64) { return static_cast<u64>(s64{static_cast<s8>(a)}); });
  check("cvt.s16.s8 $d, $a;", b16, {b16},
        [](u64 a, u64, u64) { return static_cast<u64>(s64{static_cast<s8>(a)}); });
  check("cvt.u16.u8 $d, $a;", b16, {b16}, [](u64 a, u64, u64) { return a & 0xff; });
  check("cvt.s64.s32 $d, $a;", b64, {b32},
        [](u64 a, u64, u64) { return static_cast<u64>(s64{static_cast<s32>(a)}); });
  check("cvt.u32.u64 $d, $a;", b32, {b64}, [](u64 a, u64, u64) { return a; });
  check("cvt.sat.s8.s32 $d, $a;", b32, {b32},
        [](u64 a, u64, u64) { return static_cast<u64>(std::clamp<s64>(static_cast<s32>(a), -128, 127)); });
  check("cvt.sat.u16.s64 $d, $a;", b16, {b64},
        [](u64 a, u64, u64) { return static_cast<u64>(std::clamp<s64>(static_cast<s64>(a), 0, 65535)); });
}

TEST(Ops, FloatConversions) {
  check("cvt.rn.f32.s32 $d, $a;", f32, {b32},
        [](u64 a, u64, u64) { return U(static_cast<float>(static_cast<s32>(a))); });
  check("cvt.rn.f32.u64 $d, $a;", f32, {b64}, [](u64 a, u64, u64) { return U(static_cast<float>(a)); });
  check("cvt.rn.f64.s64 $d, $a;", f64, {b64},
        [](u64 a, u64, u64) { return U(static_cast<double>(static_cast<s64>(a))); });
  check("cvt.rn.f32.s16 $d, $a;", f32, {b16},
        [](u64 a, u64, u64) { return U(static_cast<float>(static_cast<s16>(a))); });
  auto integer = [](double v, double low, double high, double nan) {
    return v != v ? nan : std::clamp(v, low, high);
  };
  check("cvt.rzi.s32.f32 $d, $a;", b32, {f32}, [=](u64 a, u64, u64) {
    return static_cast<u64>(static_cast<s64>(integer(std::trunc(double{F(a)}), INT32_MIN, INT32_MAX, 0)));
  });
  check("cvt.rni.s32.f32 $d, $a;", b32, {f32}, [=](u64 a, u64, u64) {
    return static_cast<u64>(static_cast<s64>(integer(std::nearbyint(double{F(a)}), INT32_MIN, INT32_MAX, 0)));
  });
  check("cvt.rmi.u32.f32 $d, $a;", b32, {f32}, [=](u64 a, u64, u64) {
    return static_cast<u64>(integer(std::floor(double{F(a)}), 0, UINT32_MAX, 0));
  });
  check("cvt.rpi.s32.f64 $d, $a;", b32, {f64}, [=](u64 a, u64, u64) {
    return static_cast<u64>(static_cast<s64>(integer(std::ceil(D(a)), INT32_MIN, INT32_MAX, INT32_MIN)));
  });
  check("cvt.rzi.s64.f64 $d, $a;", b64, {f64}, [](u64 a, u64, u64) -> u64 {
    const double v = D(a);
    if (v != v || v < -0x1p63) return u64{1} << 63;
    return v >= 0x1p63 ? ~(u64{1} << 63) : static_cast<u64>(static_cast<s64>(v));
  });
  check("cvt.rzi.u64.f32 $d, $a;", b64, {f32}, [](u64 a, u64, u64) -> u64 {
    const double v = F(a);
    if (v != v) return u64{1} << 63;
    return v <= 0 ? 0 : v >= 0x1p64 ? ~u64{0} : static_cast<u64>(v);
  });
  check("cvt.rzi.u8.f32 $d, $a;", b16, {f32},
        [=](u64 a, u64, u64) { return static_cast<u64>(integer(std::trunc(double{F(a)}), 0, 255, 0)); });
  check("cvt.rn.f32.f64 $d, $a;", f32, {f64}, [](u64 a, u64, u64) { return U(static_cast<float>(D(a))); });
  check(
      "cvt.f64.f32 $d, $a;", f64, {f32}, [](u64 a, u64, u64) { return U(double{F(a)}); }, same64);
  check("cvt.rmi.f32.f32 $d, $a;", f32, {f32}, [](u64 a, u64, u64) { return U(std::floor(F(a))); });
  check(
      "cvt.rni.f64.f64 $d, $a;", f64, {f64}, [](u64 a, u64, u64) { return U(std::nearbyint(D(a))); }, same64);
  check("cvt.sat.f32.f32 $d, $a;", f32, {f32},
        [](u64 a, u64, u64) { return U(F(a) > 0 ? std::min(F(a), 1.0F) : 0.0F); });
  check("cvt.f32.f16 $d, $a;", f32, {b16}, [](u64 a, u64, u64) { return U(static_cast<float>(half(a))); });
  check("cvt.rn.f16.f32 $d, $a;", b16, {f32}, [](u64 a, u64, u64) { return to_half(F(a)); });
  check("cvt.rn.f16.f64 $d, $a;", b16, {f64}, [](u64 a, u64, u64) { return to_half(D(a)); });
  check("cvt.rn.f16.s32 $d, $a;", b16, {b32},
        [](u64 a, u64, u64) { return to_half(static_cast<double>(static_cast<s32>(a))); });
  check("cvt.rzi.s32.f16 $d, $a;", b32, {b16}, [=](u64 a, u64, u64) {
    return static_cast<u64>(static_cast<s64>(integer(std::trunc(half(a)), INT32_MIN, INT32_MAX, 0)));
  });
}

TEST(Ops, PackingAndGuards) {
  check("{ .reg .b16 %h<3>; mov.b32 {%h0, %h1}, $a; mov.b32 $d, {%h1, %h0}; }", b32, {b32},
        [](u64 a, u64, u64) { return a >> 16 | a << 16; });
  check("{ .reg .b32 %h<3>; mov.b64 {_, %h1}, $a; mov.b64 $d, {%h1, %h1}; }", b64, {b64},
        [](u64 a, u64, u64) { return a >> 32 | (a >> 32) << 32; });
  check("setp.lt.u32 %p1, $a, $b; mov.b32 $d, 5; @%p1 mov.b32 $d, $a; @!%p1 add.u32 $d, $d, $b;", b32,
        {b32, b32}, [](u64 a, u64 b, u64) { return a < b ? a : 5 + b; });
  check("st.global.v4.u16 [%x1], {$a, $b, $a, $b}; ld.global.u64 $d, [%x1];", b64, {b16, b16},
        [](u64 a, u64 b, u64) { return (a | b << 16) * 0x100000001; });
  check("ld.global.s8 $d, [%x0];", b64, {b64},
        [](u64 a, u64, u64) { return static_cast<u64>(s64{static_cast<s8>(a)}); });
}

}  // namespace
}  // namespace softgpu::test
