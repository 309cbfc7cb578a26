// How much work may be in flight, how long the rest waits at the gate, and which time counts as the device's.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "daemon/worker/accounting.hpp"
#include "protocol/futex.hpp"

namespace vgpu::worker {
namespace {

struct AdmissionTest : testing::Test {
  static constexpr std::uint64_t us = 1000;
  static constexpr std::uint64_t ms = 1000 * us;

  void SetUp() override { gate = std::move(*GateMapping::create(fd)); }
  GatePage& page() { return gate->page(); }
  static Accounting::Hooks hooks() {
    return {[] {}, [] {}, futex_wait, [] { return false; }, 0, {}};
  }
  static Accounting::Hooks no_wait() {
    return {[] { FAIL(); }, [] { FAIL(); }, futex_wait, [] { return false; }, 0, {}};
  }
  /// Whether a command that should take `ns` would have to wait.
  static bool waits(Accounting& accounting, std::uint64_t ns) {
    bool waited = false;
    accounting.admit(ns, {[] {}, [&] { waited = true; }, futex_wait, [&] { return waited; }, 0, {}});
    return waited;
  }
  UniqueFd fd;
  std::unique_ptr<GateMapping> gate;
};

TEST_F(AdmissionTest, AloneNothingIsHeldBack) {
  Accounting accounting(page(), nullptr, -1);
  for (int i = 0; i < 1000; ++i) accounting.admit(10 * ms, no_wait());
  EXPECT_EQ(page().backlogged.load(), 1u);
  accounting.work_ended();
  EXPECT_EQ(page().backlogged.load(), 0u);
}

TEST_F(AdmissionTest, SaysWhenWorkCameAndWhenItEnded) {
  Accounting accounting(page(), nullptr, -1);
  const std::uint64_t before = now_ns();
  accounting.work_began();
  const std::uint64_t came = page().came_ns.load();
  EXPECT_GE(came, before);
  EXPECT_EQ(page().ended_ns.load(), 0u);
  accounting.work_ended(true);
  const std::uint64_t ended = now_ns();
  EXPECT_EQ(page().ended_ns.load(), 0u) << "there may be more of it";
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  accounting.rest();
  EXPECT_GE(page().ended_ns.load(), came);
  EXPECT_LE(page().ended_ns.load(), ended) << "not when the dispatcher has had enough of waiting";
  EXPECT_EQ(page().came_ns.load(), came);
  accounting.work_began();
  EXPECT_GT(page().came_ns.load(), ended);
}

TEST_F(AdmissionTest, InFlightIsBoundedByPredictedTime) {
  Accounting accounting(page(), nullptr, -1);
  page().window_ns.store(ms);
  std::uint64_t ahead = 0;
  while (!waits(accounting, 300 * us)) {
    accounting.submitted(300 * us);
    ahead += 300 * us;
  }
  EXPECT_GE(ahead, ms);
  EXPECT_LT(ahead, 2 * ms);
  accounting.finished(1, 300 * us);
  EXPECT_FALSE(waits(accounting, 300 * us));
}

TEST_F(AdmissionTest, LongCommandGoesAlone) {
  Accounting accounting(page(), nullptr, -1);
  page().window_ns.store(ms);
  EXPECT_FALSE(waits(accounting, 30 * ms));
  accounting.submitted(30 * ms);
  EXPECT_TRUE(waits(accounting, 40 * us));
  accounting.finished(1, 30 * ms);
  accounting.submitted(200 * us);
  EXPECT_TRUE(waits(accounting, 30 * ms));
}

TEST_F(AdmissionTest, TriflesGoAlongBehindALongCommand) {
  Accounting accounting(page(), nullptr, -1);
  page().window_ns.store(ms);
  accounting.submitted(30 * ms);
  unsigned trifles = 0;
  for (; !waits(accounting, 20 * us); ++trifles) accounting.submitted(20 * us);
  EXPECT_EQ(trifles, 4u);
  // Not against the operator's limit.
  accounting.finished(trifles, trifles * 20 * us);
  page().queue_limit.store(1);
  EXPECT_TRUE(waits(accounting, 20 * us));
  // Nor without time on the device.
  page().queue_limit.store(0);
  page().allowance_ns.store(ms);
  EXPECT_TRUE(waits(accounting, 20 * us));
}

TEST_F(AdmissionTest, TellsUntilWhenItsClockWasRead) {
  Accounting accounting(page(), nullptr, -1);
  EXPECT_EQ(page().measured_ns.load(), 0u);
  const std::uint64_t before = now_ns();
  accounting.work_began();
  EXPECT_GE(page().measured_ns.load(), before);
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
  accounting.measure();
  EXPECT_GE(page().measured_ns.load(), before + 2 * ms);
  EXPECT_GE(page().consumed_ns.load(), 2 * ms);
  accounting.work_ended();
  EXPECT_EQ(page().measured_ns.load(), 0u) << "between two commands nothing is used";
  accounting.measure();
  EXPECT_EQ(page().measured_ns.load(), 0u);
}

TEST_F(AdmissionTest, WhatNobodyKnowsGoesAloneUntilItIsKnown) {
  Accounting accounting(page(), nullptr, -1);
  page().window_ns.store(ms);
  accounting.submitted(us);
  std::uint64_t expected = no_limit_ns;
  const auto waits_for = [&] {
    bool waited = false;
    Accounting::Hooks once = hooks();
    once.before_sleep = [&] { waited = true; };
    once.stopped = [&] { return waited; };
    once.next_ns = [&] { return expected; };
    accounting.admit(us, once);
    return waited;
  };
  EXPECT_TRUE(waits_for());
  expected = 10 * us;
  EXPECT_FALSE(waits_for());
  expected = no_limit_ns;
  accounting.finished(1, us);
  EXPECT_FALSE(waits_for());
}

TEST_F(AdmissionTest, QueueDepthOfTheOperatorHolds) {
  Accounting accounting(page(), nullptr, -1);
  page().queue_limit.store(3);
  unsigned submitted = 0;
  for (; !waits(accounting, us); ++submitted) accounting.submitted(us);
  EXPECT_EQ(submitted, 3u);
}

TEST_F(AdmissionTest, WhatIsInFlightCountsAgainstTheAllowance) {
  Accounting accounting(page(), nullptr, -1);
  page().allowance_ns.store(ms);
  EXPECT_FALSE(waits(accounting, 700 * us));
  accounting.submitted(700 * us);
  EXPECT_FALSE(waits(accounting, 700 * us));
  accounting.submitted(700 * us);
  EXPECT_TRUE(waits(accounting, 10 * us));
}

TEST_F(AdmissionTest, WhatIsInFlightAndDoesNotEndIsNotWaitedForLongerThanPatienceLasts) {
  Accounting accounting(page(), nullptr, -1);
  page().window_ns.store(ms);
  accounting.submitted(2 * ms);
  Accounting::Hooks patient = hooks();
  patient.patience_ns = [] { return 30 * ms; };
  std::uint64_t began = now_ns();
  accounting.admit(100 * us, patient);
  EXPECT_GE(now_ns() - began, 30 * ms);
  // What is not waited for any more leaves room for a window of other work, until it ends.
  EXPECT_FALSE(waits(accounting, 100 * us));
  accounting.submitted(2 * ms);
  EXPECT_TRUE(waits(accounting, 100 * us));
  accounting.finished(1, 2 * ms);
  EXPECT_FALSE(waits(accounting, 100 * us));
  accounting.finished(1, 2 * ms);
  accounting.submitted(2 * ms);
  EXPECT_TRUE(waits(accounting, 100 * us));
  // To be without time is another matter.
  page().allowance_ns.store(0);
  std::atomic<bool> stopped{false};
  patient.stopped = [&] { return stopped.load(); };
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(80));
    stopped = true;
  });
  began = now_ns();
  accounting.admit(100 * us, patient);
  EXPECT_GE(now_ns() - began, 80 * ms);
  other.join();
}

TEST_F(AdmissionTest, PatienceGrowsWithWhatTheWorkIsExpectedToTake) {
  Accounting accounting(page(), nullptr, -1);
  page().window_ns.store(ms);
  accounting.submitted(20 * ms);
  Accounting::Hooks patient = hooks();
  patient.patience_ns = [] { return 10 * ms; };
  const std::uint64_t began = now_ns();
  accounting.admit(100 * us, patient);
  EXPECT_GE(now_ns() - began, 90 * ms);
}

TEST_F(AdmissionTest, PatienceIsShortAsLongAsTheSameStands) {
  Accounting accounting(page(), nullptr, -1);
  page().queue_limit.store(1);
  Accounting::Hooks patient = hooks();
  patient.patience_ns = [] { return 200 * ms; };
  accounting.submitted(us);
  const std::uint64_t began = now_ns();
  for (int i = 0; i < 10; ++i) {
    accounting.admit(us, patient);
    accounting.submitted(us);
  }
  EXPECT_GE(now_ns() - began, 200 * ms);
  EXPECT_LE(now_ns() - began, 1000 * ms);
}

TEST_F(AdmissionTest, WaitsUntilWorkHasFinishedAndSaysForHowLong) {
  Accounting accounting(page(), nullptr, -1);
  page().window_ns.store(ms);
  accounting.submitted(2 * ms);
  std::thread device([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    accounting.finished(1, 2 * ms);
  });
  accounting.admit(100 * us, hooks());
  device.join();
  EXPECT_EQ(page().in_flight.load(), 0u);
  EXPECT_GE(page().gate_wait_ns.load(), 4 * ms);
}

TEST_F(AdmissionTest, AtMostAWindowfulIsInFlight) {
  Accounting accounting(page(), nullptr, -1);
  page().allowance_ns.store(no_limit_ns - 1);
  std::atomic<std::uint32_t> flying{0};
  std::atomic<bool> stop{false};
  std::thread device([&] {
    while (!stop.load() || flying.load() != 0) {
      if (flying.load() == 0) {
        std::this_thread::yield();
        continue;
      }
      flying.fetch_sub(1);
      accounting.finished(1, us);
    }
  });
  for (int i = 0; i < 500; ++i) {
    accounting.admit(us, hooks());
    accounting.submitted(us);
    EXPECT_LE(flying.fetch_add(1) + 1, gate_window);
  }
  stop = true;
  device.join();
  EXPECT_EQ(page().in_flight.load(), 0u);
}

TEST_F(AdmissionTest, TimeAtTheGateIsNotDeviceTime) {
  Accounting accounting(page(), nullptr, -1);
  page().allowance_ns.store(0);
  EXPECT_TRUE(waits(accounting, us));
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  accounting.measure();
  EXPECT_EQ(page().consumed_ns.load(), 0u);
}

TEST_F(AdmissionTest, ClockedTimeIsNoLongerThanWhatTheCommandsTake) {
  Accounting accounting(page(), nullptr, -1);
  accounting.work_began();
  accounting.expect(50 * ms, true);
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  accounting.work_ended();
  EXPECT_EQ(page().consumed_ns.load(), 50 * ms);
  accounting.work_began();
  accounting.expect(0, false);  // nobody knows
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  accounting.work_ended();
  EXPECT_GE(page().consumed_ns.load(), 55 * ms);
  accounting.work_began();
  accounting.expect(us, true);  // but it takes long
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  accounting.work_ended();
  EXPECT_GE(page().consumed_ns.load(), 75 * ms);
}

TEST_F(AdmissionTest, PausesBetweenShortCommandsAreNotCounted) {
  Accounting accounting(page(), nullptr, -1);
  accounting.work_began();
  // Nobody waits, so that no end is seen; but each time the stream is found to have been at its end.
  std::uint64_t overslept = 0;  // such a pause is taken for a command that has become longer
  for (int i = 0; i < 20; ++i) {
    accounting.expect(100 * us, true);
    const std::uint64_t began = now_ns();
    std::this_thread::sleep_for(std::chrono::microseconds(300));
    accounting.begin_anew();
    if (const std::uint64_t took = now_ns() - began; took > ms) overslept += took;
  }
  accounting.measure();
  EXPECT_GE(page().consumed_ns.load(), 2 * ms - 100 * us);
  EXPECT_LE(page().consumed_ns.load(), 2 * ms + 200 * us + overslept);
  EXPECT_EQ(page().backlogged.load(), 1u);
  accounting.work_ended();
}

TEST_F(AdmissionTest, WatchdogAlsoBoundsWhatIsInFlight) {
  Accounting accounting(page(), nullptr, -1);
  page().watchdog_ns.store(40 * ms);
  EXPECT_TRUE(accounting.bounded());
  EXPECT_EQ(accounting.window_ns(), 10 * ms);
}

}  // namespace
}  // namespace vgpu::worker
