// Holding a stream while what is timed is sent, by a driver that notes what it is told.
#include "daemon/worker/stream_hold.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>

#include "daemon/worker/command_timers.hpp"

namespace vgpu::worker {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t gap_ns = 1'900;

// What the driver was told, and the word on which it waits.
std::string told;
std::atomic<std::uint32_t> word;
std::uint32_t awaited = 0;
CUresult answer = CUDA_SUCCESS;

class StreamHoldTest : public testing::Test {
 protected:
  StreamHoldTest() {
    told.clear();
    word = 0;
    awaited = 0;
    answer = CUDA_SUCCESS;
    driver_.cuMemHostAlloc = [](void** memory, std::size_t, unsigned) {
      *memory = &word;
      return CUDA_SUCCESS;
    };
    driver_.cuMemHostGetDevicePointer_v2 = [](CUdeviceptr* pointer, void*, unsigned) {
      *pointer = 4096;
      return CUDA_SUCCESS;
    };
    driver_.cuMemFreeHost = [](void*) { return CUDA_SUCCESS; };
    driver_.cuStreamWaitValue32_v2 = [](CUstream, CUdeviceptr address, cuuint32_t value, unsigned flags) {
      EXPECT_EQ(address, 4096U);
      EXPECT_EQ(flags, static_cast<unsigned>(CU_STREAM_WAIT_VALUE_GEQ));
      if (answer == CUDA_SUCCESS) awaited = value;
      told += "w";
      return answer;
    };
    driver_.cuEventCreate = [](CUevent* event, unsigned) {
      static std::uintptr_t next = 8;
      // NOLINTNEXTLINE(performance-no-int-to-ptr)
      *event = reinterpret_cast<CUevent>(next += 8);
      return CUDA_SUCCESS;
    };
    driver_.cuEventRecord = [](CUevent, CUstream) {
      told += holds() ? "R" : "r";
      return CUDA_SUCCESS;
    };
    driver_.cuEventQuery = [](CUevent) { return holds() ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS; };
    driver_.cuEventElapsedTime_v2 = [](float* milliseconds, CUevent, CUevent) {
      *milliseconds = 0.0058F;
      return CUDA_SUCCESS;
    };
  }

  static bool holds() { return static_cast<std::int32_t>(word.load() - awaited) < 0; }

  DriverTable driver_;
};

TEST_F(StreamHoldTest, AStreamIsHeldFromBeginToEnd) {
  StreamHold hold(driver_);
  ASSERT_TRUE(hold.usable());
  hold.end();
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(holds());
    EXPECT_TRUE(hold.begin(nullptr));
    EXPECT_TRUE(holds());
    hold.end();
    EXPECT_FALSE(holds());
  }
}

TEST_F(StreamHoldTest, ADriverThatCannotHoldsNothing) {
  answer = CUDA_ERROR_NOT_SUPPORTED;
  StreamHold refused(driver_);
  EXPECT_FALSE(refused.begin(nullptr));
  refused.end();
  driver_.cuStreamWaitValue32_v2 = nullptr;
  StreamHold without(driver_);
  EXPECT_FALSE(without.usable());
  EXPECT_FALSE(without.begin(nullptr));
  without.end();
  EXPECT_FALSE(holds());
}

// As when the driver waits for the device in the middle of a launch.
TEST_F(StreamHoldTest, WhatNobodyLetsGoIsLetGoAfterItsPatience) {
  StreamHold hold(driver_, 30'000'000);
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(hold.begin(nullptr));
    const auto began = std::chrono::steady_clock::now();
    while (holds() && std::chrono::steady_clock::now() - began < 10s) std::this_thread::sleep_for(1ms);
    EXPECT_FALSE(holds());
    EXPECT_GE(std::chrono::steady_clock::now() - began, 25ms);
    hold.end();
  }
}

TEST_F(StreamHoldTest, TheGuardLetsNothingGoEarly) {
  StreamHold hold(driver_, 200'000'000);
  for (const auto until = std::chrono::steady_clock::now() + 500ms;
       std::chrono::steady_clock::now() < until;) {
    ASSERT_TRUE(hold.begin(nullptr));
    std::this_thread::sleep_for(20us);
    ASSERT_TRUE(holds());
    hold.end();
  }
}

// All that is timed is sent before any of it can begin.
TEST_F(StreamHoldTest, ACommandIsTimedInAHeldStream) {
  StreamHold hold(driver_);
  Completions completions(driver_, nullptr);
  Estimates estimates;
  CommandTimers timers(driver_, completions, estimates, gap_ns, &hold);
  const auto time_one = [&](bool held) {
    told.clear();
    const CommandTimers::Started began = timers.begin({nullptr, nullptr}, nullptr, held);
    told += holds() ? "K" : "k";
    const bool drained = timers.end(began, nullptr, 7);
    EXPECT_FALSE(holds());
    while (completions.poll()) {
    }
    return drained;
  };
  EXPECT_TRUE(time_one(false));
  EXPECT_EQ(told, "rkr");
  EXPECT_LT(estimates.look(7).ns, 2'000U) << "how long it took to send is taken off";
  EXPECT_FALSE(time_one(true)) << "nothing is known of what the stream had before";
  EXPECT_EQ(told, "wRKR");
  EXPECT_NEAR(static_cast<double>(estimates.look(7).ns), 5'800.0 - gap_ns * 2, 2.0);
  // One that is refused lets go, too.
  const CommandTimers::Started began = timers.begin({nullptr, nullptr}, nullptr, true);
  EXPECT_TRUE(holds());
  timers.drop(began, 7);
  EXPECT_FALSE(holds());
}

}  // namespace
}  // namespace vgpu::worker
