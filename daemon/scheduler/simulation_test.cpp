// Policies on simulated devices: what each promises, over thousands of random arrival patterns.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>

#include "daemon/scheduler/policies.hpp"
#include "daemon/scheduler/simulator.hpp"

namespace vgpu::daemon {
namespace {

using namespace simulation;

// A sanitizer looks at the code, which a tenth of the patterns runs through too, some thirty times slower.
#ifdef VGPU_SANITIZED
constexpr unsigned kPatterns = 100;
#else
constexpr unsigned kPatterns = 1000;
#endif
constexpr PolicyKind kKinds[] = {PolicyKind::fair, PolicyKind::fifo, PolicyKind::deadline,
                                 PolicyKind::time_slice, PolicyKind::turns};

PolicyOptions options() {
  PolicyOptions made;
  made.aging = std::chrono::milliseconds(100);
  made.linger = std::chrono::microseconds(100);
  made.slice = made.turn = std::chrono::milliseconds(8);
  return made;
}

// Up to six clients of every sort: busy and pausing, short and long kernels, that come and go.
std::vector<Program> random_programs(unsigned seed, bool levels) {
  std::mt19937 random(seed);
  std::vector<Program> programs(2 + random() % 5);
  for (Program& program : programs) {
    program.terms.weight = 50 + static_cast<std::uint32_t>(random() % 400);
    if (levels) program.terms.level = static_cast<unsigned>(random() % kLevels);
    program.terms.deadline_ns = (5 + random() % 100) * kMs;
    program.kernel_ns = (50 + random() % 2500) * kUs;
    program.kernel_spread_ns = random() % 2 == 0 ? 0 : random() % 1000 * kUs;
    program.burst = 1 + static_cast<unsigned>(random() % 20);
    program.pause_ns = random() % 2 == 0 ? 0 : random() % 5000 * kUs;
    program.pause_spread_ns = random() % 3 == 0 ? random() % 20'000 * kUs : 0;
    program.from_ns = random() % 50 * kMs;
    if (random() % 4 == 0) program.until_ns = (100 + random() % 100) * kMs;
  }
  return programs;
}

// For how long client `i` may have to wait, by the policy's own promise.
std::uint64_t longest_wait(PolicyKind kind, const std::vector<Program>& programs, std::size_t i) {
  const PolicyOptions chosen = options();
  const auto ns = [](std::chrono::nanoseconds time) { return static_cast<std::uint64_t>(time.count()); };
  std::uint64_t bound = ns(chosen.aging);  // lower levels: until they are let in
  for (const Program& other : programs) {
    const std::uint64_t length =
        kind == PolicyKind::time_slice || kind == PolicyKind::turns ? ns(chosen.slice) : ns(chosen.quantum);
    const std::uint64_t turn =
        static_cast<std::uint64_t>(static_cast<double>(length) * other.terms.weight / kUnitWeight) +
        other.kernel_ns + other.kernel_spread_ns + ns(chosen.linger);
    // A deadline twenty times as near means twenty turns for one.
    const std::uint64_t turns =
        kind == PolicyKind::deadline ? programs[i].terms.deadline_ns / other.terms.deadline_ns + 2 : 2;
    bound += turns * turn;
    // It may have been alone when it submitted a job, which nothing can take back.
    bound += 2 * other.burst * (other.kernel_ns + other.kernel_spread_ns);
  }
  return bound;
}

class EveryPolicy : public testing::TestWithParam<PolicyKind> {};

// Nobody waits for ever, and the device stands still for no longer than a pause that keeps a turn.
TEST_P(EveryPolicy, NeitherStarvesNorStallsWhateverArrives) {
  const auto linger = static_cast<std::uint64_t>(std::chrono::nanoseconds(options().linger).count());
  for (unsigned seed = 0; seed < kPatterns; ++seed) {
    const std::vector<Program> programs = random_programs(seed, seed % 2 == 1);
    Simulator simulator(make_policy(GetParam(), options()), programs, whim(seed), seed);
    simulator.run(300 * kMs);
    ASSERT_LE(simulator.longest_stall_ns(), linger) << "pattern " << seed;
    for (std::size_t i = 0; i < programs.size(); ++i) {
      const std::uint64_t longest = std::max(simulator.outcome(i).longest_wait_ns, simulator.waits_ns(i));
      ASSERT_LE(longest, longest_wait(GetParam(), programs, i)) << "pattern " << seed << " client " << i;
    }
  }
}

// All the time that clients were busy is somebody's, and clients that never pause leave none.
TEST_P(EveryPolicy, ConservesWorkOfBusyClients) {
  for (unsigned seed = 0; seed < kPatterns; ++seed) {
    std::vector<Program> programs = random_programs(seed, seed % 2 == 1);
    for (Program& program : programs) {
      program.pause_ns = program.pause_spread_ns = program.from_ns = 0;
      program.until_ns = UINT64_MAX;
    }
    Simulator simulator(make_policy(GetParam(), options()), programs, whim(seed), seed);
    simulator.run(100 * kMs);
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < simulator.clients(); ++i) sum += simulator.outcome(i).consumed_ns;
    ASSERT_EQ(sum, simulator.now_ns()) << "pattern " << seed;
    ASSERT_EQ(simulator.stalled_ns(), 0U) << "pattern " << seed;
  }
}

TEST_P(EveryPolicy, LoneClientMeetsNoGate) {
  const auto policy = make_policy(GetParam(), options());
  policy->add(1, {}, 0);
  const auto grants = policy->update(kMs, std::vector<Usage>{{1, 7 * kMs, true, true}});
  EXPECT_EQ(grants[0].more_ns, kUnlimited);
  EXPECT_FALSE(grants[0].bounded);
}

TEST_P(EveryPolicy, CounterThatGoesBackEarnsNothing) {
  const auto policy = make_policy(GetParam(), options());
  policy->add(1, {}, 0);
  policy->add(2, {}, 0);
  std::uint64_t liar = 0;
  std::uint64_t honest = 0;
  std::uint64_t claimed = 0;
  std::uint64_t now = 0;
  for (int round = 0; round < 4000; ++round) {
    now += kMs;
    const auto grants =
        policy->update(now, std::vector<Usage>{{1, claimed, true, false}, {2, honest, true, false}});
    if (grants[0].more_ns > 0 && (grants[1].more_ns == 0 || round % 2 == 0)) {
      liar += kMs;
      claimed = round % 10 == 0 ? 0 : liar;
    } else if (grants[1].more_ns > 0) {
      honest += kMs;
    }
  }
  EXPECT_LE(liar, honest * 115 / 100);
}

INSTANTIATE_TEST_SUITE_P(Policies, EveryPolicy, testing::ValuesIn(kKinds),
                         [](const auto& instance) { return std::string(to_string(instance.param)); });

// Busy clients of one priority get device time in proportion to their weights, within 2 %.
class SharingPolicy : public testing::TestWithParam<PolicyKind> {};

TEST_P(SharingPolicy, SharesAreByWeightWithinTwoPercent) {
  std::mt19937 random(11);
  for (unsigned seed = 0; seed < kPatterns; ++seed) {
    std::vector<Program> programs(2 + random() % 4);
    double weights = 0;
    for (Program& program : programs) {
      program.terms.weight = 100 * (1 + static_cast<std::uint32_t>(random() % 4));
      weights += program.terms.weight;
      program.kernel_ns = (100 + random() % 1500) * kUs;
      program.kernel_spread_ns = random() % 500 * kUs;
      program.burst = 1 + static_cast<unsigned>(random() % 50);
    }
    PolicyOptions chosen = options();
    chosen.slice = chosen.turn = chosen.quantum = std::chrono::milliseconds(2);
    chosen.lead = std::chrono::microseconds(50);  // as much of a turn as by default
    Simulator simulator(make_policy(GetParam(), chosen), programs, whim(seed), seed);
    simulator.run(2500 * kMs);
    for (std::size_t i = 0; i < programs.size(); ++i) {
      const double wanted = programs[i].terms.weight / weights;
      const double got =
          static_cast<double>(simulator.outcome(i).consumed_ns) / static_cast<double>(simulator.now_ns());
      ASSERT_NEAR(got / wanted, 1.0, 0.02)
          << "pattern " << seed << " client " << i << " of " << programs.size();
    }
  }
}

// As of a VM whose weight is divided among its busy processes.
TEST_P(SharingPolicy, PartsOfASmallWeightMakeUpTheWhole) {
  struct Case {
    double whole, divided;
    unsigned parts;
  };
  for (const Case& one : {Case{3, 1, 3}, Case{1, 1, 64}, Case{1, 3, 64}, Case{100, 100, 64}}) {
    SCOPED_TRACE(std::to_string(one.parts));
    std::vector<Program> programs(1 + one.parts);
    programs[0].terms.weight = one.whole;
    for (unsigned i = 1; i <= one.parts; ++i) programs[i].terms.weight = one.divided / one.parts;
    for (Program& program : programs) program.kernel_ns = 500 * kUs;
    Simulator simulator(make_policy(GetParam(), options()), programs, whim(2), 1);
    simulator.run(8000 * kMs);
    double parts = 0;
    for (unsigned i = 1; i <= one.parts; ++i) parts += static_cast<double>(simulator.outcome(i).consumed_ns);
    const double got = static_cast<double>(simulator.outcome(0).consumed_ns) / parts;
    EXPECT_NEAR(got / (one.whole / one.divided), 1.0, 0.04) << got;
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, SharingPolicy,
                         testing::Values(PolicyKind::fair, PolicyKind::time_slice, PolicyKind::turns),
                         [](const auto& instance) { return std::string(to_string(instance.param)); });

TEST(Deadlines, EqualDeadlinesShareByWeight) {
  std::vector<Program> programs(2);
  programs[0].terms.weight = 300;
  Simulator simulator(make_policy(PolicyKind::deadline, options()), programs, whim(0), 1);
  simulator.run(4000 * kMs);
  EXPECT_NEAR(static_cast<double>(simulator.outcome(0).consumed_ns) /
                  static_cast<double>(simulator.outcome(1).consumed_ns),
              3.0, 0.06);
}

// Jobs that together fit the device end by their deadlines (plus one kernel of another's, which cannot be
// interrupted, and what is in flight).
TEST(Deadlines, AreKeptWhereTheLoadFits) {
  for (unsigned seed = 0; seed < kPatterns; ++seed) {
    std::mt19937 random(seed);
    std::vector<Program> programs(2 + random() % 3);
    for (Program& program : programs) {
      program.kernel_ns = (100 + random() % 200) * kUs;
      program.burst = 1 + static_cast<unsigned>(random() % 8);  // at most 2.4 ms: within a quantum
      program.terms.deadline_ns = programs.size() * (5 + random() % 20) * kMs;
      program.pause_ns = program.terms.deadline_ns + random() % 20 * kMs;
    }
    Simulator simulator(make_policy(PolicyKind::deadline, options()), programs, whim(seed), seed);
    simulator.run(500 * kMs);
    for (std::size_t i = 0; i < programs.size(); ++i) {
      const auto& jobs = simulator.outcome(i).job_ns;
      ASSERT_FALSE(jobs.empty()) << "pattern " << seed;
      ASSERT_LE(*std::max_element(jobs.begin(), jobs.end()), programs[i].terms.deadline_ns + 2 * kMs)
          << "pattern " << seed << " client " << i;
    }
  }
}

TEST(Deadlines, NearestGoesFirst) {
  const auto policy = make_policy(PolicyKind::deadline, options());
  Terms soon;
  soon.deadline_ns = 10 * kMs;
  policy->add(1, {}, 0);
  policy->add(2, soon, 0);
  policy->update(0, std::vector<Usage>{{1, 0, true, true}, {2, 0, false, false}});
  const auto grants = policy->update(kMs, std::vector<Usage>{{1, kMs, true, true}, {2, 0, true, false}});
  EXPECT_EQ(grants[0].more_ns, 0U);
  EXPECT_GT(grants[1].more_ns, 0U);
}

TEST(FirstComeFirstServed, JobsEndInTheOrderOfTheirArrival) {
  std::vector<Program> programs(4);
  for (std::size_t i = 0; i < programs.size(); ++i) {
    programs[i].from_ns = (4 - i) * kMs;
    programs[i].burst = 20;
    programs[i].until_ns = 10 * kMs;  // one job each
  }
  PolicyOptions patient = options();
  patient.aging = std::chrono::seconds(1);
  Simulator simulator(make_policy(PolicyKind::fifo, patient), programs, whim(0), 1);
  simulator.run(100 * kMs);
  for (std::size_t i = 0; i < programs.size(); ++i) {
    ASSERT_EQ(simulator.outcome(i).jobs, 1U);
    // Client 3 came first; its 20 ms pass before client 2's, and so on.
    EXPECT_NEAR(static_cast<double>(simulator.outcome(i).job_ns[0]),
                static_cast<double>((4 - i) * 20 * kMs - (3 - i) * kMs), 1.0 * kMs);
  }
}

TEST(FirstComeFirstServed, EndlessJobLetsOthersInWhenTheirPatienceEnds) {
  std::vector<Program> programs(2);
  programs[0].burst = 100'000;
  Simulator simulator(make_policy(PolicyKind::fifo, options()), programs, whim(0), 1);
  simulator.run(1000 * kMs);
  EXPECT_GT(simulator.outcome(1).jobs, 5U);
  EXPECT_LE(simulator.outcome(1).longest_wait_ns, 105 * kMs);
}

TEST(TimeSlice, KernelsOfTwoClientsAreNeverOnTheDeviceAtOnce) {
  for (unsigned seed = 0; seed < kPatterns; ++seed) {
    Simulator simulator(make_policy(PolicyKind::time_slice, options()), random_programs(seed, false),
                        whim(seed), seed);
    simulator.run(100 * kMs);
    ASSERT_FALSE(simulator.overlapped()) << "pattern " << seed;
  }
}

// Somebody who works a little now and then does not wait for the end of a busy client's turn.
TEST(Turns, WhoComesWithLittleWorkCutsATurnShort) {
  std::vector<Program> programs(2);
  programs[0].kernel_ns = 100 * kUs;
  programs[0].pause_ns = 20 * kMs;
  programs[0].pause_spread_ns = 10 * kMs;
  programs[0].from_ns = kMs;
  programs[1].kernel_ns = 100 * kUs;
  programs[1].burst = 1000;
  Simulator simulator(make_policy(PolicyKind::turns, options()), programs, whim(1), 1);
  simulator.run(10'000 * kMs);
  const auto& jobs = simulator.outcome(0).job_ns;
  ASSERT_GT(jobs.size(), 300U);
  // The first comes when the busy one was alone and had sent all it had.
  EXPECT_LE(*std::max_element(jobs.begin() + 1, jobs.end()), 3500 * kUs);
  EXPECT_GT(simulator.outcome(1).consumed_ns, 9700 * kMs);
}

// Work of one that takes for ever, as the broker sees it: the others are let on beside it, and it pays its
// part.
TEST(Turns, AnEndlessKernelHoldsNobodyUp) {
  const auto policy = make_policy(PolicyKind::turns, options());
  for (const ClientId client : {1U, 2U, 3U}) policy->add(client, {}, 0);
  std::uint64_t let_on = 0;
  for (std::uint64_t now = kMs; now <= 1000 * kMs; now += kMs) {
    const auto grants = policy->update(
        now, std::vector<Usage>{{1, 0, true, true, 10'000 * kMs}, {2, 0, true, false}, {3, 0, true, false}});
    if (grants[1].more_ns > 0 || grants[2].more_ns > 0) ++let_on;
  }
  EXPECT_GE(let_on, 900U);
}

// Time by the clock is nobody's while a higher priority has the device.
TEST(Turns, ThoseOfALowerPriorityAreNotChargedWhileTheyWait) {
  std::vector<Program> programs(3);
  programs[0].terms.level = 0;
  programs[0].kernel_ns = kMs;
  programs[0].burst = 30;
  programs[0].pause_ns = 30 * kMs;
  for (std::size_t i : {1U, 2U}) {
    programs[i].terms.level = 2;
    programs[i].kernel_ns = 500 * kUs;
    programs[i].burst = 1000;
  }
  programs[2].terms.weight = 300;
  Simulator simulator(make_policy(PolicyKind::turns, options()), programs, whim(0), 1);
  simulator.run(10'000 * kMs);
  EXPECT_NEAR(static_cast<double>(simulator.outcome(2).consumed_ns) /
                  static_cast<double>(simulator.outcome(1).consumed_ns),
              3.0, 0.1);
}

// A high-priority job waits for what the others have in flight and no longer, whatever they do.
TEST(Priority, ArrivalWaitsForTheWindowOnly) {
  for (const PolicyKind kind : kKinds) {
    for (unsigned seed = 0; seed < kPatterns / 4; ++seed) {
      std::mt19937 random(seed);
      std::vector<Program> programs(2 + random() % 4);
      std::uint64_t longest_kernel = 0;
      for (Program& hog : programs) {
        hog.terms.level = 1 + static_cast<unsigned>(random() % 2);
        hog.kernel_ns = (10 + random() % 3000) * kUs;
        hog.burst = 1000;
        longest_kernel = std::max(longest_kernel, hog.kernel_ns);
      }
      Program& high = programs[0];
      high.terms.level = 0;
      high.kernel_ns = 200 * kUs;
      high.burst = 5;
      high.pause_ns = 5 * kMs;
      high.pause_spread_ns = 5 * kMs;
      PolicyOptions chosen = options();
      chosen.aging = std::chrono::microseconds(0);
      const bool one_hog = programs.size() == 2;
      Simulator simulator(make_policy(kind, chosen), programs, whim(2), seed);
      simulator.run(300 * kMs);
      const auto& jobs = simulator.outcome(0).job_ns;
      ASSERT_GT(jobs.size(), 10U);
      const std::uint64_t alone = 5 * high.kernel_ns;
      // A hog has up to 2 ms in flight (window 1 ms), or one long kernel.
      const std::uint64_t most = std::max(2 * kMs, longest_kernel) * (one_hog ? 1 : programs.size() - 1);
      ASSERT_LE(*std::max_element(jobs.begin(), jobs.end()), alone + most)
          << to_string(kind) << " pattern " << seed;
    }
  }
}

// A high-priority client that is there keeps what the others have in flight at one kernel, or a brief window.
TEST(Priority, PresentClientWaitsForOneKernelOnly) {
  for (const PolicyKind kind : kKinds) {
    std::vector<Program> programs(2);
    Program& high = programs[0];
    high.terms.level = 0;
    high.kernel_ns = 50 * kUs;
    high.burst = 20;
    high.pause_ns = 5 * kMs;
    high.pause_spread_ns = kMs;
    Program& hog = programs[1];
    hog.terms.level = 2;
    hog.kernel_ns = 190 * kUs;
    hog.burst = 1000;
    Simulator simulator(make_policy(kind, options()), programs, whim(1), 1);
    simulator.run(2000 * kMs);
    auto jobs = simulator.outcome(0).job_ns;
    ASSERT_GT(jobs.size(), 200U);
    std::sort(jobs.begin() + 1, jobs.end());  // the first comes before anybody knows of it
    EXPECT_LE(jobs.back(), 20 * high.kernel_ns + hog.kernel_ns) << to_string(kind);
    const double left = static_cast<double>(simulator.now_ns() - simulator.outcome(0).consumed_ns);
    EXPECT_GT(static_cast<double>(simulator.outcome(1).consumed_ns), 0.9 * left) << to_string(kind);
  }
}

TEST(Priority, LowerLevelGetsWhatTheHigherLeaves) {
  std::vector<Program> programs(2);
  programs[0].terms.level = 0;
  programs[0].kernel_ns = 100 * kUs;
  programs[0].burst = 10;
  programs[0].pause_ns = 9 * kMs;
  programs[1].terms.level = 2;
  programs[1].kernel_ns = 50 * kUs;
  programs[1].burst = 100;
  for (const PolicyKind kind : kKinds) {
    Simulator simulator(make_policy(kind, options()), programs, whim(0), 1);
    simulator.run(2000 * kMs);
    const double left = static_cast<double>(simulator.now_ns() - simulator.outcome(0).consumed_ns);
    EXPECT_GT(static_cast<double>(simulator.outcome(1).consumed_ns), 0.95 * left) << to_string(kind);
    EXPECT_GT(simulator.outcome(0).jobs, 190U) << to_string(kind);
  }
}

TEST(Priority, AgingGivesTheStarvedATurnAndNoMore) {
  std::vector<Program> programs(3);
  programs[0].terms.level = 0;
  programs[1].terms.level = 1;
  programs[2].terms.level = 2;
  for (const auto& prefer : {0U, 1U}) {
    Simulator simulator(make_policy(PolicyKind::fair, options()), programs, whim(prefer), 1);
    simulator.run(5000 * kMs);
    for (std::size_t i = 1; i < 3; ++i) {
      // 4 ms in about every 100.
      EXPECT_GT(simulator.outcome(i).consumed_ns, 120 * kMs);
      EXPECT_LT(simulator.outcome(i).consumed_ns, 260 * kMs);
      EXPECT_LE(simulator.outcome(i).longest_wait_ns, 110 * kMs);
    }
  }
}

TEST(Priority, ChangesWhileItRuns) {
  std::vector<Program> programs(2);
  programs[1].terms.level = 2;
  PolicyOptions chosen = options();
  chosen.aging = std::chrono::microseconds(0);
  Simulator simulator(make_policy(PolicyKind::fair, chosen), programs, whim(0), 1);
  simulator.run(100 * kMs);
  EXPECT_EQ(simulator.outcome(1).consumed_ns, 0U);
  Terms raised;
  raised.level = 0;
  simulator.set_terms(1, raised);
  simulator.run(100 * kMs);
  EXPECT_GE(simulator.outcome(1).consumed_ns, 98 * kMs);
}

}  // namespace
}  // namespace vgpu::daemon
