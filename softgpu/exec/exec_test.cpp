// Control: divergence, loops, calls, barriers, faults, memory spaces, atomics, printf.
#include <atomic>
#include <utility>

#include "softgpu/exec/test_device.hpp"

namespace softgpu::test {
namespace {

TEST(Exec, AddsVectorsWithAPartialLastBlock) {
  Program p(header() + R"(
.visible .entry add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{
  .reg .pred %p<2>; .reg .f32 %f<4>; .reg .b32 %r<6>; .reg .b64 %rd<11>;
  ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; ld.param.u64 %rd3, [c]; ld.param.u32 %r2, [n];
  mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x; mov.u32 %r5, %tid.x;
  mad.lo.s32 %r1, %r3, %r4, %r5;
  setp.ge.s32 %p1, %r1, %r2;
  @%p1 bra $L;
  cvta.to.global.u64 %rd4, %rd1; mul.wide.s32 %rd5, %r1, 4; add.s64 %rd6, %rd4, %rd5; add.s64 %rd8, %rd2, %rd5;
  ld.global.f32 %f1, [%rd8]; ld.global.f32 %f2, [%rd6]; add.f32 %f3, %f2, %f1;
  add.s64 %rd10, %rd3, %rd5; st.global.f32 [%rd10], %f3;
$L: ret;
})");
  constexpr unsigned n = 1000;
  Array<float> a(n), b(n), c(n + 8);
  for (unsigned i = 0; i < n; ++i) a[i] = static_cast<float>(i), b[i] = 0.5F;
  for (unsigned i = 0; i < 8; ++i) c[n + i] = -1;
  p.expect_ok("add", {8}, {128}, Params().add(a.address()).add(b.address()).add(c.address()).add(n));
  for (unsigned i = 0; i < n; ++i) ASSERT_EQ(c[i], static_cast<float>(i) + 0.5F);
  EXPECT_EQ(c[n], -1);
}

TEST(Exec, LanesLeaveALoopAtDifferentTimes) {
  Program p(header() + R"(
.visible .entry collatz(.param .u64 out)
{
  .reg .pred %p<4>; .reg .b32 %r<9>; .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [out];
  mov.u32 %r1, %tid.x; add.s32 %r2, %r1, 1; mov.u32 %r3, 0;
$LOOP:
  setp.eq.u32 %p1, %r2, 1;
  @%p1 bra $DONE;
  and.b32 %r4, %r2, 1; setp.eq.s32 %p2, %r4, 0;
  @%p2 bra $EVEN;
  mad.lo.s32 %r2, %r2, 3, 1;
  bra.uni $NEXT;
$EVEN: shr.u32 %r2, %r2, 1;
$NEXT: add.s32 %r3, %r3, 1;
  bra.uni $LOOP;
$DONE:
  activemask.b32 %r5;
  mul.wide.u32 %rd2, %r1, 8; add.s64 %rd3, %rd1, %rd2;
  st.global.v2.u32 [%rd3], {%r3, %r5};
  ret;
})");
  Array<std::uint32_t> out(2 * 64);
  p.expect_ok("collatz", {1}, {64}, Params().add(out.address()));
  for (unsigned i = 0; i < 64; ++i) {
    unsigned v = i + 1, steps = 0;
    for (; v != 1; ++steps) v = v % 2 == 0 ? v / 2 : 3 * v + 1;
    EXPECT_EQ(out[2 * i], steps);
    EXPECT_EQ(out[2 * i + 1], 0xffffffffU) << "all lanes have rejoined behind the loop";
  }
}

TEST(Exec, RecursesWithDivergentDepth) {
  Program p(header() + R"(
.func (.param .b32 r) fib(.param .b32 n)
{
  .reg .pred %p<2>; .reg .b32 %r<9>;
  ld.param.u32 %r8, [n];
  setp.lt.s32 %p1, %r8, 2;
  @%p1 bra $L;
  add.s32 %r4, %r8, -1;
  { .param .b32 param0; st.param.b32 [param0+0], %r4; .param .b32 retval0;
    call.uni (retval0), fib, (param0); ld.param.b32 %r5, [retval0+0]; }
  add.s32 %r6, %r8, -2;
  { .param .b32 param0; st.param.b32 [param0+0], %r6; .param .b32 retval0;
    call.uni (retval0), fib, (param0); ld.param.b32 %r7, [retval0+0]; }
  add.s32 %r8, %r7, %r5;
$L: st.param.b32 [r+0], %r8; ret;
}
.visible .entry k(.param .u64 out)
{
  .reg .b32 %r<3>; .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x;
  { .param .b32 param0; st.param.b32 [param0+0], %r1; .param .b32 retval0;
    call.uni (retval0), fib, (param0); ld.param.b32 %r2, [retval0+0]; }
  mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r2; ret;
}
.func (.param .b32 r) forever(.param .b32 n)
{
  .reg .b32 %r<3>;
  ld.param.u32 %r1, [n];
  { .param .b32 param0; st.param.b32 [param0+0], %r1; .param .b32 retval0;
    call.uni (retval0), forever, (param0); ld.param.b32 %r2, [retval0+0]; }
  st.param.b32 [r+0], %r2; ret;
}
.visible .entry deep()
{
  .reg .b32 %r<3>;
  { .param .b32 param0; st.param.b32 [param0+0], 1; .param .b32 retval0;
    call.uni (retval0), forever, (param0); ld.param.b32 %r2, [retval0+0]; }
  ret;
})");
  Array<std::uint32_t> out(20);
  p.expect_ok("k", {1}, {20}, Params().add(out.address()));
  unsigned a = 0, b = 1;
  for (unsigned i = 0; i < 20; ++i) {
    EXPECT_EQ(out[i], a);
    b += std::exchange(a, b);
  }
  EXPECT_EQ(p.run("deep", {1}, {32}, Params()).fault, Fault::stack_overflow);
}

TEST(Exec, CallsThroughATableWithDivergentTargets) {
  Program p(header() + R"(
.func (.param .b32 r) one(.param .b32 n)
{ .reg .b32 %r<3>; ld.param.u32 %r1, [n]; add.s32 %r2, %r1, 100; st.param.b32 [r+0], %r2; ret; }
.func (.param .b32 r) two(.param .b32 n)
{ .reg .b32 %r<3>; ld.param.u32 %r1, [n]; mul.lo.s32 %r2, %r1, 7; st.param.b32 [r+0], %r2; ret; }
.global .align 8 .u64 table[2] = {one, two};
.visible .entry k(.param .u64 out)
{
  .reg .b32 %r<5>; .reg .b64 %rd<9>;
  ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 1;
  mul.wide.u32 %rd2, %r2, 8; mov.u64 %rd3, table; add.s64 %rd4, %rd3, %rd2; ld.global.u64 %rd5, [%rd4];
  { .param .b32 param0; st.param.b32 [param0+0], %r1; .param .b32 retval0;
    proto : .callprototype (.param .b32 _) _ (.param .b32 _);
    call (retval0), %rd5, (param0), proto; ld.param.b32 %r3, [retval0+0]; }
  mul.wide.u32 %rd6, %r1, 4; add.s64 %rd7, %rd1, %rd6; st.global.u32 [%rd7], %r3; ret;
})");
  Array<std::uint32_t> out(32);
  p.expect_ok("k", {1}, {32}, Params().add(out.address()));
  for (unsigned i = 0; i < 32; ++i) EXPECT_EQ(out[i], i % 2 == 0 ? i + 100 : i * 7);
}

TEST(Exec, ReducesInSharedMemoryWithBarriers) {
  Program p(header() + R"(
.extern .shared .align 16 .b8 dyn[];
.visible .entry k(.param .u64 out)
{
  .shared .align 4 .b8 buf[1024];
  .reg .pred %p<3>; .reg .b32 %r<20>; .reg .b64 %rd<6>;
  ld.param.u64 %rd1, [out];
  mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2; mov.u32 %r3, buf; add.s32 %r4, %r3, %r2;
  mov.u32 %r15, dyn; add.s32 %r16, %r15, %r2; st.shared.u32 [%r16], %r1;
  st.shared.u32 [%r4], %r1;
  mov.u32 %r5, 128;
$LOOP:
  bar.sync 0;
  setp.ge.u32 %p1, %r1, %r5;
  @%p1 bra $SKIP;
  shl.b32 %r6, %r5, 2; add.s32 %r7, %r4, %r6; ld.shared.u32 %r8, [%r7]; ld.shared.u32 %r9, [%r4];
  add.s32 %r10, %r8, %r9; st.shared.u32 [%r4], %r10;
$SKIP:
  shr.u32 %r5, %r5, 1; setp.ne.s32 %p2, %r5, 0;
  @%p2 bra $LOOP;
  setp.ne.s32 %p1, %r1, 0;
  @%p1 bra $END;
  ld.shared.u32 %r11, [buf]; ld.shared.u32 %r17, [dyn+1020]; add.s32 %r11, %r11, %r17;
  mov.u32 %r12, %ctaid.x; mul.wide.u32 %rd2, %r12, 4; add.s64 %rd3, %rd1, %rd2;
  st.global.u32 [%rd3], %r11;
$END: ret;
})");
  Array<std::uint32_t> out(40);
  p.expect_ok("k", {40}, {256}, Params().add(out.address()), 1024);
  for (unsigned i = 0; i < 40; ++i) EXPECT_EQ(out[i], 255U * 256 / 2 + 255);
  EXPECT_EQ(p.module().find_kernel("k") != nullptr
                ? kernel_attributes(*p.module().find_kernel("k")).static_shared_bytes
                : 0,
            1024U);
  EXPECT_EQ(p.run("k", {1}, {256}, Params().add(out.address()), 64).fault, Fault::illegal_address);
}

// Two warps count in shared memory, and write how far each saw itself ahead of the other at most.
TEST(Exec, WarpsThatShareMemoryGoOnSideBySide) {
  Program p(header() + R"(
.visible .entry k(.param .u64 out)
{
  .shared .align 4 .b8 counts[8];
  .reg .pred %p<2>; .reg .b32 %r<12>; .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; shr.u32 %r2, %r1, 5; shl.b32 %r3, %r2, 2;
  mov.u32 %r4, counts; add.s32 %r5, %r4, %r3; xor.b32 %r6, %r3, 4; add.s32 %r6, %r4, %r6;
  mov.u32 %r7, 0; st.shared.u32 [%r5], %r7; mov.u32 %r8, 0;
  bar.sync 0;
$LOOP:
  add.s32 %r7, %r7, 1; st.volatile.shared.u32 [%r5], %r7; ld.volatile.shared.u32 %r9, [%r6];
  sub.s32 %r10, %r7, %r9; max.s32 %r8, %r8, %r10;
  setp.lt.u32 %p1, %r7, 1000;
  @%p1 bra $LOOP;
  mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r8; ret;
})");
  Array<std::uint32_t> out(64);
  p.expect_ok("k", {1}, {64}, Params().add(out.address()));
  for (unsigned i = 0; i < 64; ++i) EXPECT_LE(out[i], 40U) << i;
}

TEST(Exec, LanesOfAWarpTakeALockInTurn) {
  Program p(header() + R"(
.global .align 4 .u32 lock;
.visible .entry spin(.param .u64 out)
{
  .reg .pred %p<3>; .reg .b32 %r<7>; .reg .b64 %rd<5>;
  ld.param.u64 %rd1, [out]; mov.u64 %rd3, lock;
$L1:
  mov.u32 %r1, 1; mov.u32 %r2, 0;
  atom.global.cas.b32 %r3, [%rd3], %r2, %r1;
  setp.ne.s32 %p1, %r3, 0;
  @%p1 bra $L1;
  ld.global.u32 %r4, [%rd1]; add.s32 %r5, %r4, 1; st.global.u32 [%rd1], %r5;
  membar.gl;
  st.volatile.global.u32 [%rd3], %r2;
  ret;
})");
  Array<std::uint32_t> out(1);
  p.expect_ok("spin", {6}, {96}, Params().add(out.address()));
  EXPECT_EQ(out[0], 6U * 96);
}

TEST(Exec, CooperativeGridsMeetAtTheirBarrier) {
  Program p(header() + R"(
.visible .entry k(.param .u64 data)
{
  .reg .pred %p<7>; .reg .b32 %r<60>; .reg .b64 %rd<12>;
  ld.param.u64 %rd9, [data];
  mov.u32 %r8, %envreg2; cvt.u64.u32 %rd5, %r8; mov.u32 %r9, %envreg1; cvt.u64.u32 %rd6, %r9;
  bfi.b64 %rd1, %rd6, %rd5, 32, 32;
  setp.ne.s64 %p2, %rd1, 0;
  @%p2 bra $OK;
  trap;
$OK:
  mov.u32 %r50, 0;
$ROUND:
  red.global.add.u32 [%rd9], 1;
  barrier.sync 0;
  mov.u32 %r2, %tid.x;
  setp.ne.s32 %p3, %r2, 0;
  @%p3 bra $L5;
  add.s64 %rd7, %rd1, 4;
  mov.u32 %r25, %nctaid.x; mov.u32 %r31, %ctaid.x;
  setp.eq.s32 %p4, %r31, 0;
  mov.u32 %r35, -2147483647; sub.s32 %r36, %r35, %r25; selp.b32 %r24, %r36, 1, %p4;
  atom.add.release.gpu.u32 %r23,[%rd7],%r24;
$L4:
  ld.acquire.gpu.u32 %r37,[%rd7];
  xor.b32 %r38, %r37, %r23;
  setp.gt.s32 %p5, %r38, -1;
  @%p5 bra $L4;
$L5:
  barrier.sync 0;
  ld.volatile.global.u32 %r51, [%rd9];
  mov.u32 %r52, %ntid.x; mul.lo.s32 %r53, %r52, %r25;
  add.s32 %r50, %r50, 1;
  setp.lt.u32 %p6, %r50, 5;
  @%p6 bra $ROUND;
  ret;
})");
  Array<std::uint32_t> out(1);
  p.expect_ok("k", {24}, {64}, Params().add(out.address()), 0, true);
  EXPECT_EQ(out[0], 24U * 64 * 5);
  EXPECT_EQ(p.run("k", {1}, {32}, Params().add(out.address())).fault, Fault::trap)
      << "not a cooperative launch";
}

TEST(Exec, StrayAccessesEndTheGridAndNameTheLine) {
  Program p(header() + R"(
.visible .entry store(.param .u64 where)
{
  .reg .b64 %rd<3>; .reg .b32 %r<2>;
  ld.param.u64 %rd1, [where];
  st.global.u32 [%rd1], 7;
  ret;
})");
  EXPECT_EQ(p.run("store", {1}, {32}, Params().add(std::uint64_t{0})).fault, Fault::illegal_address);
  EXPECT_EQ(p.run("store", {1}, {32}, Params().add(device_window_base + device_window_size - 4096)).fault,
            Fault::illegal_address);
  Array<std::uint32_t> a(4);
  const LaunchResult r = p.run("store", {1}, {32}, Params().add(a.address() + 2));
  EXPECT_EQ(r.fault, Fault::misaligned_address);
  EXPECT_NE(r.reason.find("store, line 9"), std::string::npos) << r.reason;
  EXPECT_EQ(r.address, a.address() + 2);
  p.expect_ok("store", {1}, {32}, Params().add(a.address()));
  EXPECT_EQ(a[0], 7U);
  static std::uint32_t host = 0;
  const auto at = reinterpret_cast<std::uint64_t>(&host);
  EXPECT_EQ(p.run("store", {1}, {32}, Params().add(at)).fault, Fault::illegal_address)
      << "host memory that is not registered";
  add_host_range(at, 4);
  p.expect_ok("store", {1}, {32}, Params().add(at));
  remove_host_range(at);
  EXPECT_EQ(host, 7U);
}

TEST(Exec, ASecondModuleOfTheSameTextSharesManagedVariablesOnly) {
  const std::string text = header() +
                           ".visible .global .align 4 .u32 own = 3;\n"
                           ".visible .global .attribute(.managed) .align 4 .u32 common_one = 4;\n"
                           ".visible .global .align 8 .u64 pointer = common_one;\n";
  TestMemory memory;
  const auto first = Module::load(text, memory);
  ASSERT_TRUE(first);
  const auto read = [](const Module& module, const char* name, auto value) {
    std::memcpy(&value, reinterpret_cast<const void*>(module.find_variable(name)->address), sizeof value);
    return value;
  };
  const auto common = (*first)->find_variable("common_one")->address;
  *reinterpret_cast<std::uint32_t*>(common) = 5;
  const auto second = Module::load(text, memory, first->get());
  ASSERT_TRUE(second);
  EXPECT_EQ((*second)->find_variable("common_one")->address, common);
  EXPECT_EQ(read(**second, "common_one", 0U), 5U) << "not given its first value again";
  EXPECT_NE((*second)->find_variable("own")->address, (*first)->find_variable("own")->address);
  EXPECT_EQ(read(**second, "own", 0U), 3U);
  EXPECT_EQ(read(**second, "pointer", std::uint64_t{0}), common);
}

TEST(Exec, UnknownInstructionsAreRefusedWithTheirLine) {
  TestMemory memory;
  const auto module =
      Module::load(header() + ".visible .entry k()\n{\n  frobnicate.b32 1;\n  ret;\n}\n", memory);
  ASSERT_FALSE(module);
  EXPECT_EQ(module.error().kind, LoadError::Kind::invalid_ptx);
  EXPECT_EQ(module.error().line, 6U);
}

TEST(Exec, WhatACompilerWouldRefuseIsRefusedWhenLoaded) {
  TestMemory memory;
  const auto refused = [&](const std::string& text) {
    const auto module = Module::load(text, memory);
    if (module) return std::pair(-1, std::string("loaded"));
    return std::pair(static_cast<int>(module.error().kind), module.error().reason);
  };
  using Kind = LoadError::Kind;
  const auto because = [](Kind kind, const char* reason) {
    return std::pair(static_cast<int>(kind), std::string(reason));
  };
  const std::string entry = ".address_size 64\n.visible .entry k() { ret; }\n";
  EXPECT_EQ(refused(".version 10.0\n.target sm_75\n" + entry),
            because(Kind::newer_version, "Unsupported .version 10.0; current version is '9.9'"));
  for (const char* const target : {"sm_80", "sm_90a", "compute_100f"}) {
    EXPECT_EQ(refused(std::string(".version 9.0\n.target ") + target + "\n" + entry).first,
              static_cast<int>(Kind::invalid_ptx))
        << target;
  }
  for (const char* const target : {"sm_52", "sm_75, debug", "compute_75"}) {
    EXPECT_EQ(refused(std::string(".version 6.0\n.target ") + target + "\n" + entry).second, "loaded")
        << target;
  }
  EXPECT_EQ(refused(header() + ".visible .entry k() { bra NOWHERE; }"),
            because(Kind::invalid_ptx, "'NOWHERE' is not declared"));
  const std::string calls = ".visible .entry k() { call.uni missing; ret; }";
  EXPECT_EQ(refused(header() + ".extern .func missing();" + calls),
            because(Kind::unresolved_symbol, "Undefined reference to 'missing' in 'k'"));
  EXPECT_EQ(refused(header() + ".extern .func missing();.visible .entry k() { ret; }").second, "loaded")
      << "nobody calls it";
  EXPECT_EQ(
      refused(header() + ".extern .func missing();" + calls + ".visible .func missing() { ret; }").second,
      "loaded");
}

TEST(Exec, UnsupportedInstructionsAreNamedAtTheLaunch) {
  Program p(header() +
            ".visible .entry k()\n{\n  .reg .b32 %r;\n  tcgen05.fence.before %r, %r, %r;\n  ret;\n}\n");
  const LaunchResult r = p.run("k", {1}, {1}, Params());
  EXPECT_EQ(r.fault, Fault::unsupported);
  EXPECT_NE(r.reason.find("k, line 7"), std::string::npos) << r.reason;
  EXPECT_NE(r.reason.find("tcgen05"), std::string::npos) << r.reason;
}

TEST(Exec, PrintsWithPrintfOnceALane) {
  Program p(header() + R"(
.extern .func (.param .b32 r) vprintf(.param .b64 f, .param .b64 a);
.global .align 1 .b8 fmt[24] = {37, 100, 32, 37, 46, 50, 102, 32, 37, 115, 32, 37, 108, 108, 120, 10};
.global .align 1 .b8 str[4] = {97, 98, 99};
.visible .entry k()
{
  .local .align 8 .b8 depot[32];
  .reg .b64 %SP; .reg .b64 %SPL; .reg .b32 %r<5>; .reg .b64 %rd<9>;
  mov.u64 %SPL, depot; cvta.local.u64 %SP, %SPL;
  mov.u32 %r1, %tid.x;
  st.local.u32 [%SPL], %r1; mov.u64 %rd3, 4609434218613702656; st.local.u64 [%SPL+8], %rd3;
  mov.u64 %rd4, str; st.local.u64 [%SPL+16], %rd4; mov.u64 %rd5, 0xabcdef0123; st.local.u64 [%SPL+24], %rd5;
  mov.u64 %rd6, fmt;
  { .param .b64 param0; st.param.b64 [param0+0], %rd6; .param .b64 param1; st.param.b64 [param1+0], %SP;
    .param .b32 retval0; call.uni (retval0), vprintf, (param0, param1); ld.param.b32 %r2, [retval0+0]; }
  ret;
})");
  std::string text;
  set_printf_sink([&text](std::string_view s) { text += s; });
  p.expect_ok("k", {1}, {2}, Params());
  set_printf_sink({});
  EXPECT_EQ(text, "0 1.50 abc abcdef0123\n1 1.50 abc abcdef0123\n");
}

TEST(Exec, BarrierReductionsAndPartialBarriers) {
  Program p(header() + R"(
.visible .entry k(.param .u64 out)
{
  .reg .pred %p<5>; .reg .b32 %r<9>; .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x;
  and.b32 %r2, %r1, 3; setp.eq.s32 %p1, %r2, 0;
  bar.red.popc.u32 %r3, 0, %p1;
  bar.red.and.pred %p2, 0, %p1; selp.u32 %r4, 1, 0, %p2;
  bar.red.or.pred %p3, 0, %p1; selp.u32 %r5, 10, 0, %p3;
  setp.ge.u32 %p4, %r1, 64;
  @%p4 bra $OTHER;
  bar.sync 1, 64;
  bra $JOIN;
$OTHER:
  bar.sync 2, 36;
$JOIN:
  add.s32 %r6, %r3, %r4; add.s32 %r6, %r6, %r5;
  mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r6; ret;
})");
  Array<std::uint32_t> out(100);
  p.expect_ok("k", {1}, {100}, Params().add(out.address()));
  for (unsigned i = 0; i < 100; ++i) ASSERT_EQ(out[i], 35U);
}

TEST(Exec, JumpsThroughATableWithDivergentIndices) {
  Program p(header() + R"(
.visible .entry k(.param .u64 out)
{
  .reg .pred %p<2>; .reg .b32 %r<6>; .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 3; mov.u32 %r3, 7;
  targets: .branchtargets $A, $B, $C, $D;
  brx.idx %r2, targets;
$A: mov.u32 %r3, 10; bra $J;
$B: mov.u32 %r3, 20; bra $J;
$C: ret;
$D: mul.lo.s32 %r3, %r1, 3;
$J:
  activemask.b32 %r4; add.s32 %r3, %r3, %r4;
  mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r3; ret;
})");
  Array<std::uint32_t> out(32);
  for (unsigned i = 0; i < 32; ++i) out[i] = 99;
  p.expect_ok("k", {1}, {32}, Params().add(out.address()));
  for (unsigned i = 0; i < 32; ++i) {
    const unsigned want[] = {10 + 0xbbbbbbbbU, 20 + 0xbbbbbbbbU, 99, 3 * i + 0xbbbbbbbbU};
    EXPECT_EQ(out[i], want[i % 4]) << i;
  }
}

TEST(Exec, LanesThatReturnEarlyFromAFunctionWaitForTheirCaller) {
  Program p(header() + R"(
.func (.param .b32 r) steps(.param .b32 n)
{
  .reg .pred %p<3>; .reg .b32 %r<9>;
  ld.param.u32 %r1, [n]; mov.u32 %r2, 0;
$L:
  setp.eq.s32 %p1, %r2, %r1;
  @%p1 bra $OUT;
  add.s32 %r2, %r2, 1; setp.eq.s32 %p2, %r2, 5;
  @!%p2 bra $L;
  st.param.b32 [r+0], 1000;
  ret;
$OUT: st.param.b32 [r+0], %r2; ret;
}
.visible .entry k(.param .u64 out)
{
  .reg .b32 %r<5>; .reg .b64 %rd<4>; .reg .pred %p<2>;
  ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x;
  { .param .b32 param0; st.param.b32 [param0+0], %r1; .param .b32 retval0;
    call.uni (retval0), steps, (param0); ld.param.b32 %r2, [retval0+0]; }
  setp.gt.u32 %p1, %r1, 20;
  @%p1 exit;
  shfl.sync.idx.b32 %r3, %r2, 2, 31, -1; add.s32 %r2, %r2, %r3;
  mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r2; ret;
})");
  Array<std::uint32_t> out(32);
  p.expect_ok("k", {1}, {32}, Params().add(out.address()));
  for (unsigned i = 0; i < 32; ++i) EXPECT_EQ(out[i], i > 20 ? 0 : (i < 5 ? i : 1000) + 2) << i;
}

TEST(Exec, HalvesOfAWarpMeetAtAWarpBarrier) {
  Program p(header() + R"(
.visible .entry k(.param .u64 out)
{
  .shared .align 4 .b8 buf[128];
  .reg .b32 %r<9>; .reg .b64 %rd<4>; .reg .pred %p<2>;
  ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2; mov.u32 %r3, buf; add.s32 %r4, %r3, %r2;
  xor.b32 %r5, %r2, 64; add.s32 %r5, %r3, %r5;
  setp.lt.u32 %p1, %r1, 16;
  @%p1 bra $A;
  st.shared.u32 [%r4], %r1;
  bar.warp.sync -1;
  ld.shared.u32 %r6, [%r5];
  bra $J;
$A:
  add.s32 %r7, %r1, 100; st.shared.u32 [%r4], %r7;
  bar.warp.sync -1;
  ld.shared.u32 %r6, [%r5];
$J:
  mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r6; ret;
})");
  Array<std::uint32_t> out(32);
  p.expect_ok("k", {1}, {32}, Params().add(out.address()));
  for (unsigned i = 0; i < 32; ++i) EXPECT_EQ(out[i], i < 16 ? i + 16 : i - 16 + 100) << i;
}

TEST(Exec, AllocatesOnTheDeviceHeapAndTheStack) {
  Program p(header() + R"(
.extern .func (.param .b64 r) malloc(.param .b64 n);
.extern .func free(.param .b64 p);
.visible .entry k(.param .u64 out)
{
  .reg .b32 %r<5>; .reg .b64 %rd<12>;
  ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x;
  { .param .b64 param0; st.param.b64 [param0+0], 40; .param .b64 retval0;
    call.uni (retval0), malloc, (param0); ld.param.b64 %rd4, [retval0+0]; }
  st.u32 [%rd4+36], %r1;
  mul.wide.u32 %rd5, %r1, 16; add.s64 %rd5, %rd5, 16; alloca.u64 %rd6, %rd5, 16; cvta.local.u64 %rd7, %rd6;
  mul.wide.u32 %rd8, %r1, 16; add.s64 %rd9, %rd7, %rd8; st.u32 [%rd9], 5;
  ld.u32 %r2, [%rd4+36]; ld.u32 %r3, [%rd9]; add.s32 %r2, %r2, %r3;
  { .param .b64 param0; st.param.b64 [param0+0], %rd4; call.uni free, (param0); }
  mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r2; ret;
})");
  Array<std::uint32_t> out(64);
  p.expect_ok("k", {1}, {64}, Params().add(out.address()));
  for (unsigned i = 0; i < 64; ++i) EXPECT_EQ(out[i], i + 5);
}

// Lane i runs the loop's three instructions i + 1 times: a lane counts only where it takes part.
TEST(Exec, CountsInstructionsForTheLanesThatExecuteThem) {
  Program p(header() + R"(.visible .entry k()
{
  .reg .pred %p; .reg .b32 %r<3>;
  mov.u32 %r1, %tid.x; mov.u32 %r2, 0;
$L: setp.lt.u32 %p, %r2, %r1; add.u32 %r2, %r2, 1; @%p bra $L;
  ret;
})");
  const auto count = [&](std::uint32_t blocks, std::uint32_t threads) {
    const std::uint64_t before = p.executor().total_lane_instructions();
    const LaunchResult result = p.run("k", {blocks}, {threads}, Params());
    EXPECT_EQ(result.fault, Fault::none) << result.reason;
    EXPECT_EQ(p.executor().total_lane_instructions() - before, result.lane_instructions);
    return result.lane_instructions;
  };
  const std::uint64_t one = count(1, 1);
  EXPECT_GE(one, 6U);
  EXPECT_LE(one, 8U);
  EXPECT_EQ(count(1, 40), 40 * one + 3 * (39 * 40 / 2));
  EXPECT_EQ(count(5, 40), 5 * count(1, 40));
}

TEST(Exec, CancelsAnEndlessKernel) {
  Program p(header() + ".visible .entry k()\n{\n$L: bra $L;\n}\n");
  const std::atomic<bool> cancel{true};
  Launch l;
  l.kernel = p.module().find_kernel("k");
  l.cancel = &cancel;
  EXPECT_EQ(p.executor().run(l).fault, Fault::launch_timeout);
}

}  // namespace
}  // namespace softgpu::test
