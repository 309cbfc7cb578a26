// Whether a thread learns that it takes its CPU from others.
#include "daemon/worker/preemption.hpp"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <thread>

#include "protocol/futex.hpp"

namespace vgpu::worker {
namespace {

void stay_on_this_cpu() {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<std::size_t>(sched_getcpu()), &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
}

// Two threads that spin on one CPU take it from each other.
TEST(PreemptionTest, AThreadThatSharesItsCpuLosesIt) {
  std::thread([] {
    stay_on_this_cpu();
    std::atomic<bool> stop{false};
    std::thread rival([&stop] {  // on the same CPU, as its parent
      while (!stop.load()) {
      }
    });
    Preemption here;
    const std::uint64_t before = Preemption::count();
    bool told = false;
    const std::uint64_t began = now_ns();
    while (!told && now_ns() - began < 10'000'000'000) told = here.lately(now_ns());
    EXPECT_TRUE(told);
    while (Preemption::count() == before && now_ns() - began < 10'000'000'000) {
    }
    EXPECT_GT(Preemption::count(), before);
    stop = true;
    rival.join();
  }).join();
}

TEST(PreemptionTest, WhatIsLongPastIsNotLately) {
  Preemption here;
  std::uint64_t now = now_ns();
  here.lately(now);
  // A time at which nothing new was counted, far behind whatever had been.
  bool lately = true;
  for (int i = 0; i < 100 && lately; ++i) lately = here.lately(now += 1'000'000'000);
  EXPECT_FALSE(lately);
}

}  // namespace
}  // namespace vgpu::worker
