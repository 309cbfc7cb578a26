// What the worker does about scheduling, part by part: estimates, rate limits, how much may be in flight.
#include <gtest/gtest.h>

#include <thread>

#include "daemon/worker/accounting.hpp"
#include "daemon/worker/estimates.hpp"
#include "daemon/worker/event_gap.hpp"
#include "daemon/worker/token_bucket.hpp"
#include "protocol/futex.hpp"

namespace vgpu::worker {
namespace {

constexpr std::uint64_t us = 1000;
constexpr std::uint64_t ms = 1000 * us;

TEST(Estimates, FirstCommandsOfAKindAreTimedAndThenOneInMany) {
  Estimates estimates;
  constexpr unsigned rounds = 100;
  unsigned timed = 0;
  for (unsigned i = 0; i < rounds * Estimates::sample_every; ++i) {
    const Prediction next = estimates.predict(7);
    EXPECT_TRUE(next.time_it || i >= Estimates::first_samples);
    if (!next.time_it) continue;
    ++timed;
    estimates.learn(7, 300 * us);
  }
  EXPECT_NEAR(timed, rounds + Estimates::first_samples, rounds / 4);
  const Prediction after = estimates.predict(7);
  EXPECT_TRUE(after.known);
  EXPECT_EQ(after.ns, 300 * us);
}

// A program whose steps are alike, each of so many commands as one of which is timed.
TEST(Estimates, NoKindOfARepeatingProgramIsLeftOut) {
  Estimates estimates;
  std::vector<unsigned> timed(Estimates::sample_every);
  unsigned since = 0;
  for (unsigned step = 0; step < 2000; ++step) {
    for (std::uint64_t kind = 0; kind < timed.size(); ++kind) {
      const bool now = estimates.predict(kind + 1).time_it;
      timed[kind] += now ? 1 : 0;
      since = now ? 0 : since + 1;
      ASSERT_LT(since, 2 * Estimates::sample_every) << "in step " << step;
    }
  }
  for (const unsigned count : timed) EXPECT_NEAR(count, 2000 / Estimates::sample_every, 25);
}

TEST(Estimates, OfAKindThatNobodyKnowsAFewAreTimedAndMoreAwaitThem) {
  Estimates estimates;
  for (unsigned i = 0; i < Estimates::first_samples; ++i) EXPECT_FALSE(estimates.predict(5).awaited);
  EXPECT_TRUE(estimates.predict(5).awaited);
  EXPECT_TRUE(estimates.look(5).awaited);
  estimates.learn(5, 7 * ms);
  EXPECT_FALSE(estimates.look(5).awaited);
  EXPECT_EQ(estimates.look(5).ns, 7 * ms);
  // Where they cannot be timed nothing is to be waited for.
  for (unsigned i = 0; i < Estimates::first_samples; ++i) estimates.predict(6);
  estimates.not_timed(6);
  EXPECT_FALSE(estimates.predict(6).awaited);
}

TEST(Estimates, UnknownKindIsNotPassedOffAsKnown) {
  Estimates estimates;
  EXPECT_FALSE(estimates.predict(1).known);
  EXPECT_EQ(estimates.predict(1).ns, Estimates::unknown_ns);
}

TEST(Estimates, FollowAChangeAndResistAnInterruption) {
  Estimates estimates;
  for (int i = 0; i < 8; ++i) estimates.learn(7, 100 * us);
  EXPECT_EQ(estimates.predict(7).ns, 100 * us);
  estimates.learn(7, 5 * ms);  // another's work came in between
  EXPECT_LT(estimates.predict(7).ns, 500 * us);
  for (int i = 0; i < 40; ++i) estimates.learn(7, 150 * us);
  EXPECT_NEAR(static_cast<double>(estimates.predict(7).ns), 150.0 * us, 5.0 * us);
}

TEST(Estimates, AKindWhoseSamplesAreInexactIsHeldAFewTimesAtOnceAndLaterNowAndThen) {
  Estimates estimates;
  unsigned held = 0;
  unsigned timed = 0;
  for (unsigned i = 0; i < 40 * Estimates::hold_every * Estimates::sample_every; ++i) {
    const Prediction next = estimates.predict(7);
    if (!next.time_it) continue;
    EXPECT_FALSE(next.hold && !next.known);
    estimates.learn(7, next.hold ? 2 * us : 6 * us, next.hold);
    held += next.hold ? 1 : 0;
    if (++timed == Estimates::first_samples) {
      EXPECT_EQ(estimates.look(7).ns, 6 * us);
    }
    if (timed == Estimates::first_samples + 1) {
      EXPECT_TRUE(next.hold);
    }
    if (timed > Estimates::first_samples) {
      EXPECT_EQ(estimates.look(7).ns, 2 * us);
    }
  }
  EXPECT_NEAR(held, timed / Estimates::hold_every, 10);
  // What nothing but a change explains is believed.
  for (int i = 0; i < 80; ++i) estimates.learn(7, 40 * us, false);
  EXPECT_GE(estimates.look(7).ns, 32 * us);
  for (int i = 0; i < 20; ++i) estimates.learn(7, 39 * us);
  EXPECT_NEAR(static_cast<double>(estimates.look(7).ns), 39.0 * us, 0.5 * us);
}

TEST(Estimates, WhereNothingCanBeHeldInexactSamplesCount) {
  Estimates estimates;
  for (unsigned i = 0; i < 1000; ++i) {
    if (estimates.predict(7).time_it) estimates.learn(7, 6 * us, false);
  }
  EXPECT_EQ(estimates.look(7).ns, 6 * us);
  EXPECT_TRUE(estimates.look(7).known);
}

TEST(Estimates, ThousandsOfKindsAreKeptApart) {
  Estimates estimates;
  std::uint64_t key = 1;
  std::vector<std::uint64_t> keys;
  keys.reserve(600);
  for (int i = 0; i < 600; ++i) keys.push_back(key = mix_key(key, 5));
  for (std::size_t i = 0; i < keys.size(); ++i) {
    for (int n = 0; n < 3; ++n) estimates.learn(keys[i], (i + 1) * us);
  }
  std::size_t right = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const Prediction got = estimates.predict(keys[i]);
    if (!got.known) continue;  // pushed out by others
    EXPECT_EQ(got.ns, (i + 1) * us);
    ++right;
  }
  EXPECT_GT(right, 550u);
}

// Figures of an H100: kernels of known length.
TEST(OwnTime, IsWithoutWhatEventsAdd) {
  constexpr std::uint64_t gap = 1890;
  EXPECT_NEAR(static_cast<double>(own_time_ns(8'830, gap, false, 0)), 5'000, 150);
  EXPECT_NEAR(static_cast<double>(own_time_ns(205'790, gap, false, 0)), 202'000, 300);
  EXPECT_NEAR(static_cast<double>(own_time_ns(11'100, gap, true, 3'500)), 5'000, 150);
  EXPECT_NEAR(static_cast<double>(own_time_ns(56'770, gap, true, 3'500)), 50'600, 300);
  EXPECT_GT(own_time_ns(100, gap, true, 3'500), 0u);
  EXPECT_NEAR(static_cast<double>(own_time_ns(970'000, gap, true, 100'000)), 963'000, 1'000) << "a graph";
  // Where events add nothing, nothing is taken off.
  EXPECT_EQ(own_time_ns(5'000, 0, true, 3'500), 5'000u);
}

// A driver whose events are what the test says apart.
TEST(EventGap, IsTheMedianOfWhatTheDriverSays) {
  static std::atomic<int> made{0};
  static std::atomic<int> calls{0};
  DriverTable driver;
  EXPECT_EQ(event_gap_ns(driver), 0u) << "of a driver without events";
  driver.cuMemAlloc_v2 = [](CUdeviceptr* pointer, std::size_t) {
    return ++made, *pointer = 4096, CUDA_SUCCESS;
  };
  driver.cuMemFree_v2 = [](CUdeviceptr) { return --made, CUDA_SUCCESS; };
  driver.cuMemsetD8Async = [](CUdeviceptr, unsigned char, std::size_t, CUstream) { return CUDA_SUCCESS; };
  driver.cuEventCreate = [](CUevent* event, unsigned) {
    *event = reinterpret_cast<CUevent>(std::uintptr_t{8});
    return ++made, CUDA_SUCCESS;
  };
  driver.cuEventDestroy_v2 = [](CUevent) { return --made, CUDA_SUCCESS; };
  driver.cuEventRecord = [](CUevent, CUstream) { return CUDA_SUCCESS; };
  driver.cuStreamSynchronize = [](CUstream) { return CUDA_SUCCESS; };
  // Once the machine was elsewhere.
  driver.cuEventElapsedTime_v2 = [](float* milliseconds, CUevent, CUevent) {
    *milliseconds = ++calls == 2 ? 3.0F : 0.0019F;
    return CUDA_SUCCESS;
  };
  EXPECT_NEAR(static_cast<double>(event_gap_ns(driver)), 1900, 5);
  driver.cuEventElapsedTime_v2 = [](float*, CUevent, CUevent) { return CUDA_ERROR_NOT_SUPPORTED; };
  EXPECT_EQ(event_gap_ns(driver), 0u);
  EXPECT_EQ(made.load(), 0) << "all that was made is given back";
}

TEST(TokenBucket, HoldsTheRateAndAllowsATenthOfASecondAtOnce) {
  TokenBucket bucket;
  std::uint64_t now = 1;
  std::uint64_t waited = 0;
  for (int i = 0; i < 2000; ++i) {
    const std::uint64_t delay = bucket.take(1, 1000, now);
    now += delay;
    waited += delay;
  }
  // 100 at once, the others one a millisecond.
  EXPECT_NEAR(static_cast<double>(waited), 1.9e9, 0.01e9);
}

TEST(TokenBucket, IdlenessIsSavedUpForATenthOfASecondOnly) {
  TokenBucket bucket;
  bucket.take(1, 1000, 1);
  std::uint64_t now = 10'000 * ms;
  unsigned free_of_charge = 0;
  while (bucket.take(1, 1000, now) == 0) ++free_of_charge;
  EXPECT_EQ(free_of_charge, 100u);
}

TEST(TokenBucket, WhatExceedsTheBucketIsDelayedNotRefused) {
  TokenBucket bucket;
  EXPECT_NEAR(static_cast<double>(bucket.take(1000, 1000, 1)), 0.9e9, 1e6);
}

TEST(TokenBucket, NoLimitNoDelay) {
  TokenBucket bucket;
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(bucket.take(1'000'000, 0, 1), 0u);
}

struct AdmissionTest : testing::Test {
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
