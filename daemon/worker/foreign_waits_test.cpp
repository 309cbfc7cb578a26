// Which waits for other clients' events are given up, over a driver of events that happen when the test says
// so and a broker that answers what the test says.
#include "daemon/worker/foreign_waits.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>

#include "protocol/futex.hpp"
#include "protocol/message_socket.hpp"

namespace vgpu::worker {
namespace {

/// Events by number; those that are in `happened` have happened.
struct Events {
  std::uintptr_t made = 0;
  std::set<CUevent> happened;
  std::set<CUevent> destroyed;
  int waits = 0;

  static Events& get() {
    static Events events;
    return events;
  }
  static CUevent number(std::uintptr_t n) {
    return reinterpret_cast<CUevent>(n);  // NOLINT(performance-no-int-to-ptr)
  }
};

DriverTable table_of_events() {
  DriverTable table;
  table.cuEventCreate = [](CUevent* event, unsigned) {
    *event = Events::number(++Events::get().made);
    return CUDA_SUCCESS;
  };
  table.cuEventRecord = [](CUevent, CUstream) { return CUDA_SUCCESS; };
  table.cuEventQuery = [](CUevent event) {
    EXPECT_FALSE(Events::get().destroyed.contains(event));
    return Events::get().happened.contains(event) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
  };
  table.cuEventDestroy_v2 = [](CUevent event) {
    EXPECT_TRUE(Events::get().destroyed.insert(event).second);
    return CUDA_SUCCESS;
  };
  table.cuStreamWaitEvent = [](CUstream, CUevent, unsigned) {
    ++Events::get().waits;
    return CUDA_SUCCESS;
  };
  return table;
}

constexpr std::uint64_t foreign_handle = 0x100;
constexpr std::uint64_t foreign_maker = 77;
const CUevent mark_before = Events::number(1);
const CUevent mark_after = Events::number(2);

class ForeignWaitsTest : public testing::Test {
 protected:
  void SetUp() override {
    Events::get() = {};
    auto pair = message_socket_pair();
    ASSERT_TRUE(pair);
    worker_ = std::move(pair->first);
    broker_ = std::move(pair->second);
    link_ = std::make_unique<IpcLink>(worker_.get());
    waits_ = std::make_unique<ForeignWaits>(table_, *link_);
    thread_ = std::thread([this] { serve(); });
    waits_->opened(foreign_handle, foreign_maker);
  }
  void TearDown() override {
    worker_.reset();  // ends the broker
    thread_.join();
  }
  void serve() {
    for (;;) {
      const auto message = receive_message(broker_.get(), 10'000);
      const auto* const asked = message ? message->as<IpcRequest>() : nullptr;
      if (asked == nullptr) return;
      EXPECT_EQ(asked->action, IpcAction::orphaned);
      EXPECT_EQ(asked->maker, foreign_maker);
      ++questions_;
      IpcAnswer answer;
      answer.number = asked->number;
      answer.result = orphaned_ ? IpcResult::done : IpcResult::unknown;
      if (!send_message(broker_.get(), answer)) return;
    }
  }
  CUresult wait() { return waits_->wait(foreign_handle, foreign_, nullptr, 0, 3); }
  /// Looks as often as it takes to be sure; whether it ever said "stuck".
  bool stuck() {
    for (int i = 0; i < 5; ++i) {
      time_ += 2 * ForeignWaits::patience_ns;
      if (waits_->stuck(time_)) return true;
    }
    return false;
  }

  const DriverTable table_ = table_of_events();
  const CUevent foreign_ = Events::number(1000);
  UniqueFd worker_, broker_;
  std::unique_ptr<IpcLink> link_;
  std::unique_ptr<ForeignWaits> waits_;
  std::thread thread_;
  std::atomic<bool> orphaned_{true};
  std::atomic<int> questions_{0};
  std::uint64_t time_ = now_ns();
};

TEST_F(ForeignWaitsTest, AWaitThatNobodyLivingCanEndIsStuck) {
  EXPECT_EQ(wait(), CUDA_SUCCESS);
  EXPECT_EQ(Events::get().waits, 1);
  Events::get().happened.insert(mark_before);
  EXPECT_FALSE(waits_->stuck(time_)) << "it has only begun";
  EXPECT_EQ(questions_, 0);
  time_ += 2 * ForeignWaits::patience_ns;
  EXPECT_FALSE(waits_->stuck(time_)) << "what the maker had submitted may still happen";
  EXPECT_EQ(questions_, 1);
  EXPECT_TRUE(stuck());
}

TEST_F(ForeignWaitsTest, WhatEndsIsForgotten) {
  EXPECT_EQ(wait(), CUDA_SUCCESS);
  Events::get().happened = {mark_before, mark_after};
  EXPECT_FALSE(stuck());
  EXPECT_EQ(Events::get().destroyed, (std::set{mark_before, mark_after}));
  EXPECT_EQ(questions_, 0);
}

TEST_F(ForeignWaitsTest, WhoMayStillEndItIsWaitedFor) {
  EXPECT_EQ(wait(), CUDA_SUCCESS);
  Events::get().happened.insert(mark_before);
  orphaned_ = false;
  EXPECT_FALSE(stuck());
  EXPECT_GT(questions_, 1);
  orphaned_ = true;
  EXPECT_TRUE(stuck());
}

TEST_F(ForeignWaitsTest, AStreamThatHasNotGotThereIsNotStuck) {
  EXPECT_EQ(wait(), CUDA_SUCCESS);
  EXPECT_FALSE(stuck());
  EXPECT_EQ(questions_, 0);
  Events::get().happened.insert(mark_before);
  EXPECT_TRUE(stuck());
}

TEST_F(ForeignWaitsTest, WhatTheClientRecordedItselfIsItsOwnAffair) {
  EXPECT_EQ(wait(), CUDA_SUCCESS);
  Events::get().happened.insert(mark_before);
  waits_->recorded(foreign_handle);
  EXPECT_FALSE(stuck());
  EXPECT_EQ(wait(), CUDA_SUCCESS);
  EXPECT_FALSE(stuck());
  EXPECT_EQ(questions_, 0);
  EXPECT_EQ(Events::get().waits, 2);
}

TEST_F(ForeignWaitsTest, AThreadThatWaitsIsLookedAfterUntilTheEventIsDestroyed) {
  waits_->wait_on_host(foreign_handle, foreign_);
  EXPECT_TRUE(stuck());
  waits_->closed(foreign_handle);
  EXPECT_FALSE(stuck());
  EXPECT_FALSE(waits_->knows(foreign_handle));
}

TEST_F(ForeignWaitsTest, WithItsContextAWaitIsGone) {
  EXPECT_EQ(wait(), CUDA_SUCCESS);
  Events::get().happened.insert(mark_before);
  const auto alive = [](std::uint64_t) { return true; };
  waits_->forget_context(2, alive);
  EXPECT_TRUE(stuck());
  waits_->forget_context(3, alive);
  EXPECT_FALSE(stuck());
  waits_->wait_on_host(foreign_handle, foreign_);
  waits_->forget_context(3, [](std::uint64_t) { return false; });
  EXPECT_FALSE(stuck());
}

}  // namespace
}  // namespace vgpu::worker
