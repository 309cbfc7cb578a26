// Completions and accounting over a driver whose events end when the test says so.
#include "daemon/worker/completions.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "daemon/worker/accounting.hpp"
#include "protocol/futex.hpp"

namespace vgpu::worker {
namespace {

/// Streams are numbers of finished and recorded points; an event holds the point at which it was recorded.
struct FakeDevice {
  struct Event {
    CUstream stream = nullptr;
    int point = 0;
  };
  std::mutex mutex;
  std::condition_variable moved;
  std::map<CUstream, int> recorded, finished;
  std::set<Event*> events;
  int created = 0;
  CUresult fault = CUDA_SUCCESS;  // of the context

  void finish(CUstream stream, int points) {
    const std::lock_guard lock(mutex);
    finished[stream] += points;
    moved.notify_all();
  }
  static FakeDevice& get() {
    static FakeDevice device;
    return device;
  }
};

CUstream stream_number(std::uintptr_t number) {
  return reinterpret_cast<CUstream>(0x1000 + number);
}
CUcontext const some_context = reinterpret_cast<CUcontext>(0x10);

DriverTable fake_table() {
  DriverTable table;
  table.cuCtxSetCurrent = [](CUcontext) { return CUDA_SUCCESS; };
  table.cuEventCreate = [](CUevent* out, unsigned) {
    FakeDevice& device = FakeDevice::get();
    const std::lock_guard lock(device.mutex);
    if (device.fault != CUDA_SUCCESS) return device.fault;
    ++device.created;
    *out = reinterpret_cast<CUevent>(*device.events.insert(new FakeDevice::Event).first);
    return CUDA_SUCCESS;
  };
  table.cuEventRecord = [](CUevent event, CUstream stream) {
    FakeDevice& device = FakeDevice::get();
    const std::lock_guard lock(device.mutex);
    *reinterpret_cast<FakeDevice::Event*>(event) = {stream, ++device.recorded[stream]};
    return CUDA_SUCCESS;
  };
  table.cuEventQuery = [](CUevent event) {
    FakeDevice& device = FakeDevice::get();
    const std::lock_guard lock(device.mutex);
    const auto& at = *reinterpret_cast<FakeDevice::Event*>(event);
    return device.finished[at.stream] >= at.point ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
  };
  table.cuEventSynchronize = [](CUevent event) {
    FakeDevice& device = FakeDevice::get();
    std::unique_lock lock(device.mutex);
    const auto& at = *reinterpret_cast<FakeDevice::Event*>(event);
    device.moved.wait(lock, [&] { return device.finished[at.stream] >= at.point; });
    return CUDA_SUCCESS;
  };
  return table;
}

struct CompletionsTest : testing::Test {
  void SetUp() override {
    FakeDevice& device = FakeDevice::get();
    device.recorded.clear();
    device.finished.clear();
    device.created = 0;
  }
  void TearDown() override {
    for (FakeDevice::Event* const event : FakeDevice::get().events) delete event;
    FakeDevice::get().events.clear();
  }
  const DriverTable table = fake_table();
};

TEST_F(CompletionsTest, PolledInOrderAsTheStreamGetsOn) {
  Completions completions(table, some_context);
  std::vector<int> done;
  for (int i = 0; i < 4; ++i) {
    completions.after_stream(some_context, stream_number(1), [&done, i](CUresult) { done.push_back(i); });
  }
  EXPECT_TRUE(completions.poll());
  EXPECT_TRUE(done.empty());
  FakeDevice::get().finish(stream_number(1), 2);
  EXPECT_TRUE(completions.poll());
  EXPECT_EQ(done, (std::vector<int>{0, 1}));
  FakeDevice::get().finish(stream_number(1), 2);
  EXPECT_FALSE(completions.poll());
  EXPECT_EQ(done, (std::vector<int>{0, 1, 2, 3}));
}

TEST_F(CompletionsTest, AFaultBeforeTheFirstEventIsReportedAsWhatItIs) {
  Completions completions(table, some_context);
  FakeDevice::get().fault = CUDA_ERROR_ILLEGAL_ADDRESS;
  EXPECT_EQ(completions.after_stream(some_context, stream_number(1), [](CUresult) { ADD_FAILURE(); }),
            CUDA_ERROR_ILLEGAL_ADDRESS);
  FakeDevice::get().fault = CUDA_SUCCESS;
}

TEST_F(CompletionsTest, EventsAreUsedAgain) {
  Completions completions(table, some_context);
  for (int i = 0; i < 100; ++i) {
    completions.after_stream(some_context, stream_number(1), [](CUresult) {});
    FakeDevice::get().finish(stream_number(1), 1);
    completions.poll();
  }
  EXPECT_EQ(FakeDevice::get().created, 1);
}

TEST_F(CompletionsTest, WaitersTakeOverAndKeepEachStreamsOrder) {
  constexpr int streams = 6;
  constexpr int each = 300;
  Completions completions(table, some_context);
  std::atomic<int> total{0};
  std::vector<std::atomic<int>> next(streams);
  std::thread device([] {
    for (int i = 0; i < each; ++i) {
      for (int s = 0; s < streams; ++s)
        FakeDevice::get().finish(stream_number(static_cast<std::uintptr_t>(s)), 1);
      if (i % 10 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  });
  for (int i = 0; i < each; ++i) {
    for (int s = 0; s < streams; ++s) {
      completions.after_stream(some_context, stream_number(static_cast<std::uintptr_t>(s)),
                               [&, s, i](CUresult) {
                                 EXPECT_EQ(next[static_cast<std::size_t>(s)].fetch_add(1), i);
                                 total.fetch_add(1);
                               });
    }
    if (i % 3 == 0) completions.hand_off();
    if (i % 5 == 0) completions.poll();
  }
  completions.hand_off();
  device.join();
  for (int i = 0; i < 5000 && total.load() < streams * each; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(total.load(), streams * each);
}

TEST_F(CompletionsTest, AStreamThatStandsStillHoldsUpNoOther) {
  std::atomic<bool> stuck{false};
  std::atomic<bool> other{false};
  Completions completions(table, some_context);  // its waiters may still run what refers to the others
  completions.after_stream(some_context, stream_number(1), [&](CUresult) { stuck = true; });
  completions.hand_off();
  completions.after_stream(some_context, stream_number(2), [&](CUresult) { other = true; });
  FakeDevice::get().finish(stream_number(2), 1);
  completions.hand_off();
  for (int i = 0; i < 2000 && !other.load(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(other.load());
  EXPECT_FALSE(stuck.load());
  FakeDevice::get().finish(stream_number(1), 1);
}

struct AccountingTest : testing::Test {
  void SetUp() override { gate = std::move(*GateMapping::create(fd)); }
  GatePage& page() { return gate->page(); }
  UniqueFd fd;
  std::unique_ptr<GateMapping> gate;
};

TEST_F(AccountingTest, QuotaIsNeverExceededBySeveralThreads) {
  Accounting accounting(page(), nullptr, -1);
  page().memory_quota.store(1000);
  std::atomic<std::uint64_t> granted{0};
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) {
        if (accounting.charge(7)) granted.fetch_add(7);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(granted.load(), 994u);
  EXPECT_EQ(page().memory_used.load(), 994u);
  EXPECT_FALSE(accounting.charge(UINT64_MAX));
}

}  // namespace
}  // namespace vgpu::worker
