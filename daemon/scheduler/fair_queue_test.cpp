#include "daemon/scheduler/fair_queue.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <random>

namespace vgpu::daemon {
namespace {

constexpr std::uint64_t kUs = 1000;
constexpr std::uint64_t kMs = 1000 * kUs;
constexpr std::uint64_t kQuantum = 4 * kMs;
constexpr std::uint64_t kIdleAfter = 20 * kMs;

// A client of the simulated device: runs kernels of one length, then pauses.
struct Program {
  std::uint32_t weight = 100;
  std::uint64_t kernel_ns = kMs;
  std::uint64_t pause_ns = 0;
  std::uint64_t from_ns = 0;            // wants nothing earlier
  std::uint64_t until_ns = UINT64_MAX;  // nor later
  // State.
  std::uint64_t consumed_ns = 0;
  std::uint64_t paused_until = 0;
  std::uint64_t allowance_ns = kUnlimited;

  [[nodiscard]] bool wants(std::uint64_t now) const {
    return now >= from_ns && now < until_ns && now >= paused_until;
  }
};

// A device that runs one kernel at a time, chosen by `pick` among the clients that may submit: fair or not.
class Simulation {
 public:
  using Pick = std::function<std::size_t(const std::vector<std::size_t>&)>;

  Simulation(std::vector<Program> programs, Pick pick)
      : programs_(std::move(programs)), pick_(std::move(pick)) {
    for (std::size_t i = 0; i < programs_.size(); ++i) queue_.add(i, programs_[i].weight);
  }

  void run(std::uint64_t duration_ns) {
    const std::uint64_t end = now_ + duration_ns;
    while (now_ < end) {
      schedule();
      std::vector<std::size_t> ready;
      for (std::size_t i = 0; i < programs_.size(); ++i) {
        const Program& program = programs_[i];
        if (program.wants(now_) && program.consumed_ns < program.allowance_ns) ready.push_back(i);
      }
      if (ready.empty()) {
        bool wanted = false;
        for (const Program& program : programs_) wanted = wanted || program.wants(now_);
        if (wanted) stalled_ns_ += 50 * kUs;
        now_ += 50 * kUs;
        continue;
      }
      Program& program = programs_[pick_(ready)];
      now_ += program.kernel_ns;
      program.consumed_ns += program.kernel_ns;
      program.paused_until = now_ + program.pause_ns;
    }
  }

  [[nodiscard]] double used_ms(std::size_t i) const {
    return static_cast<double>(programs_[i].consumed_ns) / kMs;
  }
  [[nodiscard]] std::uint64_t stalled_ns() const { return stalled_ns_; }
  [[nodiscard]] const Program& program(std::size_t i) const { return programs_[i]; }

 private:
  void schedule() {
    std::vector<Usage> usage;
    for (std::size_t i = 0; i < programs_.size(); ++i) {
      usage.push_back({i, programs_[i].consumed_ns, programs_[i].wants(now_)});
    }
    const std::vector<Grant> grants = queue_.update(now_, usage);
    for (std::size_t i = 0; i < programs_.size(); ++i) programs_[i].allowance_ns = grants[i].allowance_ns;
  }

  FairQueue queue_{kQuantum, kIdleAfter};
  std::vector<Program> programs_;
  Pick pick_;
  std::uint64_t now_ = 0;
  std::uint64_t stalled_ns_ = 0;
};

std::size_t first(const std::vector<std::size_t>& ready) {
  return ready.front();
}
std::size_t last(const std::vector<std::size_t>& ready) {
  return ready.back();
}

TEST(FairQueue, EqualWeightsGetEqualTimeWhateverTheDevicePrefers) {
  for (const auto& pick : {first, last}) {
    Simulation simulation({Program{}, Program{}}, pick);
    simulation.run(2000 * kMs);
    EXPECT_NEAR(simulation.used_ms(0) / simulation.used_ms(1), 1.0, 0.02);
  }
}

TEST(FairQueue, LongAndShortKernelsShareTimeNotCounts) {
  Program longs;
  longs.kernel_ns = 3 * kMs;
  Program shorts;
  shorts.kernel_ns = 20 * kUs;
  Simulation simulation({longs, shorts}, first);
  simulation.run(4000 * kMs);
  EXPECT_NEAR(simulation.used_ms(0) / simulation.used_ms(1), 1.0, 0.02);
}

TEST(FairQueue, ThreeToOneWeightsGiveThreeToOne) {
  for (const auto& pick : {first, last}) {
    Program heavy;
    heavy.weight = 300;
    Simulation simulation({heavy, Program{}}, pick);
    simulation.run(4000 * kMs);
    EXPECT_NEAR(simulation.used_ms(0) / simulation.used_ms(1), 3.0, 0.06);
  }
}

TEST(FairQueue, ManyWeightsAtOnce) {
  std::vector<Program> programs(4);
  for (std::size_t i = 0; i < 4; ++i) programs[i].weight = static_cast<std::uint32_t>(100U << i);
  Simulation simulation(programs, first);
  simulation.run(15'000 * kMs);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(simulation.used_ms(i) / 1000, static_cast<double>(1U << i),
                0.05 * static_cast<double>(1U << i));
  }
}

TEST(FairQueue, LoneClientIsNotLimited) {
  FairQueue queue(kQuantum, kIdleAfter);
  queue.add(1, 100);
  queue.add(2, 100);
  const std::vector<Usage> usage{{1, 5 * kMs, true}, {2, 0, false}};
  EXPECT_EQ(queue.update(0, usage)[0].allowance_ns, kUnlimited);
  EXPECT_EQ(queue.active(), 1U);
}

TEST(FairQueue, IdleClientMayStartAtOnceBesideABusyOne) {
  FairQueue queue(kQuantum, kIdleAfter);
  queue.add(1, 100);
  queue.add(2, 100);
  const std::vector<Usage> usage{{1, 500 * kMs, true}, {2, 0, false}};
  EXPECT_EQ(queue.update(0, usage)[1].allowance_ns, kQuantum);
}

TEST(FairQueue, DeviceNeverStandsStillWhileSomebodyWantsIt) {
  Program pausing;
  pausing.kernel_ns = 100 * kUs;
  pausing.pause_ns = 1900 * kUs;
  for (const auto& pick : {first, last}) {
    Simulation simulation({Program{}, pausing, pausing}, pick);
    simulation.run(3000 * kMs);
    EXPECT_EQ(simulation.stalled_ns(), 0U);
  }
}

TEST(FairQueue, WorkIsConservedWhenANeighbourEnds) {
  Program ending;
  ending.until_ns = 100 * kMs;
  Simulation simulation({Program{}, ending}, first);
  simulation.run(1000 * kMs);
  EXPECT_NEAR(simulation.used_ms(0), 950, 10);
  EXPECT_EQ(simulation.stalled_ns(), 0U);
}

TEST(FairQueue, IdlenessIsNotSavedUp) {
  Program late;
  late.from_ns = 1000 * kMs;
  Simulation simulation({Program{}, late}, last);
  simulation.run(1000 * kMs);
  const double before = simulation.used_ms(0);
  simulation.run(200 * kMs);
  EXPECT_NEAR(simulation.used_ms(0) - before, 100, 6);
}

TEST(FairQueue, ShortPausesKeepAClientsShare) {
  Program pausing;  // wants half of the device: 1 ms of work, 1 ms of thought
  pausing.kernel_ns = 1 * kMs;
  pausing.pause_ns = 1 * kMs;
  Program busy;
  busy.kernel_ns = 200 * kUs;
  Simulation simulation({busy, pausing}, first);
  simulation.run(4000 * kMs);
  EXPECT_GT(simulation.used_ms(1), 1500);
}

TEST(FairQueue, CounterThatGoesBackEarnsNothing) {
  FairQueue queue(kQuantum, kIdleAfter);
  queue.add(1, 100);
  queue.add(2, 100);
  queue.update(0, std::vector<Usage>{{1, 50 * kMs, true}, {2, 0, true}});
  const auto grants = queue.update(1, std::vector<Usage>{{1, 0, true}, {2, 0, true}});
  EXPECT_EQ(grants[0].allowance_ns, 50 * kMs);
}

TEST(FairQueue, ChangedWeightHoldsFromThenOn) {
  FairQueue queue(kQuantum, kIdleAfter);
  queue.add(1, 100);
  queue.add(2, 100);
  queue.set_weight(1, 300);
  const auto grants = queue.update(0, std::vector<Usage>{{1, 0, true}, {2, 0, true}});
  EXPECT_EQ(grants[0].allowance_ns, 3 * kQuantum);
  EXPECT_EQ(grants[1].allowance_ns, kQuantum);
}

TEST(FairQueue, RandomArrivalsNeverStallOrStarve) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<Program> programs(2 + random() % 5);
    for (Program& program : programs) {
      program.weight = static_cast<std::uint32_t>(50 + random() % 400);
      program.kernel_ns = (20 + random() % 3000) * kUs;
      program.pause_ns = random() % 2 == 0 ? 0 : random() % 5000 * kUs;
      program.from_ns = random() % 100 * kMs;
    }
    Simulation simulation(
        programs, [&](const std::vector<std::size_t>& ready) { return ready[random() % ready.size()]; });
    simulation.run(500 * kMs);
    EXPECT_EQ(simulation.stalled_ns(), 0U) << "round " << round;
    for (std::size_t i = 0; i < programs.size(); ++i)
      EXPECT_GT(simulation.used_ms(i), 0) << "round " << round;
  }
}

}  // namespace
}  // namespace vgpu::daemon
