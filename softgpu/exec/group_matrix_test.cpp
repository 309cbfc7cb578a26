// Matrix products of warps, and loading fragments, against plain loops over the matrices. Fragments are laid
// out here by the formulas of the PTX ISA ("Matrix Fragments for mma").
#include <array>
#include <cmath>
#include <random>

#include "softgpu/exec/test_device.hpp"

namespace softgpu::test {
namespace {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using s32 = std::int32_t;

std::string names(const char* prefix, u32 first, u32 count) {
  std::string s = "{";
  for (u32 k = 0; k < count; ++k) s += (k != 0 ? ", " : "") + std::string(prefix) + std::to_string(first + k);
  return s + "}";
}

/// Runs `mnemonic {d}, {a}, {b}, {c};` with 32-bit registers filled from `in`, register by register, lane by
/// lane.
std::vector<u32> run_product(const std::string& mnemonic, const std::array<u32, 4>& counts,
                             const std::vector<u32>& in) {
  const auto [nd, na, nb, nc] = counts;
  std::string text = header() + ".visible .entry k(.param .u64 in, .param .u64 out)\n{\n";
  text += ".reg .b32 %i, %d<9>, %s<33>; .reg .b64 %x<4>;\nld.param.u64 %x0, [in]; ld.param.u64 %x1, [out];\n";
  text += "mov.u32 %i, %tid.x; mul.wide.u32 %x2, %i, 4; add.s64 %x0, %x0, %x2; add.s64 %x1, %x1, %x2;\n";
  for (u32 k = 0; k < na + nb + nc; ++k)
    text += "ld.global.b32 %s" + std::to_string(k) + ", [%x0+" + std::to_string(128 * k) + "];\n";
  text += mnemonic + " " + names("%d", 0, nd) + ", " + names("%s", 0, na) + ", " + names("%s", na, nb) +
          ", " + names("%s", na + nb, nc) + ";\n";
  for (u32 k = 0; k < nd; ++k)
    text += "st.global.b32 [%x1+" + std::to_string(128 * k) + "], %d" + std::to_string(k) + ";\n";
  Program p(text + "ret;\n}\n", 1);
  const Array<u32> source(in), out(nd * warp);
  p.expect_ok("k", {1}, {warp}, Params().add(source.address()).add(out.address()));
  return {out.data(), out.data() + out.size()};
}

float half_value(u16 h) {
  const int exponent = h >> 10 & 31, fraction = h & 1023;
  const float v = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  return (h & 0x8000) != 0 ? -v : v;
}

/// Halves of small integers: their products and sums are exact in binary16 too, whatever the order.
u16 small_half(s32 v) {
  if (v == 0) return 0;
  const auto a = static_cast<u32>(std::abs(v));
  u32 exponent = 0;
  while (a >> (exponent + 1) != 0) ++exponent;
  const u32 bits = (exponent + 15) << 10 | ((a << (10 - exponent)) & 1023);
  return static_cast<u16>(bits | (v < 0 ? 0x8000U : 0U));
}

u32 word_of(float v) {
  u32 u = 0;
  std::memcpy(&u, &v, 4);
  return u;
}
float float_of(u32 u) {
  float v = 0;
  std::memcpy(&v, &u, 4);
  return v;
}

u16 half_of(const std::vector<u32>& registers, u32 r, u32 lane, u32 half) {
  return static_cast<u16>(registers[r * warp + lane] >> (16 * half));
}
void put_half(std::vector<u32>& registers, u32 r, u32 lane, u32 half, u16 value) {
  registers[r * warp + lane] |= static_cast<u32>(value) << (16 * half);
}

class Matrix : public testing::Test {
 protected:
  s32 draw(s32 low, s32 high) { return std::uniform_int_distribution<s32>(low, high)(random_); }
  std::mt19937 random_{1234};
};

void check_m16n8k8(bool wide, std::mt19937& random) {
  std::uniform_int_distribution<s32> value(-6, 6);
  s32 a[16][8], b[8][8], c[16][8];
  for (auto& row : a)
    for (s32& v : row) v = value(random);
  for (auto& row : b)
    for (s32& v : row) v = value(random);
  for (auto& row : c)
    for (s32& v : row) v = 10 * value(random);
  const u32 nc = wide ? 4 : 2;
  std::vector<u32> in((3 + nc) * warp);
  for (u32 lane = 0; lane < warp; ++lane) {
    const u32 group = lane / 4, within = lane % 4;
    for (u32 i = 0; i < 4; ++i) {
      const u32 row = i < 2 ? group : group + 8, column = within * 2 + (i & 1);
      put_half(in, i / 2, lane, i % 2, small_half(a[row][column]));
      if (wide) {
        in[(3 + i) * warp + lane] = word_of(static_cast<float>(c[row][column]));
      } else {
        put_half(in, 3 + i / 2, lane, i % 2, small_half(c[row][column]));
      }
    }
    for (u32 i = 0; i < 2; ++i) put_half(in, 2, lane, i, small_half(b[within * 2 + i][group]));
  }
  const std::string type = wide ? "f32" : "f16";
  const auto d =
      run_product("mma.sync.aligned.m16n8k8.row.col." + type + ".f16.f16." + type, {nc, 2, 1, nc}, in);
  for (u32 lane = 0; lane < warp; ++lane) {
    for (u32 i = 0; i < 4; ++i) {
      const u32 row = i < 2 ? lane / 4 : lane / 4 + 8, column = lane % 4 * 2 + (i & 1);
      s32 want = c[row][column];
      for (u32 k = 0; k < 8; ++k) want += a[row][k] * b[k][column];
      const float got = wide ? float_of(d[i * warp + lane]) : half_value(half_of(d, i / 2, lane, i % 2));
      ASSERT_EQ(got, static_cast<float>(want)) << "row " << row << " column " << column;
    }
  }
}

TEST_F(Matrix, MultipliesHalvesIntoFloats) {
  for (int round = 0; round < 4; ++round) check_m16n8k8(true, random_);
}

TEST_F(Matrix, MultipliesHalvesIntoHalves) {
  for (int round = 0; round < 4; ++round) check_m16n8k8(false, random_);
}

struct IntegerCase {
  u32 k;  ///< 16 elements of 8 bits or 32 of 4
  bool a_signed, b_signed, saturate;
};
class IntegerProduct : public testing::TestWithParam<IntegerCase> {};

TEST_P(IntegerProduct, MatchesPlainLoops) {
  const auto [depth, a_signed, b_signed, saturate] = GetParam();
  const u32 bits = 128 / depth;
  std::mt19937 random(depth);
  std::vector<u32> in(4 * warp);
  for (u32& v : in) v = static_cast<u32>(random());
  for (u32 i = 0; i < warp; i += 3) in[2 * warp + i] = i % 2 == 0 ? 0x7fffffffU : 0x80000000U;
  const auto element = [&](u32 r, u32 group, u32 k, bool is_signed) {
    const u32 word = in[r * warp + group * 4 + k * bits / 32];
    const auto raw = static_cast<s32>(word >> (k * bits % 32) & ((1U << bits) - 1));
    return is_signed && raw >> (bits - 1) != 0 ? raw - (1 << bits) : raw;
  };
  const std::string width = std::to_string(bits);
  const auto d = run_product("mma.sync.aligned.m8n8k" + std::to_string(depth) + ".row.col" +
                                 (saturate ? ".satfinite" : "") + ".s32." + (a_signed ? "s" : "u") + width +
                                 "." + (b_signed ? "s" : "u") + width + ".s32",
                             {2, 1, 1, 2}, in);
  for (u32 row = 0; row < 8; ++row) {
    for (u32 column = 0; column < 8; ++column) {
      const u32 lane = row * 4 + column / 2, r = column % 2;
      std::int64_t want = static_cast<s32>(in[(2 + r) * warp + lane]);
      for (u32 k = 0; k < depth; ++k) want += element(0, row, k, a_signed) * element(1, column, k, b_signed);
      if (saturate) want = std::min<std::int64_t>(std::max<std::int64_t>(want, INT32_MIN), INT32_MAX);
      ASSERT_EQ(d[r * warp + lane], static_cast<u32>(want)) << "row " << row << " column " << column;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Types, IntegerProduct,
    testing::Values(IntegerCase{16, true, true, false}, IntegerCase{16, false, true, false},
                    IntegerCase{16, true, false, true}, IntegerCase{16, false, false, true},
                    IntegerCase{32, true, true, false}, IntegerCase{32, false, false, true},
                    IntegerCase{32, true, false, false}));

TEST_F(Matrix, CountsBitsThatDiffer) {
  std::vector<u32> in(4 * warp);
  for (u32& v : in) v = static_cast<u32>(random_());
  const auto d = run_product("mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.xor.popc", {2, 1, 1, 2}, in);
  for (u32 row = 0; row < 8; ++row) {
    for (u32 column = 0; column < 8; ++column) {
      const u32 lane = row * 4 + column / 2, r = column % 2;
      u32 want = in[(2 + r) * warp + lane];
      for (u32 k = 0; k < 4; ++k)
        want += static_cast<u32>(__builtin_popcount(in[row * 4 + k] ^ in[warp + column * 4 + k]));
      ASSERT_EQ(d[r * warp + lane], want);
    }
  }
}

TEST_F(Matrix, TransposesAFragment) {
  const std::string text = header() + R"(.visible .entry k(.param .u64 out)
{ .reg .b32 %i, %a, %d; .reg .b64 %x<3>;
  ld.param.u64 %x0, [out]; mov.u32 %i, %tid.x; mul.wide.u32 %x1, %i, 4; add.s64 %x0, %x0, %x1;
  ld.global.b32 %a, [%x0];
  movmatrix.sync.aligned.m8n8.trans.b16 %d, %a;
  st.global.b32 [%x0], %d; ret; })";
  const Array<u16> m(64);
  for (u32 i = 0; i < 64; ++i) m[i] = static_cast<u16>(i);
  Program p(text, 1);
  p.expect_ok("k", {1}, {warp}, Params().add(m.address()));
  for (u32 i = 0; i < 64; ++i) EXPECT_EQ(m[i], i % 8 * 8 + i / 8);
}

/// ldmatrix of `count` matrices whose rows lie in shared memory in a scrambled order.
void check_ldmatrix(u32 count, bool transposed, bool generic) {
  std::string text = header() + ".visible .entry k(.param .u64 in, .param .u64 out)\n{\n";
  text += ".shared .align 16 .b8 tile[512]; .reg .b32 %i, %s, %r<9>, %d<5>; .reg .b64 %x<6>;\n";
  text += "ld.param.u64 %x0, [in]; ld.param.u64 %x1, [out]; mov.u32 %i, %tid.x;\n";
  text += "mul.wide.u32 %x2, %i, 16; add.s64 %x0, %x0, %x2; ld.global.v4.b32 {%r0,%r1,%r2,%r3}, [%x0];\n";
  // Row i of the source goes to place (5 i) mod 32.
  text +=
      "mul.lo.u32 %s, %i, 5; and.b32 %s, %s, 31; shl.b32 %s, %s, 4; mov.u32 %r4, tile; add.u32 %s, %s, "
      "%r4;\n";
  text += "st.shared.v4.b32 [%s], {%r0,%r1,%r2,%r3}; bar.sync 0;\n";
  text += "cvt.u64.u32 %x4, %s; cvta.shared.u64 %x4, %x4;\n";
  text += "ldmatrix.sync.aligned.m8n8.x" + std::to_string(count) + (transposed ? ".trans" : "") +
          (generic ? "" : ".shared") + ".b16 " + names("%d", 0, count) + ", " + (generic ? "[%x4]" : "[%s]") +
          ";\n";
  text += "mul.wide.u32 %x2, %i, 4; add.s64 %x1, %x1, %x2;\n";
  for (u32 k = 0; k < count; ++k)
    text += "st.global.b32 [%x1+" + std::to_string(128 * k) + "], %d" + std::to_string(k) + ";\n";
  Program p(text + "ret;\n}\n", 1);
  const Array<u16> in(256), out(64 * count);
  for (u32 i = 0; i < 256; ++i) in[i] = static_cast<u16>(i * 257);
  p.expect_ok("k", {1}, {warp}, Params().add(in.address()).add(out.address()));
  for (u32 k = 0; k < count; ++k) {
    for (u32 lane = 0; lane < warp; ++lane) {
      for (u32 h = 0; h < 2; ++h) {
        const u32 row = transposed ? lane % 4 * 2 + h : lane / 4,
                  column = transposed ? lane / 4 : lane % 4 * 2 + h;
        ASSERT_EQ(out[64 * k + 2 * lane + h], in[64 * k + 8 * row + column]) << k << " " << lane << " " << h;
      }
    }
  }
}

TEST_F(Matrix, LoadsFragmentsFromSharedMemory) {
  for (const u32 count : {1U, 2U, 4U}) {
    for (const bool transposed : {false, true}) {
      check_ldmatrix(count, transposed, false);
      check_ldmatrix(count, transposed, true);
    }
  }
}

TEST_F(Matrix, RefusesAMisalignedRow) {
  const std::string text = header() + R"(.visible .entry k()
{ .shared .align 16 .b8 tile[1024]; .reg .b32 %s, %d; mov.u32 %s, tile;
  ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%d}, [%s+4]; ret; })";
  Program p(text, 1);
  EXPECT_EQ(p.run("k", {1}, {warp}, Params()).fault, Fault::misaligned_address);
}

TEST_F(Matrix, RefusesARowOutsideSharedMemory) {
  const std::string text = header() + R"(.visible .entry k()
{ .shared .align 16 .b8 tile[64]; .reg .b32 %s, %d; mov.u32 %s, tile;
  ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%d}, [%s+64]; ret; })";
  Program p(text, 1);
  EXPECT_EQ(p.run("k", {1}, {warp}, Params()).fault, Fault::illegal_address);
}

struct WholeCase {
  u32 m, n;
  const char* a_layout;
  const char* b_layout;
  const char* d_type;
  const char* c_type;
};
class WholeProduct : public testing::TestWithParam<WholeCase> {};

std::string wmma_program(const WholeCase& w, const std::string& input, u32 na, u32 nb) {
  const std::string shape = "m" + std::to_string(w.m) + "n" + std::to_string(w.n) + "k16";
  const std::string ct = w.c_type, dt = w.d_type;
  const bool integer = input != "f16";
  std::string text =
      header() +
      ".visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 d, .param .u32 lda, "
      ".param .u32 ldb, .param .u32 ldd)\n{\n.reg .b64 %x<5>; .reg .b32 %l<4>, %a<9>, %b<9>, %c<9>, %d<9>;\n"
      "ld.param.u64 %x0, [a]; ld.param.u64 %x1, [b]; ld.param.u64 %x2, [c]; ld.param.u64 %x3, [d];\n"
      "ld.param.u32 %l0, [lda]; ld.param.u32 %l1, [ldb]; ld.param.u32 %l2, [ldd];\n";
  const u32 nc = ct == "f16" ? 4 : 8, nd = dt == "f16" ? 4 : 8;
  const std::string a = names("%a", 0, na), b = names("%b", 0, nb), c = names("%c", 0, nc),
                    d = names("%d", 0, nd);
  text += std::string("wmma.load.a.sync.aligned.") + w.a_layout + "." + shape + ".global." + input + " " + a +
          ", [%x0], %l0;\n";
  text += std::string("wmma.load.b.sync.aligned.") + w.b_layout + "." + shape + "." + input + " " + b +
          ", [%x1], %l1;\n";
  text += "wmma.load.c.sync.aligned.col." + shape + ".global." + ct + " " + c + ", [%x2];\n";
  text += std::string("wmma.mma.sync.aligned.") + w.a_layout + "." + w.b_layout + "." + shape + "." +
          (integer ? "s32." + input + "." + input + ".s32" : dt + "." + ct) + " " + d + ", " + a + ", " + b +
          ", " + c + ";\n";
  text += "wmma.store.d.sync.aligned.row." + shape + ".global." + dt + " [%x3], " + d + ", %l2;\nret;\n}\n";
  return text;
}

TEST_P(WholeProduct, MatchesPlainLoops) {
  const WholeCase w = GetParam();
  const bool integer = std::string(w.d_type) == "s32";
  std::mt19937 random(w.m);
  std::uniform_int_distribution<s32> value(-5, 5);
  // Leading dimensions with 8 elements of room, that no element of which may be touched.
  const bool a_row = w.a_layout[0] == 'r', b_row = w.b_layout[0] == 'r';
  const u32 lda = (a_row ? 16 : w.m) + 8, ldb = (b_row ? w.n : 16) + 8, ldd = w.n + 8;
  std::vector<s32> a(w.m * 16), b(16 * w.n), c(w.m * w.n);
  for (s32& v : a) v = value(random);
  for (s32& v : b) v = value(random);
  for (s32& v : c) v = 10 * value(random);
  const u32 bytes = integer ? 1 : 2, dbytes = std::string(w.d_type) == "f16" ? 2 : 4;
  const u32 cbytes = std::string(w.c_type) == "f16" ? 2 : 4;
  const Array<u8> am(lda * 32 * bytes), bm(ldb * 32 * bytes), cm(c.size() * cbytes), dm(ldd * w.m * dbytes);
  const auto put_input = [&](const Array<u8>& to, u32 at, s32 v) {
    if (integer) {
      to[at] = static_cast<u8>(v);
    } else {
      const u16 h = small_half(v);
      std::memcpy(to.data() + 2 * at, &h, 2);
    }
  };
  for (u32 m = 0; m < w.m; ++m)
    for (u32 k = 0; k < 16; ++k) put_input(am, a_row ? m * lda + k : k * lda + m, a[m * 16 + k]);
  for (u32 k = 0; k < 16; ++k)
    for (u32 n = 0; n < w.n; ++n) put_input(bm, b_row ? k * ldb + n : n * ldb + k, b[k * w.n + n]);
  for (u32 m = 0; m < w.m; ++m) {
    for (u32 n = 0; n < w.n; ++n) {
      const s32 v = c[m * w.n + n];
      const u32 word = integer       ? static_cast<u32>(v)
                       : cbytes == 2 ? small_half(v)
                                     : word_of(static_cast<float>(v));
      std::memcpy(cm.data() + (n * w.m + m) * cbytes, &word, cbytes);
    }
  }
  std::memset(dm.data(), 0x5a, dm.size());
  const u32 na = integer ? w.m / 8 : 8, nb = integer ? w.n / 8 : 8;
  Program p(wmma_program(w, integer ? "s8" : "f16", na, nb), 1);
  p.expect_ok("k", {1}, {warp},
              Params()
                  .add(am.address())
                  .add(bm.address())
                  .add(cm.address())
                  .add(dm.address())
                  .add(lda)
                  .add(ldb)
                  .add(ldd));
  for (u32 m = 0; m < w.m; ++m) {
    for (u32 n = 0; n < ldd; ++n) {
      u32 word = 0;
      std::memcpy(&word, dm.data() + (m * ldd + n) * dbytes, dbytes);
      if (n >= w.n) {
        ASSERT_EQ(word, dbytes == 2 ? 0x5a5aU : 0x5a5a5a5aU) << "beside the matrix";
        continue;
      }
      s32 want = c[m * w.n + n];
      for (u32 k = 0; k < 16; ++k) want += a[m * 16 + k] * b[k * w.n + n];
      const float got = integer       ? static_cast<float>(static_cast<s32>(word))
                        : dbytes == 2 ? half_value(static_cast<u16>(word))
                                      : float_of(word);
      ASSERT_EQ(got, static_cast<float>(want)) << "row " << m << " column " << n;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, WholeProduct,
                         testing::Values(WholeCase{16, 16, "row", "col", "f32", "f32"},
                                         WholeCase{16, 16, "col", "row", "f16", "f16"},
                                         WholeCase{8, 32, "row", "col", "f32", "f32"},
                                         WholeCase{8, 32, "row", "row", "f32", "f16"},
                                         WholeCase{32, 8, "col", "col", "f16", "f32"},
                                         WholeCase{16, 16, "row", "col", "s32", "s32"},
                                         WholeCase{8, 32, "row", "col", "s32", "s32"},
                                         WholeCase{32, 8, "row", "col", "s32", "s32"}));

TEST_F(Matrix, NamesAShapeThatItDoesNotKnow) {
  const std::string text = header() + R"(.visible .entry k()
{ .reg .b32 %r<9>;
  mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.xor.popc {%r0,%r1}, {%r2,%r3}, {%r4}, {%r5,%r6}; ret; })";
  Program p(text, 1);
  const auto r = p.run("k", {1}, {warp}, Params());
  EXPECT_EQ(r.fault, Fault::unsupported);
  EXPECT_NE(r.reason.find("mma"), std::string::npos) << r.reason;
}

}  // namespace
}  // namespace softgpu::test
