// Fair queueing, one decision at a time. What it promises over many is in simulation_test.cpp.
#include "daemon/scheduler/fair_queue.hpp"

#include <gtest/gtest.h>

#include "daemon/scheduler/simulator.hpp"

namespace vgpu::daemon {
namespace {

using namespace simulation;

constexpr std::uint64_t kQuantum = 4 * kMs;
constexpr std::uint64_t kIdleAfter = 20 * kMs;

Terms weight(double value) {
  Terms terms;
  terms.weight = value;
  return terms;
}

std::size_t first(const std::vector<std::size_t>& ready) {
  return ready.front();
}

double used_ms(const Simulator& simulator, std::size_t i) {
  return static_cast<double>(simulator.outcome(i).consumed_ns) / kMs;
}

TEST(FairQueue, LoneBusyClientIsNotLimited) {
  FairQueue queue(kQuantum, kIdleAfter);
  queue.add(1, {}, 0);
  queue.add(2, {}, 0);
  const std::vector<Usage> usage{{1, 5 * kMs, true, true}, {2, 0, false, false}};
  const auto grants = queue.update(0, usage);
  EXPECT_EQ(grants[0].more_ns, kUnlimited);
  EXPECT_FALSE(grants[0].bounded);
  EXPECT_EQ(queue.active(), 1U);
}

TEST(FairQueue, WhoWasHereJustNowFindsLittleOfTheOthersInFlight) {
  FairQueue queue(kQuantum, kIdleAfter);
  queue.add(1, {}, 0);
  queue.add(2, {}, 0);
  queue.update(1, std::vector<Usage>{{1, 0, true, true}, {2, 0, true, true}});
  const std::uint64_t alone = 1 + kIdleAfter + kMs;
  const std::vector<Usage> usage{{1, 5 * kMs, true, true}, {2, 0, false, false}};
  const Grant soon = queue.update(alone, usage)[0];
  EXPECT_EQ(soon.more_ns, kUnlimited);
  EXPECT_TRUE(soon.bounded);
  EXPECT_FALSE(queue.update(1 + kPresenceNs, usage)[0].bounded);
}

TEST(FairQueue, IdleClientMayStartAtOnceBesideABusyOne) {
  FairQueue queue(kQuantum, kIdleAfter);
  queue.add(1, {}, 0);
  queue.add(2, {}, 0);
  EXPECT_EQ(queue.update(0, std::vector<Usage>{{1, 500 * kMs, true, true}, {2, 0, false, false}})[1].more_ns,
            kQuantum);
}

TEST(FairQueue, WhatWasUsedBeforeIsNotCharged) {
  FairQueue queue(kQuantum, kIdleAfter);
  queue.add(1, {}, 900 * kMs);
  queue.add(2, {}, 0);
  const auto grants = queue.update(0, std::vector<Usage>{{1, 900 * kMs, true, true}, {2, 0, true, true}});
  EXPECT_EQ(grants[0].more_ns, kQuantum);
  EXPECT_EQ(grants[1].more_ns, kQuantum);
}

TEST(FairQueue, ChangedWeightHoldsFromThenOn) {
  FairQueue queue(kQuantum, kIdleAfter);
  queue.add(1, {}, 0);
  queue.add(2, {}, 0);
  queue.set_terms(1, weight(300));
  const auto grants = queue.update(0, std::vector<Usage>{{1, 0, true, true}, {2, 0, true, true}});
  EXPECT_EQ(grants[0].more_ns, 3 * kQuantum);
  EXPECT_EQ(grants[1].more_ns, kQuantum);
}

TEST(FairQueue, WhoMayRunMayUseSomethingHoweverLittleHisWeight) {
  FairQueue queue(kQuantum, kIdleAfter);
  queue.add(1, weight(0.01003), 0);
  queue.add(2, {}, 0);
  // Of 401.2 ns that are its lead, the first has had all but a part of one.
  const auto grants = queue.update(0, std::vector<Usage>{{1, 401, true, true}, {2, 0, true, true}});
  EXPECT_EQ(grants[0].more_ns, 1U);
  EXPECT_EQ(grants[1].more_ns, kQuantum);
}

TEST(FairQueue, IdlenessIsNotSavedUp) {
  std::vector<Program> programs(2);
  programs[1].from_ns = 1000 * kMs;
  Simulator simulator(std::make_unique<FairQueue>(kQuantum, kIdleAfter), programs, first, 1);
  simulator.run(1000 * kMs);
  const double before = used_ms(simulator, 0);
  simulator.run(200 * kMs);
  EXPECT_NEAR(used_ms(simulator, 0) - before, 100, 6);
}

TEST(FairQueue, ShortPausesKeepAClientsShare) {
  std::vector<Program> programs(2);  // the second wants half of the device: 1 ms of work, 1 ms of thought
  programs[0].kernel_ns = 200 * kUs;
  programs[1].pause_ns = 1 * kMs;
  Simulator simulator(std::make_unique<FairQueue>(kQuantum, kIdleAfter), programs, first, 1);
  simulator.run(4000 * kMs);
  EXPECT_GT(used_ms(simulator, 1), 1500);
}

}  // namespace
}  // namespace vgpu::daemon
