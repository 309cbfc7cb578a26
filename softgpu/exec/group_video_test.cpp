// Video instructions and the SIMD forms behind CUDA's __v...2 and __v...4 intrinsics, against plain loops.
#include <algorithm>
#include <cstdlib>
#include <functional>
#include <random>
#include <sstream>
#include <string>

#include "softgpu/exec/test_device.hpp"

namespace softgpu::test {
namespace {

using u32 = std::uint32_t;
using s64 = std::int64_t;

using Expected = std::function<u32(u32 a, u32 b, u32 c)>;

/// `body` computes %d from %a, %b, %c on every lane of one warp, several times.
void check(const std::string& body, const Expected& expected) {
  const std::string text = header() + R"(.visible .entry k(.param .u64 data)
{ .reg .pred %p, %q; .reg .b32 %i, %a, %b, %c, %d; .reg .b64 %x<3>;
  ld.param.u64 %x0, [data]; mov.u32 %i, %tid.x; mul.wide.u32 %x1, %i, 16; add.s64 %x0, %x0, %x1;
  ld.global.v4.b32 {%a, %b, %c, %d}, [%x0];
)" + body + R"(
  st.global.b32 [%x0+12], %d; ret; })";
  constexpr std::size_t threads = 256;
  const Array<u32> data(4 * threads);
  std::mt19937 random(static_cast<u32>(body.size()));
  for (std::size_t i = 0; i < data.size(); ++i) {
    const auto v = static_cast<u32>(random());
    data[i] = v % 5 == 0 ? (v & 0x80808080U) : v % 7 == 0 ? (v | 0x7f7f7f7fU) : v;
  }
  std::vector<u32> want;
  for (std::size_t i = 0; i < threads; ++i)
    want.push_back(expected(data[4 * i], data[4 * i + 1], data[4 * i + 2]));
  Program p(text, 1);
  p.expect_ok("k", {1}, {threads}, Params().add(data.address()));
  for (std::size_t i = 0; i < threads; ++i) {
    ASSERT_EQ(data[4 * i + 3], want[i])
        << body << std::hex << " a=" << data[4 * i] << " b=" << data[4 * i + 1] << " c=" << data[4 * i + 2];
  }
}

s64 part(u32 v, unsigned k, unsigned bits, bool is_signed) {
  s64 r = v >> (k * bits) & ((1U << bits) - 1);
  if (is_signed && r >= s64{1} << (bits - 1)) r -= s64{1} << bits;
  return r;
}
s64 limited(s64 v, unsigned bits, bool is_signed) {
  const s64 low = is_signed ? -(s64{1} << (bits - 1)) : 0,
            high = (s64{1} << (is_signed ? bits - 1 : bits)) - 1;
  return std::clamp(v, low, high);
}

using Each = std::function<s64(s64, s64)>;

Expected packed(unsigned bits, bool is_signed, bool saturates, const Each& f) {
  return [=](u32 a, u32 b, u32) {
    u32 d = 0;
    for (unsigned k = 0; k < 32 / bits; ++k) {
      s64 v = f(part(a, k, bits, is_signed), part(b, k, bits, is_signed));
      if (saturates) v = limited(v, bits, is_signed);
      d |= (static_cast<u32>(v) & ((1U << bits) - 1)) << (k * bits);
    }
    return d;
  };
}
Expected summed(unsigned bits, bool is_signed, const Each& f) {
  return [=](u32 a, u32 b, u32 c) {
    for (unsigned k = 0; k < 32 / bits; ++k)
      c += static_cast<u32>(f(part(a, k, bits, is_signed), part(b, k, bits, is_signed)));
    return c;
  };
}

const Each add = [](s64 a, s64 b) { return a + b; };
const Each sub = [](s64 a, s64 b) { return a - b; };
const Each difference = [](s64 a, s64 b) { return std::abs(a - b); };

TEST(Video, WorksOnBytesAndHalvesAtOnce) {
  for (const unsigned bits : {8U, 16U}) {
    const std::string n = bits == 8 ? "4" : "2";
    for (const bool is_signed : {false, true}) {
      const std::string t = is_signed ? ".s32.s32.s32" : ".u32.u32.u32";
      const auto instruction = [&](const char* name, const std::string& types, const char* suffix = "") {
        return (std::ostringstream() << name << n << types << suffix << " %d, %a, %b, %c;").str();
      };
      check(instruction("vadd", t), packed(bits, is_signed, false, add));
      check(instruction("vsub", t), packed(bits, is_signed, false, sub));
      check(instruction("vadd", t, ".sat"), packed(bits, is_signed, true, add));
      check(instruction("vsub", t, ".sat"), packed(bits, is_signed, true, sub));
      check(instruction("vabsdiff", t), packed(bits, is_signed, false, difference));
      check(instruction("vabsdiff", t, ".add"), summed(bits, is_signed, difference));
      check(instruction("vmin", t),
            packed(bits, is_signed, false, [](s64 a, s64 b) { return std::min(a, b); }));
      check(instruction("vmax", t),
            packed(bits, is_signed, false, [](s64 a, s64 b) { return std::max(a, b); }));
      check(instruction("vset", t.substr(4), ".lt"),
            packed(bits, is_signed, false, [](s64 a, s64 b) { return a < b; }));
      check(instruction("vset", t.substr(4), ".ge.add"),
            summed(bits, is_signed, [](s64 a, s64 b) { return a >= b; }));
    }
    check(bits == 8 ? "vavrg4.u32.u32.u32 %d, %a, %b, %c;" : "vavrg2.u32.u32.u32 %d, %a, %b, %c;",
          packed(bits, false, false, [](s64 a, s64 b) { return (a + b + 1) / 2; }));
  }
}

TEST(Video, PicksBytesAndHalves) {
  check("vadd.s32.u32.s32 %d, %a.b1, %b.h1;",
        [](u32 a, u32 b, u32) { return static_cast<u32>(part(a, 1, 8, false) + part(b, 1, 16, true)); });
  check("vsub.s32.s32.s32.sat %d, %a, %b;", [](u32 a, u32 b, u32) {
    return static_cast<u32>(
        limited(s64{static_cast<std::int32_t>(a)} - static_cast<std::int32_t>(b), 32, true));
  });
  check("vabsdiff.u32.u32.u32.add %d, %a.b0, %b.b3, %c;", [](u32 a, u32 b, u32 c) {
    return c + static_cast<u32>(std::abs(part(a, 0, 8, false) - part(b, 3, 8, false)));
  });
  check("vmax.s32.s32.s32.min %d, %a.h0, %b.h1, %c;", [](u32 a, u32 b, u32 c) {
    const s64 most = std::max(part(a, 0, 16, true), part(b, 1, 16, true));
    return static_cast<u32>(std::min<s64>(most, static_cast<std::int32_t>(c)));
  });
  check("vadd.u32.u32.u32.sat %d.b2, %a.b0, %b.b0, %c;", [](u32 a, u32 b, u32 c) {
    const auto v = static_cast<u32>(limited(part(a, 0, 8, false) + part(b, 0, 8, false), 8, false));
    return (c & 0xff00ffffU) | v << 16;
  });
}

TEST(Video, ShiftsComparesAndMultiplies) {
  check("vshl.u32.u32.u32.clamp %d, %a, %b.b0;",
        [](u32 a, u32 b, u32) { return (b & 255) > 31 ? 0U : a << (b & 255); });
  check("vshr.s32.s32.u32.wrap %d, %a, %b;",
        [](u32 a, u32 b, u32) { return static_cast<u32>(static_cast<std::int32_t>(a) >> (b & 31)); });
  check("vset.s32.s32.gt %d, %a.b3, %b.b3;",
        [](u32 a, u32 b, u32) { return part(a, 3, 8, true) > part(b, 3, 8, true) ? 1U : 0U; });
  check("vmad.s32.s32.u32 %d, %a.b0, %b.h1, %c;", [](u32 a, u32 b, u32 c) {
    return static_cast<u32>(part(a, 0, 8, true) * part(b, 1, 16, false)) + c;
  });
  check("vmad.s32.s32.s32.sat.shr7 %d, %a, %b, -%c;", [](u32 a, u32 b, u32 c) {
    const s64 product = s64{static_cast<std::int32_t>(a)} * static_cast<std::int32_t>(b);
    return static_cast<u32>(limited((product - static_cast<std::int32_t>(c)) >> 7, 32, true));
  });
}

TEST(Video, LogicOpsGiveAPredicateToo) {
  check(
      "setp.lt.u32 %q, %a, 0x40000000; lop3.or.b32 %d|%p, %a, %b, 0, 0xc0, %q; selp.b32 %c, 1, 0, %p; "
      "add.u32 %d, %d, %c;",
      [](u32 a, u32 b, u32) { return (a & b) + ((a & b) != 0 || a < 0x40000000U ? 1U : 0U); });
  check("setp.lt.u32 %q, %a, 0x40000000; lop3.and.b32 _|%p, %a, %b, %c, 0x80, %q; selp.b32 %d, 1, 0, %p;",
        [](u32 a, u32 b, u32 c) { return (a & b & c) != 0 && a < 0x40000000U ? 1U : 0U; });
}

TEST(Video, RefusesSelectorsThatItDoesNotKnow) {
  Program p(
      header() + ".visible .entry k() { .reg .b32 %r<4>; vadd4.u32.u32.u32 %r0, %r1.b7531, %r2, %r3; ret; }",
      1);
  EXPECT_EQ(p.run("k", {1}, {1}, Params()).fault, Fault::unsupported);
}

}  // namespace
}  // namespace softgpu::test
