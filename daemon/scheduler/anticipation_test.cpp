// A device that is kept free for clients that come regularly: what they gain and what it costs the others, on
// simulated devices.
#include "daemon/scheduler/anticipation.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "daemon/scheduler/policies.hpp"
#include "daemon/scheduler/simulator.hpp"

namespace vgpu::daemon::anticipation {
namespace {

using simulation::kMs;
using simulation::kUs;
using simulation::Machine;
using simulation::Program;
using simulation::Simulator;
using simulation::whim;

// A sanitizer looks at the code, for which less time will do.
#ifdef VGPU_SANITIZED
constexpr unsigned kPatterns = 10;
constexpr std::uint64_t kLength = 3000 * kMs;
constexpr std::uint64_t kMostTailUs = 45;  // beyond it a hundredth of so few steps is chance
#else
constexpr unsigned kPatterns = 300;
constexpr std::uint64_t kLength = 20'000 * kMs;
constexpr std::uint64_t kMostTailUs = 60;
#endif
constexpr std::uint64_t kStep = 20 * 55 * kUs;

// Inference: steps of short kernels, a pause after each.
Program steps() {
  Program program;
  program.terms.level = 0;
  program.kernel_ns = 55 * kUs;
  program.burst = 20;
  program.pause_ns = 5 * kMs;
  program.pause_tail_ns = 45 * kUs;
  return program;
}

Program hog() {
  Program program;
  program.terms.level = 2;
  program.kernel_ns = 140 * kUs;
  program.kernel_spread_ns = 40 * kUs;
  program.burst = 1000;
  return program;
}

struct Result {
  double p50, p99, mean;  // of a step, by its length alone
  double kept;            // the hogs' part of what is left
  std::uint64_t longest_stall_ns;
  double stalled;  // part of the time
};

Result run(PolicyKind kind, bool anticipate, const std::vector<Program>& programs, const Machine& machine,
           std::uint64_t length = kLength) {
  PolicyOptions options;
  options.anticipate = anticipate;
  Simulator simulator(make_policy(kind, options), programs, whim(0), 1);
  simulator.use(machine);
  simulator.run(length);
  auto jobs = simulator.outcome(0).job_ns;
  jobs.erase(jobs.begin(), jobs.begin() + SpanRange::kMost);  // until it is known
  std::sort(jobs.begin(), jobs.end());
  const auto at = [&](double part) {
    return static_cast<double>(jobs[static_cast<std::size_t>(part * static_cast<double>(jobs.size() - 1))]) /
           kStep;
  };
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  for (std::size_t i = 0; i < programs.size(); ++i) {
    (programs[i].terms.level == 0 ? high : low) += simulator.outcome(i).consumed_ns;
  }
  double sum = 0;
  for (const std::uint64_t job : jobs) sum += static_cast<double>(job);
  const auto now = static_cast<double>(simulator.now_ns());
  return {at(0.5),
          at(0.99),
          sum / static_cast<double>(jobs.size()) / kStep,
          static_cast<double>(low) / (now - static_cast<double>(high)),
          simulator.longest_stall_ns(),
          static_cast<double>(simulator.stalled_ns()) / now};
}

std::string text(const Result& result) {
  return "p50 " + std::to_string(result.p50) + " p99 " + std::to_string(result.p99) + " mean " +
         std::to_string(result.mean) + " kept " + std::to_string(result.kept) + " longest stall " +
         std::to_string(result.longest_stall_ns / 1000) + " us, stalled " + std::to_string(result.stalled);
}

const Machine kMps{0, 20 * kUs};
const Machine kIsolated{50 * kUs, 20 * kUs};  // the GPU changes contexts

class Anticipating : public testing::TestWithParam<PolicyKind> {};

TEST_P(Anticipating, RegularStepsBesideAHogTakeHardlyLongerThanAlone) {
  for (const Machine& machine : {kMps, kIsolated}) {
    for (std::uint64_t tail = 0; tail <= kMostTailUs; tail += 15) {
      std::vector<Program> programs{steps(), hog()};
      programs[0].pause_tail_ns = tail * kUs;
      const Result without = run(GetParam(), false, programs, machine);
      const Result with = run(GetParam(), true, programs, machine);
      SCOPED_TRACE("tail " + std::to_string(tail) + "\nwithout " + text(without) + "\nwith " + text(with));
      EXPECT_GT(without.p99, 1.10);
      EXPECT_LE(with.p99, 1.10);
      EXPECT_LE(with.mean, without.mean - 0.05);
      EXPECT_GE(with.kept, 0.85);
      EXPECT_LE(with.longest_stall_ns, 400 * kUs + 2 * machine.reaction_ns);
    }
  }
}

TEST_P(Anticipating, NothingChangesForRandomArrivals) {
  for (const std::uint64_t mean : {500U, 2000U, 5000U, 20'000U}) {
    std::vector<Program> programs{steps(), hog()};
    programs[0].pause_ns = 0;
    programs[0].pause_tail_ns = mean * kUs;
    const Result without = run(GetParam(), false, programs, kMps);
    const Result with = run(GetParam(), true, programs, kMps);
    EXPECT_EQ(text(without), text(with)) << mean;
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, Anticipating, testing::Values(PolicyKind::fair, PolicyKind::turns),
                         [](const auto& instance) { return std::string(to_string(instance.param)); });

// Whatever the steps, the pauses and the kernels of the others are like.
TEST(Anticipation, CostsABoundedPartOfWhatIsLeft) {
  double mean_without = 0;
  double mean_with = 0;
  for (unsigned seed = 0; seed < kPatterns; ++seed) {
    std::mt19937 random(seed);
    std::vector<Program> programs{steps(), hog()};
    programs[0].burst = 1 + static_cast<unsigned>(random() % 40);
    programs[0].pause_ns = (400 + random() % 6000) * kUs;
    programs[0].pause_tail_ns = random() % 120 * kUs;
    programs[1].kernel_ns = (20 + random() % 500) * kUs;
    if (seed % 2 == 0) {
      programs.push_back(hog());
      programs[2].terms.level = 1;
      programs[2].burst = 5;
      programs[2].pause_ns = random() % 8000 * kUs;
    }
    const PolicyKind kind = seed % 3 == 0 ? PolicyKind::turns : PolicyKind::fair;
    const Result without = run(kind, false, programs, kMps, 1000 * kMs);
    const Result with = run(kind, true, programs, kMps, 1000 * kMs);
    SCOPED_TRACE("pattern " + std::to_string(seed) + "\nwithout " + text(without) + "\nwith " + text(with));
    ASSERT_LE(with.longest_stall_ns, without.longest_stall_ns + 3 * kMps.reaction_ns);
    ASSERT_LE(with.stalled, without.stalled + 0.10);
    ASSERT_GE(with.kept, without.kept - 0.12);
    ASSERT_LE(with.mean, without.mean + 0.05);
    mean_without += without.mean;
    mean_with += with.mean;
  }
  EXPECT_LT(mean_with, 0.98 * mean_without);
}

TEST(Anticipation, SeveralRegularClientsAreEachExpected) {
  std::vector<Program> programs{steps(), steps(), hog()};
  programs[0].burst = 10;
  programs[1].burst = 6;
  programs[1].pause_ns = 7300 * kUs;
  const Result without = run(PolicyKind::fair, false, programs, kMps);
  const Result with = run(PolicyKind::fair, true, programs, kMps);
  SCOPED_TRACE("without " + text(without) + "\nwith " + text(with));
  EXPECT_LE(with.mean, without.mean - 0.02);
  EXPECT_GE(with.kept, 0.8);
}

// Not by looks at the pages either.
TEST(Anticipation, CostsNothingWhereAllAreOfOneLevel) {
  for (const unsigned other : {0U, 2U}) {
    Anticipation anticipation({});
    anticipation.add(1, 0);
    anticipation.add(2, other);
    std::uint64_t now = kMs;
    std::uint64_t ended = 0;
    for (int i = 0; i < 40; ++i) {
      const std::uint64_t came = now;
      for (const bool working : {true, false}) {
        Usage usage{1, now, working, working};
        usage.came_ns = came;
        usage.ended_ns = ended;
        anticipation.note(usage, now);
        EXPECT_EQ(anticipation.top_level(now, working ? 0 : kLevels), working ? 0 : kLevels);
        now += working ? kMs : 5 * kMs;
        if (working) ended = now;
      }
    }
    EXPECT_EQ(anticipation.look_again_ns() == kUnlimited, other == 0);
  }
}

TEST(Anticipation, WhoStopsComingIsNotWaitedForAgain) {
  std::vector<Program> programs{steps(), hog()};
  programs[0].until_ns = 1000 * kMs;
  Simulator simulator(make_policy(PolicyKind::fair, {}), programs, whim(0), 1);
  simulator.use(kMps);
  simulator.run(1100 * kMs);
  const std::uint64_t before = simulator.outcome(1).consumed_ns;
  const std::uint64_t from = simulator.now_ns();
  simulator.run(2000 * kMs);
  EXPECT_GE(simulator.outcome(1).consumed_ns - before + kMs, simulator.now_ns() - from);
}

TEST(Anticipation, AgedTurnsAreHadAsWithoutIt) {
  std::vector<Program> programs{steps(), hog(), hog()};
  programs[1].terms.level = 1;
  PolicyOptions options;
  options.aging = std::chrono::milliseconds(100);
  std::uint64_t consumed[2];
  for (const bool anticipate : {false, true}) {
    options.anticipate = anticipate;
    Simulator simulator(make_policy(PolicyKind::fair, options), programs, whim(0), 1);
    simulator.use(kMps);
    simulator.run(5000 * kMs);
    EXPECT_LE(simulator.outcome(2).longest_wait_ns, 110 * kMs);
    consumed[anticipate ? 1 : 0] = simulator.outcome(2).consumed_ns;
  }
  EXPECT_NEAR(static_cast<double>(consumed[1]), static_cast<double>(consumed[0]),
              0.05 * static_cast<double>(consumed[0]));
}

}  // namespace
}  // namespace vgpu::daemon::anticipation
