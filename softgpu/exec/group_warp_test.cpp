// Shuffles, votes, matches and warp barriers, with whole warps, parts of them and lanes that come by
// different ways.
#include <array>
#include <random>

#include "softgpu/exec/test_device.hpp"

namespace softgpu::test {
namespace {

using u32 = std::uint32_t;
using u64 = std::uint64_t;

using Lanes = std::array<u32, warp>;

/// Runs `body` on one warp of `threads`: %i is the lane, %a and %b are inputs, %d and %e are stored.
std::pair<Lanes, Lanes> run(const std::string& body, const Lanes& a, const Lanes& b, u32 threads = warp) {
  const std::string text = header() + R"(.visible .entry k(.param .u64 data)
{ .reg .pred %p, %q, %s; .reg .b32 %i, %a, %b, %c, %d, %e; .reg .b64 %x<3>, %w;
  ld.param.u64 %x0, [data]; mov.u32 %i, %tid.x; mul.wide.u32 %x1, %i, 4; add.s64 %x0, %x0, %x1;
  ld.global.b32 %a, [%x0]; ld.global.b32 %b, [%x0+128]; mov.b32 %d, 0; mov.b32 %e, 0;
)" + body + R"(
  st.global.b32 [%x0+256], %d; st.global.b32 [%x0+384], %e; ret; })";
  Program p(text, 1);
  const Array<u32> data(4 * warp);
  std::copy(a.begin(), a.end(), data.data());
  std::copy(b.begin(), b.end(), data.data() + warp);
  p.expect_ok("k", {1}, {threads}, Params().add(data.address()));
  std::pair<Lanes, Lanes> out;
  std::copy(data.data() + 2 * warp, data.data() + 3 * warp, out.first.begin());
  std::copy(data.data() + 3 * warp, data.data() + 4 * warp, out.second.begin());
  return out;
}

Lanes drawn(unsigned seed, u32 below) {
  std::mt19937 random(seed);
  Lanes v;
  for (u32& x : v) x = static_cast<u32>(random() % below);
  return v;
}

struct ShuffleCase {
  const char* mode;
  u32 width;
};
class Shuffle : public testing::TestWithParam<ShuffleCase> {};

// CUDA's own description: segments of `width` lanes; a lane whose source lies outside its segment keeps its
// value.
TEST_P(Shuffle, MovesValuesWithinSegments) {
  const auto [mode_name, width] = GetParam();
  const std::string mode = mode_name;
  const u32 clamp = (warp - width) << 8 | (mode == "up" ? 0U : 0x1fU);
  for (unsigned seed = 0; seed < 4; ++seed) {
    const Lanes a = drawn(seed, 1U << 31), b = drawn(seed + 10, 32);
    const auto [d, e] = run("shfl.sync." + mode + ".b32 %d|%p, %a, %b, " + std::to_string(clamp) +
                                ", 0xffffffff; selp.u32 %e, 1, 0, %p;",
                            a, b);
    for (u32 i = 0; i < warp; ++i) {
      const u32 base = i / width * width, place = i % width;
      u32 from = 0;
      bool valid = true;
      if (mode == "idx") from = base + b[i] % width;
      if (mode == "up") valid = b[i] <= place, from = i - b[i];
      if (mode == "down") valid = place + b[i] < width, from = i + b[i];
      if (mode == "bfly") from = i ^ b[i], valid = from < base + width;
      EXPECT_EQ(d[i], a[valid ? from : i]) << "lane " << i << " by " << b[i];
      EXPECT_EQ(e[i], valid ? 1U : 0U) << "lane " << i << " by " << b[i];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, Shuffle,
                         testing::Values(ShuffleCase{"idx", 32}, ShuffleCase{"idx", 8}, ShuffleCase{"up", 32},
                                         ShuffleCase{"up", 4}, ShuffleCase{"down", 32},
                                         ShuffleCase{"down", 16}, ShuffleCase{"bfly", 32},
                                         ShuffleCase{"bfly", 8}));

TEST(Warp, ShufflesWithoutAPredicateAndWithAGuard) {
  const Lanes a = drawn(1, 1000), b = drawn(2, 2);
  const auto [d, e] = run(R"(setp.ne.u32 %p, %b, 0; mov.b32 %d, 7777;
    shfl.sync.bfly.b32 %e, %a, 16, 31, -1; vote.sync.ballot.b32 %c, %p, -1;
    @%p shfl.sync.idx.b32 %d, %a, %i, 31, %c;)",
                          a, b);
  for (u32 i = 0; i < warp; ++i) {
    EXPECT_EQ(e[i], a[i ^ 16]);
    EXPECT_EQ(d[i], b[i] != 0 ? a[i] : 7777U);
  }
}

TEST(Warp, VotesOverTheMembers) {
  const Lanes a = drawn(3, 2), b{};
  u32 ballot = 0;
  for (u32 i = 0; i < warp; ++i) ballot |= a[i] << i;
  const auto [d, e] = run(R"(setp.ne.u32 %p, %a, 0; vote.sync.ballot.b32 %d, %p, -1;
    vote.sync.any.pred %q, %p, -1; selp.u32 %e, 1, 0, %q;
    vote.sync.all.pred %q, %p, -1; selp.u32 %c, 2, 0, %q; or.b32 %e, %e, %c;
    vote.sync.uni.pred %q, %p, -1; selp.u32 %c, 4, 0, %q; or.b32 %e, %e, %c;
    setp.le.u32 %s, %i, 31; vote.sync.all.pred %q, %s, -1; selp.u32 %c, 8, 0, %q; or.b32 %e, %e, %c;
    vote.sync.uni.pred %q, !%s, -1; selp.u32 %c, 16, 0, %q; or.b32 %e, %e, %c;
    vote.sync.any.pred %q, !%s, -1; selp.u32 %c, 32, 0, %q; or.b32 %e, %e, %c;)",
                          a, b);
  for (u32 i = 0; i < warp; ++i) {
    EXPECT_EQ(d[i], ballot);
    EXPECT_EQ(e[i], 1U + 8U + 16U);
  }
}

TEST(Warp, VotesOfAShortWarpLeaveOutLanesThatDoNotExist) {
  const auto [d, e] =
      run("setp.le.u32 %p, %i, 31; vote.sync.ballot.b32 %d, %p, -1; activemask.b32 %e;", {}, {}, 20);
  EXPECT_EQ(d[0], (1U << 20) - 1);
  EXPECT_EQ(e[19], (1U << 20) - 1);
  EXPECT_EQ(d[20], 0U);
}

TEST(Warp, FindsLanesWithTheSameValue) {
  const Lanes a = drawn(5, 6), b{};
  const auto [d, e] = run(R"(match.any.sync.b32 %d, %a, -1;
    cvt.u64.u32 %w, %a; shl.b64 %w, %w, 32; match.any.sync.b64 %e, %w, -1;)",
                          a, b);
  for (u32 i = 0; i < warp; ++i) {
    u32 want = 0;
    for (u32 k = 0; k < warp; ++k) want |= (a[k] == a[i] ? 1U : 0U) << k;
    EXPECT_EQ(d[i], want);
    EXPECT_EQ(e[i], want);
  }
}

TEST(Warp, TellsWhetherAllLanesHaveTheSameValue) {
  Lanes same{};
  same.fill(42);
  const std::string body = "match.all.sync.b32 %d|%p, %a, -1; selp.u32 %e, 1, 0, %p;";
  auto [d, e] = run(body, same, {});
  EXPECT_EQ(d[3], 0xffffffffU);
  EXPECT_EQ(e[3], 1U);
  same[30] = 41;
  std::tie(d, e) = run(body, same, {});
  EXPECT_EQ(d[3], 0U);
  EXPECT_EQ(e[3], 0U);
}

TEST(Warp, ExchangesWithinTheHalvesOfADivergedWarp) {
  const Lanes a = drawn(7, 1000);
  const auto [d, e] = run(R"(setp.lt.u32 %p, %i, 16; @!%p bra $HIGH;
    shfl.sync.bfly.b32 %d, %a, 1, 31, 0x0000ffff; activemask.b32 %e; bra $END;
    $HIGH: shfl.sync.bfly.b32 %d, %a, 2, 31, 0xffff0000; activemask.b32 %e;
    $END: bar.warp.sync -1;)",
                          a, {});
  for (u32 i = 0; i < warp; ++i) {
    EXPECT_EQ(d[i], a[i < 16 ? i ^ 1 : i ^ 2]);
    EXPECT_EQ(e[i], i < 16 ? 0x0000ffffU : 0xffff0000U);
  }
}

// Volta's promise: a shuffle whose mask names all lanes gathers those that come to it at different times.
TEST(Warp, WaitsForMembersThatComeLater) {
  const Lanes a = drawn(8, 1000);
  const auto [d, e] = run(R"(mov.b32 %c, %i;
    $LOOP: setp.eq.u32 %p, %c, 0; @%p bra $OUT; sub.u32 %c, %c, 1; add.u32 %a, %a, 1; bra $LOOP;
    $OUT: shfl.sync.down.b32 %d, %a, 1, 31, -1; vote.sync.ballot.b32 %e, %p, -1;)",
                          a, {});
  for (u32 i = 0; i < warp; ++i) {
    const u32 from = i == 31 ? i : i + 1;
    EXPECT_EQ(d[i], a[from] + from);
    EXPECT_EQ(e[i], 0xffffffffU);
  }
}

TEST(Warp, OrdersMemoryAtAWarpBarrier) {
  const std::string text = header() + R"(.visible .entry k(.param .u64 out)
{ .reg .pred %p; .reg .b32 %i, %j, %s, %v; .reg .b64 %x<3>; .shared .align 4 .b32 tile[32];
  ld.param.u64 %x0, [out]; mov.u32 %i, %tid.x; mul.wide.u32 %x1, %i, 4; add.s64 %x0, %x0, %x1;
  shl.b32 %s, %i, 2; mov.u32 %j, tile; add.u32 %s, %s, %j;
  setp.lt.u32 %p, %i, 7; @%p bra $LATE; st.shared.b32 [%s], %i; bra $MEET;
  $LATE: mul.lo.u32 %v, %i, 3; st.shared.b32 [%s], %v;
  $MEET: bar.warp.sync -1;
  xor.b32 %s, %i, 1; shl.b32 %s, %s, 2; add.u32 %s, %s, %j; ld.shared.b32 %v, [%s]; st.global.b32 [%x0], %v; ret; })";
  Program p(text, 1);
  const Array<u32> out(warp);
  p.expect_ok("k", {1}, {warp}, Params().add(out.address()));
  for (u32 i = 0; i < warp; ++i) EXPECT_EQ(out[i], (i ^ 1) < 7 ? 3 * (i ^ 1) : i ^ 1);
}

TEST(Warp, ReducesOverTheMembers) {
  const Lanes a = drawn(9, 1U << 31);
  const auto [d, e] = run("redux.sync.add.u32 %d, %a, -1; redux.sync.max.u32 %e, %a, -1;", a, {});
  u32 sum = 0, most = 0;
  for (const u32 v : a) sum += v, most = std::max(most, v);
  EXPECT_EQ(d[0], sum);
  EXPECT_EQ(d[31], sum);
  EXPECT_EQ(e[5], most);
}

// A leader elected within whatever lanes are active, as aggregated atomics do it.
TEST(Warp, AggregatesByActiveMask) {
  const Lanes a = drawn(10, 3);
  const auto [d, e] = run(R"(setp.eq.u32 %p, %a, 1; @!%p bra $END;
    activemask.b32 %c; mov.u32 %d, %lanemask_lt; and.b32 %d, %d, %c; popc.b32 %d, %d; popc.b32 %e, %c;
    $END:)",
                          a, {});
  u32 before = 0, all = 0;
  for (const u32 v : a) all += v == 1 ? 1U : 0U;
  for (u32 i = 0; i < warp; ++i) {
    EXPECT_EQ(d[i], a[i] == 1 ? before : 0U);
    EXPECT_EQ(e[i], a[i] == 1 ? all : 0U);
    before += a[i] == 1 ? 1U : 0U;
  }
}

}  // namespace
}  // namespace softgpu::test
