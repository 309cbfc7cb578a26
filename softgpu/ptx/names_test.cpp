// Names that nothing declares are found before anything runs; all others are left alone.
#include "softgpu/ptx/names.hpp"

#include <gtest/gtest.h>

namespace softgpu::ptx {
namespace {

const std::string first_lines = ".version 9.0\n.target sm_75\n.address_size 64\n";

std::string found(const std::string& text) {
  const auto module = parse(first_lines + text);
  if (!module) return "no PTX: " + module.error().reason;
  const auto error = undeclared_name(**module);
  return error ? std::to_string(error->line) + " " + error->reason : "";
}

std::string found_in_body(const std::string& body) {
  return found(".visible .entry k(.param .u64 p) {\n" + body + "\nret; }");
}

TEST(Names, DeclaredOnesOfEveryKindAreFine) {
  EXPECT_EQ(found(R"(
    .global .u32 g[4]; .extern .shared .align 16 .b8 s[]; .const .f32 c;
    .extern .func (.param .b32 r) f(.param .b64 a); .alias other, f;
    .func (.reg .u32 out) h(.reg .u32 in) { mov.u32 out, in; ret; }
    .visible .entry k(.param .u64 p) {
      .reg .pred %p<3>; .reg .b32 %r<12>, a, %v1<4>; .reg .v2 .f32 pair; .reg .b64 %rd<3>;
      .local .align 8 .b8 __local_depot0[8]; .param .b64 param0;
      ld.param.u64 %rd1, [p]; mov.u64 %rd2, g; st.shared.u32 [s+4], %r11; ld.const.f32 %r1, [c];
      { .reg .b32 inner; @!%p2 add.u32 inner, a, %v13; mov.u32 %r0, %tid.x; L: bra L; }
      mov.u32 %r2, WARP_SZ; mov.u32 %r3, %envreg2; mov.u32 %r4, %reserved_smem_offset_1; mov.f32 pair.x, pair.y;
      shfl.sync.bfly.b32 %r5|%p1, %r5, 1, 31, -1; setp.eq.u32 %p1|_, %r1, 0;
      call.uni (param0), f, (param0), proto; call (%r1), h, (%r2); proto: .callprototype _ (.param .b64 _);
      targets: .branchtargets OUT, OUT; brx.idx %r1, targets; mov.b64 {%r1, _}, %rd1; st.local.b32 [__local_depot0], %r1;
      OUT: tex.2d.v4.f32.f32 {%r1, %r2, %r3, %r4}, [%rd1, {%r5, %r6}]; ret; })"),
            "");
}

TEST(Names, RegistersPastTheirNumberOrWithoutDeclarationAreNot) {
  EXPECT_EQ(found_in_body("add.u32 %r1, %r2, %r3;"), "5 '%r1' is not declared");
  EXPECT_EQ(found_in_body(".reg .b32 %r<3>;\nadd.u32 %r1, %r2, %r3;"), "6 '%r3' is not declared");
  EXPECT_EQ(found_in_body(".reg .b32 %r<3>; add.u32 %r1, %r, %r2;"), "5 '%r' is not declared");
  EXPECT_EQ(found_in_body(".reg .b32 a; @%p mov.u32 a, 1;"), "5 '%p' is not declared");
  EXPECT_EQ(found_in_body(".reg .b32 a; mov.u32 a, %no_such_register;"),
            "5 '%no_such_register' is not declared");
  EXPECT_EQ(found_in_body(".reg .b32 a; ld.global.u32 a, [b];"), "5 'b' is not declared");
  EXPECT_EQ(found_in_body(".reg .b32 a; mov.b64 {a, b}, 1;"), "5 'b' is not declared");
}

TEST(Names, AScopeHidesItsOwnFromOutside) {
  EXPECT_EQ(found_in_body("{ .reg .b32 a; }\nmov.u32 a, 1;"), "6 'a' is not declared");
  EXPECT_EQ(found_in_body("{ L: ret; }\nbra L;"), "6 'L' is not declared");
}

TEST(Names, BranchesGoSomewhere) {
  EXPECT_EQ(found_in_body("bra NOWHERE;"), "5 'NOWHERE' is not declared");
  EXPECT_EQ(found_in_body("t: .branchtargets NOWHERE;"), "4 'NOWHERE' is not declared");
}

TEST(Names, DeepNestingTakesNoTime) {
  const std::size_t depth = 1 << 14;
  std::string text;
  for (std::size_t i = 0; i < depth; ++i) text += "{ .reg .b32 a;";
  for (std::size_t i = 0; i < depth; ++i) text += "mov.u32 a, b;";
  text += std::string(depth, '}');
  EXPECT_EQ(found_in_body(text), "") << "too deep to be sure";
}

}  // namespace
}  // namespace softgpu::ptx
