// How long commands are expected to take: what is timed and learned, and what is taken off for the timing
// itself.
#include "daemon/worker/estimates.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "daemon/worker/event_gap.hpp"

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
  EXPECT_NEAR(timed, rounds + Estimates::first_samples, rounds / 4.0);
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
  for (const unsigned count : timed) EXPECT_NEAR(count, 2000.0 / Estimates::sample_every, 25);
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
  EXPECT_NEAR(held, static_cast<double>(timed) / Estimates::hold_every, 10);
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

}  // namespace
}  // namespace vgpu::worker
