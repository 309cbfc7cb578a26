// Atomic operations: what each returns and leaves behind, and that none is lost between many blocks.
#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>

#include "softgpu/exec/test_device.hpp"

namespace softgpu::test {
namespace {

using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s32 = std::int32_t;
using s64 = std::int64_t;

/// Runs one thread: `op` works on [%m] (or shared [%s]) with operands %a, %b; returns {old value, new
/// content}.
std::pair<u64, u64> once(const std::string& op, const std::string& bits, u64 content, u64 a, u64 b,
                         bool shared) {
  std::string text = header() + ".visible .entry k(.param .u64 data)\n{ .reg .b" + bits +
                     " %d, %a, %b, %v; .reg .b64 " +
                     "%m, %x, %t; .reg .b32 %s;\n.shared .align 8 .b64 cell;\nld.param.u64 %x, [data];\n";
  text += "ld.global.b" + bits + " %v, [%x]; ld.global.b" + bits + " %a, [%x+8]; ld.global.b" + bits +
          " %b, [%x+16];\n";
  text += "mov.u32 %s, cell; st.shared.b" + bits + " [%s], %v; mov.u64 %m, %x; mov.b" + bits + " %d, 0;\n";
  text += op + "\n";
  if (shared) text += "ld.shared.b" + bits + " %v, [%s]; st.global.b" + bits + " [%x], %v;\n";
  text += "st.global.b" + bits + " [%x+24], %d; ret; }\n";
  Program p(text, 1);
  const Array<u64> data(std::vector<u64>{content, a, b, 0});
  p.expect_ok("k", {1}, {1}, Params().add(data.address()));
  return {data[3], data[0]};
}

struct Row {
  const char* name;  ///< "add.u32"
  const char* bits;
  std::function<u64(u64 old, u64 a, u64 b)> next;
  bool two = false;
};

template <class T>
std::function<u64(u64, u64, u64)> on(T (*f)(T old, T a)) {
  return [f](u64 old, u64 a, u64) {
    return static_cast<u64>(static_cast<std::make_unsigned_t<T>>(f(static_cast<T>(old), static_cast<T>(a))));
  };
}

const std::vector<Row>& rows() {
  static const std::vector<Row> table = {
      {"add.u32", "32", on<u32>([](u32 o, u32 a) { return o + a; })},
      {"add.s32", "32", on<u32>([](u32 o, u32 a) { return o + a; })},
      {"add.u64", "64", on<u64>([](u64 o, u64 a) { return o + a; })},
      {"exch.b32", "32", on<u32>([](u32, u32 a) { return a; })},
      {"exch.b64", "64", on<u64>([](u64, u64 a) { return a; })},
      {"and.b32", "32", on<u32>([](u32 o, u32 a) { return o & a; })},
      {"or.b32", "32", on<u32>([](u32 o, u32 a) { return o | a; })},
      {"xor.b32", "32", on<u32>([](u32 o, u32 a) { return o ^ a; })},
      {"and.b64", "64", on<u64>([](u64 o, u64 a) { return o & a; })},
      {"xor.b64", "64", on<u64>([](u64 o, u64 a) { return o ^ a; })},
      {"min.u32", "32", on<u32>([](u32 o, u32 a) { return std::min(o, a); })},
      {"min.s32", "32", on<s32>([](s32 o, s32 a) { return std::min(o, a); })},
      {"max.s32", "32", on<s32>([](s32 o, s32 a) { return std::max(o, a); })},
      {"max.u64", "64", on<u64>([](u64 o, u64 a) { return std::max(o, a); })},
      {"min.s64", "64", on<s64>([](s64 o, s64 a) { return std::min(o, a); })},
      {"inc.u32", "32", on<u32>([](u32 o, u32 a) { return o >= a ? 0U : o + 1; })},
      {"dec.u32", "32", on<u32>([](u32 o, u32 a) { return o == 0 || o > a ? a : o - 1; })},
      {"cas.b32", "32",
       [](u64 o, u64 a, u64 b) {
         return static_cast<u32>(o) == static_cast<u32>(a) ? static_cast<u32>(b) : o;
       },
       true},
      {"cas.b64", "64", [](u64 o, u64 a, u64 b) { return o == a ? b : o; }, true},
      {"cas.b16", "16",
       [](u64 o, u64 a, u64 b) {
         return static_cast<u16>(o) == static_cast<u16>(a) ? static_cast<u16>(b) : o;
       },
       true},
  };
  return table;
}

TEST(Atomic, ReturnsTheOldValueAndLeavesTheNewOne) {
  std::mt19937_64 random(1);
  for (const Row& row : rows()) {
    const u64 mask = row.bits[0] == '6' ? ~u64{0} : row.bits[0] == '3' ? 0xffffffffU : 0xffffU;
    for (int round = 0; round < 6; ++round) {
      const u64 old = random() & mask, b = random() & mask;
      const u64 a = round % 2 == 0 ? old : random() & mask;  // so that compare-and-swap meets both cases
      for (const char* space : {"", ".global", ".shared"}) {
        const bool shared = space[0] != '\0' && space[1] == 's';
        const std::string place = shared ? "[%s]" : "[%m]";
        const std::string op = std::string("atom") + space + "." + row.name + " %d, " + place + ", %a" +
                               (row.two ? ", %b;" : ";");
        const auto [got, left] = once(op, row.bits, old, a, b, shared);
        EXPECT_EQ(got, old) << op;
        EXPECT_EQ(left & mask, row.next(old, a, b) & mask) << op;
      }
    }
  }
}

TEST(Atomic, ReducesWithoutAResultAndWithScopesAndOrders) {
  EXPECT_EQ(once("red.global.add.u32 [%m], %a;", "32", 40, 2, 0, false).second, 42U);
  EXPECT_EQ(once("red.relaxed.gpu.global.max.s32 [%m], %a;", "32", 40, 50, 0, false).second, 50U);
  EXPECT_EQ(once("atom.acq_rel.sys.global.add.u64 %d, [%m], %a;", "64", 40, 2, 0, false).second, 42U);
  EXPECT_EQ(once("atom.release.cta.shared.add.u32 %d, [%s], %a;", "32", 40, 2, 0, true).second, 42U);
  EXPECT_EQ(once("atom.add.u32 %d, [%m+0], -2;", "32", 40, 0, 0, false).second, 38U);
}

u64 bits(float v) {
  u32 u = 0;
  std::memcpy(&u, &v, 4);
  return u;
}
u64 bits(double v) {
  u64 u = 0;
  std::memcpy(&u, &v, 8);
  return u;
}

TEST(Atomic, AddsFloatingPointNumbers) {
  EXPECT_EQ(once("atom.global.add.f32 %d, [%m], %a;", "32", bits(1.5F), bits(-0.25F), 0, false).second,
            bits(1.25F));
  EXPECT_EQ(once("atom.shared.add.f32 %d, [%s], %a;", "32", bits(1.5F), bits(8.0F), 0, true).second,
            bits(9.5F));
  EXPECT_EQ(once("atom.add.f64 %d, [%m], %a;", "64", bits(1e300), bits(1e299), 0, false).second,
            bits(1e300 + 1e299));
  EXPECT_EQ(once("atom.global.add.noftz.f16x2 %d, [%m], %a;", "32", 0x3c003c00, 0x40003c00, 0, false).second,
            0x42004000U);
  EXPECT_EQ(once("atom.global.add.noftz.f16 %d, [%m], %a;", "16", 0x3c00, 0x3c00, 0, false).second, 0x4000U);
}

TEST(Atomic, LosesNothingBetweenThreadsAndBlocks) {
  const std::string text = header() + R"(.visible .entry k(.param .u64 data)
{ .reg .pred %p; .reg .b32 %i, %d, %s, %t; .reg .b64 %x, %y; .shared .align 4 .b32 sum;
  ld.param.u64 %x, [data]; mov.u32 %i, %tid.x; st.shared.u32 [sum], 0; bar.sync 0;
  atom.global.add.u32 %d, [%x], 1;
  mul.wide.u32 %y, %d, 4; add.s64 %y, %x, %y; red.global.add.u32 [%y+64], 1;
  atom.global.max.u32 %t, [%x+4], %d; atom.global.xor.b32 %t, [%x+8], %d;
  red.global.add.f32 [%x+12], 0f3F800000;
  red.shared.add.u32 [sum], %i; bar.sync 0; setp.ne.u32 %p, %i, 0; @%p ret;
  ld.shared.u32 %s, [sum]; red.global.add.u32 [%x+16], %s; ret; })";
  constexpr u32 blocks = 64, threads = 96, n = blocks * threads;
  Program p(text, 2);
  const Array<u32> data(16 + n);
  p.expect_ok("k", {blocks}, {threads}, Params().add(data.address()));
  EXPECT_EQ(data[0], n);
  EXPECT_EQ(data[1], n - 1);
  u32 parity = 0;
  for (u32 i = 0; i < n; ++i) parity ^= i;
  EXPECT_EQ(data[2], parity);
  EXPECT_EQ(data[3], bits(static_cast<float>(n)));
  EXPECT_EQ(data[4], blocks * (threads * (threads - 1) / 2));
  EXPECT_TRUE(std::all_of(data.data() + 16, data.data() + 16 + n, [](u32 v) { return v == 1; }))
      << "each old value is handed out once";
}

// The loop that CUDA programs build other operations with; lanes of one warp compete for the same word.
TEST(Atomic, LetsLanesCompeteByCompareAndSwap) {
  const std::string text = header() + R"(.visible .entry k(.param .u64 data)
{ .reg .pred %p; .reg .b32 %old, %seen, %new; .reg .b64 %x;
  ld.param.u64 %x, [data]; ld.global.u32 %old, [%x];
$AGAIN:
  mul.lo.u32 %new, %old, 3; add.u32 %new, %new, 1;
  atom.global.cas.b32 %seen, [%x], %old, %new;
  setp.ne.u32 %p, %seen, %old; mov.u32 %old, %seen; @%p bra $AGAIN;
  ret; })";
  Program p(text, 2);
  const Array<u32> data(1);
  p.expect_ok("k", {4}, {64}, Params().add(data.address()));
  u32 want = 0;
  for (int i = 0; i < 256; ++i) want = 3 * want + 1;
  EXPECT_EQ(data[0], want);
}

// A lock that each thread takes in turn: needs the lanes of a warp to make progress one by one.
TEST(Atomic, GuardsASectionByASpinLock) {
  const std::string text = header() + R"(.visible .entry k(.param .u64 data)
{ .reg .pred %p; .reg .b32 %v; .reg .b64 %x;
  ld.param.u64 %x, [data];
$TAKE:
  atom.acquire.gpu.global.cas.b32 %v, [%x], 0, 1;
  setp.ne.u32 %p, %v, 0; @%p bra $TAKE;
  ld.volatile.global.u32 %v, [%x+4]; add.u32 %v, %v, 1; st.volatile.global.u32 [%x+4], %v;
  atom.release.gpu.global.exch.b32 %v, [%x], 0;
  ret; })";
  Program p(text, 2);
  const Array<u32> data(2);
  p.expect_ok("k", {4}, {64}, Params().add(data.address()));
  EXPECT_EQ(data[1], 256U);
}

TEST(Atomic, RefusesAMisalignedOrForeignAddress) {
  const std::string text = header() + R"(.visible .entry k(.param .u64 data)
{ .reg .b32 %v; .reg .b64 %x; ld.param.u64 %x, [data]; atom.global.add.u32 %v, [%x], 1; ret; })";
  Program p(text, 1);
  const Array<u32> data(2);
  EXPECT_EQ(p.run("k", {1}, {1}, Params().add(data.address() + 2)).fault, Fault::misaligned_address);
  EXPECT_EQ(p.run("k", {1}, {1}, Params().add(u64{64})).fault, Fault::illegal_address);
}

}  // namespace
}  // namespace softgpu::test
