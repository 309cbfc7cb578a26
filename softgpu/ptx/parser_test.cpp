#include "softgpu/ptx/parser.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <string>
#include <variant>

namespace softgpu::ptx {
namespace {

const std::string header = ".version 8.8\n.target sm_75\n.address_size 64\n";

std::unique_ptr<Module> parsed(const std::string& text) {
  auto result = parse(header + text);
  if (result) return std::move(*result);
  ADD_FAILURE() << result.error().line << ": " << result.error().reason;
  return std::make_unique<Module>();
}

std::unique_ptr<Module> parsed_body(const std::string& body) {
  return parsed(".func f() {" + body + "}");
}

ParseError refused(const std::string& text) {
  auto result = parse(text);
  EXPECT_FALSE(result);
  return result ? ParseError{} : result.error();
}

std::string printed(const NameOperand& o) {
  std::string s = (o.negated ? "!" : "") + std::string(o.minus ? "-" : "") + std::string(o.name);
  if (!o.element.empty()) s += "." + std::string(o.element);
  if (o.offset != 0) s += "+" + std::to_string(o.offset);
  return s;
}

std::string printed(const Operand& operand);

std::string printed(const std::vector<Operand>& list) {
  std::string s;
  for (const Operand& o : list) s += (s.empty() ? "" : ", ") + printed(o);
  return s;
}

std::string printed(const Operand& operand) {
  struct Printer {
    std::string operator()(const NameOperand& o) const { return printed(o); }
    std::string operator()(const IntLiteral& o) const {
      return std::to_string(o.bits) + (o.is_unsigned ? "U" : "");
    }
    std::string operator()(const FloatLiteral& o) const {
      char text[32];
      std::snprintf(text, sizeof text, o.is_single ? "0f%08lX" : "0d%016lX", o.bits);
      return text;
    }
    std::string operator()(const AddressOperand& o) const {
      std::string s = "[";
      if (const auto* name = std::get_if<std::string_view>(&o.base)) s += *name;
      if (const auto* number = std::get_if<std::uint64_t>(&o.base)) s += std::to_string(*number);
      if (o.offset != 0) s += "+" + std::to_string(o.offset);
      for (const Operand& extra : o.extra) s += ", " + printed(extra);
      return s + "]";
    }
    std::string operator()(const VectorOperand& o) const { return "{" + printed(o.elements) + "}"; }
    std::string operator()(const ListOperand& o) const { return "(" + printed(o.elements) + ")"; }
    std::string operator()(const PairOperand& o) const { return printed(o.first) + "|" + printed(o.second); }
  };
  return std::visit(Printer{}, operand.value);
}

std::string printed(const Instruction& i) {
  std::string s;
  if (i.guard) s += std::string("@") + (i.guard->negated ? "!" : "") + std::string(i.guard->predicate) + " ";
  s += i.mnemonic;
  if (!i.operands.empty()) s += " " + printed(i.operands);
  return s + ";";
}

class InstructionText : public testing::TestWithParam<const char*> {};

TEST_P(InstructionText, SurvivesParsingAndPrinting) {
  const auto module = parsed_body(GetParam());
  ASSERT_EQ(module->functions.size(), 1U);
  ASSERT_EQ(module->functions[0].instructions.size(), 1U);
  EXPECT_EQ(printed(module->functions[0].instructions[0]), GetParam());
}

INSTANTIATE_TEST_SUITE_P(
    Forms, InstructionText,
    testing::Values(
        "ret;", "@%p1 bra $L__BB0_2;", "@!%p1 bra.uni $L__BB0_2;", "add.s32 %r1, %r2, 5;",
        "mov.u32 %r1, %tid.x;", "mov.f32 %f1, 0f3F800000;", "mov.f64 %fd1, 0d3FF0000000000000;",
        "mov.u64 %rd1, table+8;", "ld.global.nc.v4.u32 {%r1, _, %r3, %r4}, [%rd1+16];",
        "ld.shared.u32 %r1, [4096];", "st.global.f32 [%rd1+-4], %f1;",
        "setp.lt.and.f32 %p1|%p2, %f1, %f2, !%p3;", "shfl.sync.bfly.b32 %r1|%p1, %r2, 16, 31, 4294967295;",
        "call.uni (retval0), f, (param0, 5, param1), proto;", "call f;", "call (r), %rd1, (a), proto_0;",
        "tex.2d.v4.f32.f32 {%f1, %f2, %f3, %f4}, [tex, {%f5, %f6}];",
        "tex.2d.v4.f32.f32 {%f1, %f2, %f3, %f4}, [tex, smp, {%f5, %f6}];",
        "mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%r1, %r2}, {%r3, %r4}, {%r5}, {%r6, %r7};",
        "mbarrier.arrive.release.cta.shared::cta.b64 _, [%r1];",
        "lop3.or.b32 %r1|%p1, %r2, %r3, %r4, 63, %p2;", "vadd.s32.u32.s32 %r1, -%r2.b0, %r3.h1;",
        "mov.b32 {%rs1, %rs2}, %r1;", "brx.idx %r1, ts;", "mov.u64 %rd1, 18446744073709551615U;"));

TEST(Parser, ReadsAnEntryAsNvccWritesIt) {
  const auto module = parsed(R"(
    .visible .entry _Z3addPfi(
      .param .u64 .ptr .global .align 4 _Z3addPfi_param_0, // a comment
      .param .align 8 .b8 _Z3addPfi_param_1[24]
    ) .maxntid 256, 2 .minnctapersm 3 .maxnreg 64
    {
      .reg .pred %p<3>; .reg .b32 a, b;
      .loc 1 4 7
      .loc 1 4 7, function_name $L__info_string0, inlined_at 1 22 3
      ld.param.u64 %rd1, [_Z3addPfi_param_0];
      /* two
         lines */
      { .reg .b16 low; .local .align 4 .b8 depot[16]; mov.b16 low, 3; }
    $L__BB0_1:
      bra $L__BB0_1;
      ret;
    $end:
    })");
  const Function& f = module->functions.at(0);
  EXPECT_TRUE(f.is_entry);
  EXPECT_TRUE(f.visible);
  EXPECT_EQ(f.maxntid[0], 256U);
  EXPECT_EQ(f.maxntid[1], 2U);
  EXPECT_EQ(f.maxntid[2], 1U);
  EXPECT_EQ(f.minnctapersm, 3U);
  EXPECT_EQ(f.maxnreg, 64U);
  ASSERT_EQ(f.params.size(), 2U);
  EXPECT_EQ(f.params[0].ptr_space, Space::global);
  EXPECT_EQ(f.params[0].ptr_align, 4U);
  EXPECT_EQ(f.params[1].size(), 24U);
  EXPECT_EQ(f.params[1].alignment(), 8U);
  ASSERT_EQ(f.scopes.size(), 2U);
  EXPECT_EQ(f.scopes[0].registers.at(0).count, 3U);
  EXPECT_TRUE(f.scopes[0].registers.at(0).is_range);
  EXPECT_EQ(f.scopes[0].registers.at(2).name, "b");
  EXPECT_EQ(f.scopes[1].variables.at(0).size(), 16U);
  ASSERT_EQ(f.instructions.size(), 4U);
  EXPECT_EQ(f.instructions[0].scope, 0U);
  EXPECT_EQ(f.instructions[1].scope, 1U);
  ASSERT_EQ(f.labels.size(), 2U);
  EXPECT_EQ(f.labels[0].instruction, 2U);
  EXPECT_EQ(f.labels[1].instruction, 4U);
  EXPECT_EQ(module->version_major, 8U);
  EXPECT_EQ(module->version_minor, 8U);
  EXPECT_EQ(module->target, "sm_75");
}

TEST(Parser, CountsLinesThroughCommentsAndStrings) {
  const auto module = parsed("/* 1\n 2 */ // x\n.pragma \"a\";\n.func f() {\n ret;\n}\n");
  EXPECT_EQ(module->functions.at(0).instructions.at(0).line, 8U);
}

TEST(Parser, ReadsVariablesAndTheirInitializers) {
  const auto module = parsed(R"(
    .global .align 4 .u32 a = 0x10 + 2 * 3, b[2][2] = {{1}, {3, -1}};
    .visible .const .f32 c[3] = {1.5, 0f40000000, 3};
    .extern .shared .align 16 .b8 dynamic[];
    .global .b8 text[] = {104, 105, 0};
    .global .u64 pointers[3] = {a, generic(b)+4, generic(b+8)};
    .global .align 8 .b8 bytes[2] = {0xFF(a), 0xFF00(generic(a)+1)};
    .weak .global .v4 .f32 v = {1.0, 2.0, 3.0, 4.0};
    .global .attribute(.managed) .align 4 .u32 m;
    .global .f64 d = 0.1;
    .global .f16 h = 1.0;)");
  const auto& v = module->variables;
  ASSERT_EQ(v.size(), 11U);
  EXPECT_EQ(v[0].initializer.at(0).bits, 22U);
  ASSERT_EQ(v[1].initializer.size(), 4U);
  EXPECT_EQ(v[1].initializer[1].bits, 0U);
  EXPECT_EQ(v[1].initializer[3].bits, 0xffffffffU);
  EXPECT_EQ(v[1].size(), 16U);
  EXPECT_EQ(v[2].initializer.at(0).bits, 0x3fc00000U);
  EXPECT_EQ(v[2].initializer.at(1).bits, 0x40000000U);
  EXPECT_EQ(v[2].initializer.at(2).bits, 0x40400000U);
  EXPECT_EQ(v[2].space, Space::constant);
  EXPECT_TRUE(v[3].is_extern);
  EXPECT_EQ(v[3].dims.at(0), 0U);
  EXPECT_EQ(v[4].dims.at(0), 3U);
  EXPECT_EQ(v[5].initializer.at(0).symbol->name, "a");
  EXPECT_FALSE(v[5].initializer[0].generic);
  EXPECT_TRUE(v[5].initializer.at(1).generic);
  EXPECT_EQ(v[5].initializer[1].symbol->offset, 4);
  EXPECT_EQ(v[5].initializer.at(2).symbol->offset, 8);
  EXPECT_TRUE(v[6].initializer.at(0).has_mask);
  EXPECT_EQ(v[6].initializer.at(1).mask_shift, 8U);
  EXPECT_TRUE(v[6].initializer[1].generic);
  EXPECT_EQ(v[7].size(), 16U);
  EXPECT_EQ(v[7].alignment(), 16U);
  EXPECT_TRUE(v[7].weak);
  EXPECT_TRUE(v[8].managed);
  EXPECT_EQ(v[9].initializer.at(0).bits, std::bit_cast<std::uint64_t>(0.1));
  EXPECT_EQ(v[10].initializer.at(0).bits, 0x3c00U);
}

TEST(Parser, EvaluatesConstantExpressions) {
  const auto value = [](const std::string& text) {
    const auto module = parsed(".global .u64 x = " + text + ";");
    return module->variables.at(0).initializer.at(0).bits;
  };
  EXPECT_EQ(value("1 + 2 * 3"), 7U);
  EXPECT_EQ(value("(1 + 2) * 3"), 9U);
  EXPECT_EQ(value("1 << 4 | 1"), 17U);
  EXPECT_EQ(value("-1 >> 1"), ~std::uint64_t{0});
  EXPECT_EQ(value("(.u64)-1 >> 63"), 1U);
  EXPECT_EQ(value("-7 / 2"), static_cast<std::uint64_t>(-3));
  EXPECT_EQ(value("3 > 2 ? 10 : 20"), 10U);
  EXPECT_EQ(value("-1 < 1U"), 0U);
  EXPECT_EQ(value("-1 < 1"), 1U);
  EXPECT_EQ(value("!0 && ~0"), 1U);
  EXPECT_EQ(value("017 + 0b101 + 0xAU"), 30U);
  EXPECT_EQ(value("WARP_SZ - 1"), 31U);
  EXPECT_EQ(value("-9223372036854775808 / -1"), std::uint64_t{1} << 63);
}

TEST(Parser, ReadsCallTablesPrototypesAndAliases) {
  const auto module = parsed(R"(
    .extern .func (.param .b32 r) vprintf(.param .b64 a, .param .b64 b);
    .func (.param .b32 r) g(.param .b32 a) .noreturn { ret; }
    .alias h, g;
    .func f() {
      ts: .branchtargets $a, $b;
      cs: .calltargets g, h;
      proto: .callprototype (.param .b32 _) _ (.param .b64 _, .param .align 8 .b8 _[16]) .noreturn;
      $a: $b: ret;
    })");
  ASSERT_EQ(module->functions.size(), 3U);
  EXPECT_TRUE(module->functions[0].is_extern);
  EXPECT_FALSE(module->functions[0].has_body);
  EXPECT_EQ(module->functions[0].params.size(), 2U);
  EXPECT_TRUE(module->functions[1].noreturn);
  EXPECT_EQ(module->aliases.at(0).target, "g");
  const auto& lists = module->functions[2].target_lists;
  ASSERT_EQ(lists.size(), 3U);
  EXPECT_EQ(lists[0].targets.at(1), "$b");
  EXPECT_TRUE(lists[2].is_prototype);
  EXPECT_EQ(lists[2].params.at(1).size(), 16U);
  EXPECT_EQ(lists[2].results.size(), 1U);
}

TEST(Parser, SkipsDebugInformation) {
  const auto module = parsed(R"(
    .file 1 "/a b/c.cu", 123, 456
    .section .debug_str { $L: .b8 1,2,3 { } .b64 .debug_abbrev+4 }
    .func f() { .pragma "nounroll"; ret; }
    .section .debug_loc { })");
  EXPECT_EQ(module->functions.size(), 1U);
}

TEST(Parser, ReportsTheLineAndWhatWasExpected) {
  EXPECT_EQ(refused(header + ".func f() {\n\n add.s32 %r1 %r2;\n}").line, 6U);
  EXPECT_EQ(refused(header + ".func f() {\n\n add.s32 %r1 %r2;\n}").reason, "expected ';' before '%r2'");
  EXPECT_EQ(refused("hello").reason, "expected '.version' before 'hello'");
  EXPECT_EQ(refused("").line, 1U);
  EXPECT_EQ(refused(header + ".func f() { ret;").reason, "expected '}' before the end");
  EXPECT_EQ(refused(header + ".global .u32 a = 1/0;").reason,
            "operator '/' does not apply to these constants");
  EXPECT_EQ(refused(header + ".global .u32 a[2] = {1,2,3};").reason, "more initial values than elements");
}

TEST(Parser, RefusesWhatWouldExhaustMemoryOrStack) {
  refused(header + ".global .u32 a[0x7fffffffffff][0x7fffffffffff];");
  refused(header + ".global .b8 a[2][1000000000] = {{1}, {2}};");
  refused(header + ".func f() { .reg .b32 %r<4000000000>; }");
  refused(header + ".global .u32 a = " + std::string(1 << 20, '(') + ";");
  refused(header + ".global .u32 a = " + std::string(1 << 20, '-') + "1;");
  refused(header + ".global .u32 a[1] = " + std::string(1 << 20, '{') + ";");
  refused(header + ".func f() { mov.b32 a, " + std::string(1 << 20, '{') + "; }");
}

TEST(Parser, FollowsScopesNestedDeeperThanAnyStack) {
  const std::size_t depth = 1 << 18;
  const auto module = parsed_body(std::string(depth, '{') + "ret;" + std::string(depth, '}'));
  ASSERT_EQ(module->functions.size(), 1U);
  EXPECT_EQ(module->functions[0].scopes.size(), depth + 1);
}

TEST(Parser, RefusesEveryPrefixOfAModuleWithoutHarm) {
  const std::string text = header +
                           ".global .u32 a[2] = {0xFF(b), 1.5e3};\n.entry k(.param .u64 p) .maxntid 1,2,3 {\n"
                           "@!%p bra L; ld.v2.u32 {%a, %b.x}, [%c+4]; L: t: .branchtargets L; }";
  ASSERT_TRUE(parse(text)) << parse(text).error().reason;
  for (std::size_t n = header.size(); n < text.size(); ++n) (void)parse(text.substr(0, n));
}

}  // namespace
}  // namespace softgpu::ptx
