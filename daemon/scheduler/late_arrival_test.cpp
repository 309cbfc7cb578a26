// What clients find who come late, or come back, when another has been alone for long: nobody owes them that
// time, and they have saved up none.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "daemon/scheduler/policies.hpp"
#include "daemon/scheduler/simulator.hpp"

namespace vgpu::daemon::late_arrival {
namespace {

using simulation::kMs;
using simulation::kUs;
using simulation::Program;
using simulation::Simulator;
using simulation::whim;

#ifdef VGPU_SANITIZED
constexpr unsigned kPatterns = 20;
#else
constexpr unsigned kPatterns = 300;
#endif
constexpr std::uint64_t kLongest = 3000 * kMs;  // that a client is alone

PolicyOptions options() {
  PolicyOptions made;
  made.aging = std::chrono::milliseconds(100);
  made.linger = std::chrono::microseconds(100);
  made.slice = made.turn = made.quantum = std::chrono::milliseconds(2);
  made.lead = std::chrono::microseconds(50);
  return made;
}

// One client is alone for seconds, with pauses or without. The others come then, each at its time, and some
// of them were there at the beginning.
std::vector<Program> late_programs(std::mt19937& random, bool equal_deadlines) {
  std::vector<Program> programs(2 + random() % 4);
  const std::size_t lone = random() % programs.size();
  const std::uint64_t until = kLongest / 3 + random() % (kLongest / 2000) * 1000;
  for (std::size_t i = 0; i < programs.size(); ++i) {
    Program& program = programs[i];
    program.terms.weight = 100 * (1 + static_cast<std::uint32_t>(random() % 4));
    if (!equal_deadlines) program.terms.deadline_ns = (5 + random() % 100) * kMs;
    program.kernel_ns = (100 + random() % 1500) * kUs;
    program.kernel_spread_ns = random() % 500 * kUs;
    program.burst = 1 + static_cast<unsigned>(random() % 10);
    if (i == lone) continue;
    const std::uint64_t comes = until + random() % 100 * kMs;
    if (random() % 2 == 0) {
      program.from_ns = comes;
    } else {
      program.away_from_ns = (1 + random() % 50) * kMs;
      program.away_until_ns = comes;
    }
  }
  return programs;
}

// The patterns have whole weights.
std::uint64_t weight_of(const Program& program) {
  return static_cast<std::uint64_t>(program.terms.weight);
}

// For how long client `i` may have to wait for a kernel of its to begin.
std::uint64_t longest_wait(PolicyKind kind, const std::vector<Program>& programs, std::size_t i) {
  const auto ns = [](std::chrono::nanoseconds time) { return static_cast<std::uint64_t>(time.count()); };
  const auto kernel = [](const Program& program) { return program.kernel_ns + program.kernel_spread_ns; };
  const Program& self = programs[i];
  std::uint64_t farthest = 0;
  for (const Program& program : programs) farthest = std::max(farthest, program.terms.deadline_ns);
  std::uint64_t bound = kind == PolicyKind::fifo ? ns(options().aging) * programs.size() : 0;
  for (std::size_t j = 0; j < programs.size(); ++j) {
    const Program& other = programs[j];
    if (i == j) continue;
    // Turns in advance that a far deadline lets those with near ones have, which whoever comes has too; or
    // what the other lags behind.
    const std::uint64_t turns = kind == PolicyKind::deadline ? farthest / other.terms.deadline_ns + 2 : 6;
    bound += turns * ns(options().quantum) * weight_of(other) / 100 + kernel(other) + ns(options().linger);
    // Who was alone when it submitted a job, which nothing can take back, has it done first and owes it then.
    bound += 2 * other.burst * kernel(other);
    double owed = static_cast<double>(2 * self.burst * kernel(self) * weight_of(other)) / self.terms.weight;
    if (kind == PolicyKind::deadline) {
      owed *= static_cast<double>(self.terms.deadline_ns) / static_cast<double>(other.terms.deadline_ns);
    }
    bound += static_cast<std::uint64_t>(owed);
  }
  return bound;
}

class LateArrival : public testing::TestWithParam<PolicyKind> {};

TEST_P(LateArrival, StarvesNobodyAndIsNotStarved) {
  for (unsigned seed = 0; seed < kPatterns; ++seed) {
    std::mt19937 random(seed);
    std::vector<Program> programs = late_programs(random, false);
    for (Program& program : programs) {
      program.pause_ns = random() % 2 == 0 ? 0 : random() % 5000 * kUs;
      program.pause_spread_ns = random() % 3 == 0 ? random() % 20'000 * kUs : 0;
    }
    Simulator simulator(make_policy(GetParam(), options()), programs, whim(seed), seed);
    simulator.run(kLongest);
    for (std::size_t i = 0; i < programs.size(); ++i) {
      const std::uint64_t longest = std::max(simulator.outcome(i).longest_wait_ns, simulator.waits_ns(i));
      ASSERT_LE(longest, longest_wait(GetParam(), programs, i)) << "pattern " << seed << " client " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, LateArrival,
                         testing::Values(PolicyKind::fair, PolicyKind::fifo, PolicyKind::deadline,
                                         PolicyKind::time_slice, PolicyKind::turns),
                         [](const auto& instance) { return std::string(to_string(instance.param)); });

class LateShares : public testing::TestWithParam<PolicyKind> {};

// From soon after the last has come. A lead from before would show for as long as it took to build up.
TEST_P(LateShares, AreByWeightWithinThreePercent) {
  for (unsigned seed = 0; seed < kPatterns; ++seed) {
    std::mt19937 random(seed);
    const std::vector<Program> programs = late_programs(random, true);
    std::uint64_t begin = 0;
    std::uint64_t weights = 0;
    for (const Program& program : programs) {
      begin = std::max({begin, program.from_ns, program.away_until_ns});
      weights += weight_of(program);
    }
    Simulator simulator(make_policy(GetParam(), options()), programs, whim(seed), seed);
    // Until what the lone one had sent before the others came has been done and made up for.
    simulator.run(begin + 500 * kMs);
    std::vector<std::uint64_t> before;
    for (std::size_t i = 0; i < programs.size(); ++i) before.push_back(simulator.outcome(i).consumed_ns);
    const std::uint64_t from = simulator.now_ns();
    simulator.run(2000 * kMs);
    for (std::size_t i = 0; i < programs.size(); ++i) {
      const double wanted = static_cast<double>(programs[i].terms.weight) / static_cast<double>(weights);
      const double got = static_cast<double>(simulator.outcome(i).consumed_ns - before[i]) /
                         static_cast<double>(simulator.now_ns() - from);
      ASSERT_NEAR(got / wanted, 1.0, 0.03)
          << "pattern " << seed << " client " << i << " of " << programs.size();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, LateShares,
                         testing::Values(PolicyKind::fair, PolicyKind::deadline, PolicyKind::time_slice,
                                         PolicyKind::turns),
                         [](const auto& instance) { return std::string(to_string(instance.param)); });

// Twenty seconds alone are no debt: an equal newcomer gets half, and so does the one that was alone.
TEST(Deadlines, TimeThatNobodyElseWantedIsFree) {
  std::vector<Program> programs(2);
  programs[1].from_ns = 20'000 * kMs;
  Simulator simulator(make_policy(PolicyKind::deadline, options()), programs, whim(0), 1);
  simulator.run(20'000 * kMs);
  const std::uint64_t alone = simulator.outcome(0).consumed_ns;
  simulator.run(1000 * kMs);
  EXPECT_NEAR(static_cast<double>(simulator.outcome(0).consumed_ns - alone) / 1e6, 500, 10);
  EXPECT_LE(simulator.outcome(0).longest_wait_ns, 5 * kMs);
}

// Kernels of twenty quanta take a turn each; those with short ones have as much between them, whoever comes
// and goes meanwhile.
TEST(Deadlines, TimeTakenFromOthersIsOwed) {
  std::vector<Program> programs(3);
  programs[0].kernel_ns = 40 * kMs;
  programs[1].kernel_ns = kMs;
  programs[2].kernel_ns = 100 * kUs;
  programs[2].pause_ns = 30 * kMs;
  Simulator simulator(make_policy(PolicyKind::deadline, options()), programs, whim(0), 1);
  simulator.run(10'000 * kMs);
  EXPECT_NEAR(static_cast<double>(simulator.outcome(0).consumed_ns) /
                  static_cast<double>(simulator.outcome(1).consumed_ns),
              1.0, 0.03);
}

// Endless work beside them does not make those late whose work fits.
TEST(Deadlines, AreKeptBesideEndlessWork) {
  std::vector<Program> programs(3);
  programs[0].kernel_ns = 300 * kUs;
  programs[0].burst = 1000;
  for (std::size_t i : {1U, 2U}) {
    programs[i].terms.deadline_ns = (5 + i) * kMs;
    programs[i].kernel_ns = 200 * kUs;
    programs[i].burst = 5;
    programs[i].pause_ns = 10 * kMs;
    programs[i].pause_spread_ns = 10 * kMs;
    programs[i].from_ns = 1000 * kMs;
  }
  Simulator simulator(make_policy(PolicyKind::deadline, options()), programs, whim(1), 1);
  simulator.run(5000 * kMs);
  for (std::size_t i : {1U, 2U}) {
    const auto& jobs = simulator.outcome(i).job_ns;
    ASSERT_GT(jobs.size(), 150U);
    // The first comes when all that the other had sent in its loneliness is on the device.
    EXPECT_LE(*std::max_element(jobs.begin() + 40, jobs.end()), programs[i].terms.deadline_ns);
  }
}

}  // namespace
}  // namespace vgpu::daemon::late_arrival
