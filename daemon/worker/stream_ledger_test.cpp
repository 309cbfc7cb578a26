// The account of unfinished stream work over devices' accounts without a driver.
#include "daemon/worker/stream_ledger.hpp"

#include <gtest/gtest.h>

namespace vgpu::worker {
namespace {

/// A key of numbers in the place of the driver's pointers.
StreamKey stream_key(std::uintptr_t context, std::uintptr_t stream) {
  // NOLINTNEXTLINE(performance-no-int-to-ptr)
  return {reinterpret_cast<CUcontext>(context), reinterpret_cast<CUstream>(stream)};
}

/// Two devices with a context each.
struct StreamLedgerTest : testing::Test {
  static constexpr std::uint64_t command_ns = 100'000;

  void SetUp() override {
    for (std::size_t i = 0; i < 2; ++i) {
      gates.push_back(std::move(*GateMapping::create(fds[i])));
      accounts.push_back(std::make_unique<Accounting>(gates[i]->page(), nullptr, -1));
    }
    ledger = std::make_unique<StreamLedger>(
        std::vector{accounts[0].get(), accounts[1].get()},
        [this](CUcontext context) { return context == first.first ? std::size_t{0} : std::size_t{1}; });
  }
  const GatePage& page(std::size_t device) { return gates[device]->page(); }
  bool backlogged(std::size_t device) { return page(device).backlogged.load() != 0; }

  const StreamKey first = stream_key(1, 0);
  const StreamKey second = stream_key(1, 0x10);
  const StreamKey other = stream_key(2, 0);  // on the other device
  UniqueFd fds[2];
  std::vector<std::unique_ptr<GateMapping>> gates;
  std::vector<std::unique_ptr<Accounting>> accounts;
  std::unique_ptr<StreamLedger> ledger;
};

TEST_F(StreamLedgerTest, ADeviceHasWorkFromTheFirstSubmissionToTheLastEnd) {
  EXPECT_FALSE(ledger->busy());
  ledger->submitted(first);
  ledger->submitted(second);
  ledger->submitted(second);
  EXPECT_TRUE(backlogged(0));
  EXPECT_FALSE(backlogged(1));
  EXPECT_TRUE(ledger->busy(accounts[0].get()));
  EXPECT_FALSE(ledger->busy(accounts[1].get()));
  ledger->ended(ledger->mark(first));
  EXPECT_FALSE(ledger->busy(first));
  EXPECT_TRUE(backlogged(0));
  ledger->ended(ledger->mark(second));
  EXPECT_FALSE(ledger->busy());
  EXPECT_FALSE(backlogged(0));
}

TEST_F(StreamLedgerTest, WhatWasSubmittedBehindAMarkDoesNotEndWithIt) {
  ledger->submitted(first);
  const StreamLedger::Mark mark = ledger->mark(first);
  ledger->submitted(first);
  ledger->ended(mark);
  EXPECT_TRUE(ledger->busy(first));
  ledger->ended(ledger->mark(first));
  EXPECT_FALSE(ledger->busy(first));
}

TEST_F(StreamLedgerTest, AFenceTellsTheEndOfWhatIsBeforeIt) {
  ledger->submitted(first);
  EXPECT_TRUE(ledger->any_unfenced());
  const StreamLedger::Mark fence = ledger->fence(first);
  EXPECT_FALSE(ledger->any_unfenced());
  ledger->submitted(first);
  ASSERT_EQ(ledger->unfenced().size(), 1u);
  EXPECT_EQ(ledger->unfenced().front().stream(), first);
  ledger->ended(fence);
  EXPECT_TRUE(ledger->busy(first));
}

TEST_F(StreamLedgerTest, ABatchIsInFlightUntilItsFence) {
  ledger->submitted(first);
  for (unsigned i = 1; i <= 3; ++i) {
    accounts[0]->submitted(command_ns);
    const Batch open = ledger->batched(first, command_ns);
    EXPECT_EQ(open.count, i);
    EXPECT_EQ(open.predicted_ns, i * command_ns);
  }
  const StreamLedger::Mark fence = ledger->fence(first);
  ledger->submitted(first);
  accounts[0]->submitted(command_ns / 2);
  EXPECT_EQ(ledger->batched(first, command_ns / 2).count, 1u) << "the fence has taken those before it";
  EXPECT_EQ(page(0).in_flight.load(), 4u);
  ledger->ended(fence);
  EXPECT_EQ(page(0).in_flight.load(), 1u);
  EXPECT_EQ(page(0).predicted_ns.load(), command_ns / 2);
}

TEST_F(StreamLedgerTest, WithoutItsFenceABatchWaitsForTheNext) {
  ledger->submitted(first);
  accounts[0]->submitted(command_ns);
  ledger->batched(first, command_ns);
  ledger->reopen(ledger->fence(first));
  accounts[0]->submitted(command_ns);
  EXPECT_EQ(ledger->batched(first, command_ns).count, 2u);
  ledger->ended(ledger->fence(first));
  EXPECT_EQ(page(0).in_flight.load(), 0u);
}

TEST_F(StreamLedgerTest, EarlierWorkIsSharedOutOverTheStreamsOfItsDevice) {
  std::uint64_t each = 1;
  EXPECT_TRUE(ledger->batch_earlier(*accounts[0], command_ns, each).empty());
  EXPECT_EQ(each, 0u);
  ledger->submitted(first);
  ledger->submitted(second);
  ledger->submitted(other);
  EXPECT_EQ(ledger->batch_earlier(*accounts[0], command_ns, each), (std::vector{first, second}));
  EXPECT_EQ(each, command_ns / 2);
  EXPECT_EQ(ledger->batched(second, 0).count, 2u);
  EXPECT_EQ(ledger->batched(other, 0).count, 1u);
}

TEST_F(StreamLedgerTest, ADestroyedStreamsEndIsHeardOfByWhoWaits) {
  ledger->submitted(second);
  const StreamLedger::Mark fence = ledger->fence(second);
  const StreamLedger::Done ended = ledger->orphan(second);
  ledger->forget(second);
  EXPECT_TRUE(ledger->busy()) << "its work goes on";
  EXPECT_FALSE(ledger->only_busy());
  unsigned heard = 0;
  const auto watch = [&heard] { return [&heard](CUresult) { ++heard; }; };
  EXPECT_TRUE(ledger->unfinished({}, watch).empty());
  EXPECT_TRUE(ledger->unfinished({nullptr, accounts[1].get()}, watch).empty()) << "not of that device";
  ledger->ended(fence);
  EXPECT_FALSE(ledger->busy());
  ended(CUDA_SUCCESS);
  EXPECT_EQ(heard, 1u);
  ended(CUDA_SUCCESS);
  EXPECT_EQ(heard, 1u);
}

TEST_F(StreamLedgerTest, ScopesAreContextsAndDevices) {
  ledger->submitted(first);
  ledger->submitted(other);
  const auto none = []() -> StreamLedger::Done { return nullptr; };
  EXPECT_EQ(ledger->unfinished({}, none), (std::vector{first, other}));
  EXPECT_EQ(ledger->unfinished({other.first, nullptr}, none), std::vector{other});
  EXPECT_EQ(ledger->unfinished({nullptr, accounts[0].get()}, none), std::vector{first});
  EXPECT_FALSE(ledger->only_busy());
  ledger->forget_context(other.first);
  ASSERT_TRUE(ledger->only_busy());
  EXPECT_EQ(ledger->only_busy()->stream(), first);
  EXPECT_FALSE(backlogged(1));
  ledger->forget_all();
  EXPECT_FALSE(backlogged(0));
}

TEST_F(StreamLedgerTest, WorkMayWaitForMoreIfItIsHeldOrTheNextStreamHasNone) {
  EXPECT_TRUE(ledger->may_wait_for_more(*accounts[0], first));
  ledger->submitted(first);
  EXPECT_FALSE(ledger->may_wait_for_more(*accounts[0], first));
  EXPECT_TRUE(ledger->may_wait_for_more(*accounts[0], second));
  ledger->held(first);
  EXPECT_TRUE(ledger->may_wait_for_more(*accounts[0], first));
  ledger->ended(ledger->mark(first));
  ledger->submitted(first);
  EXPECT_FALSE(ledger->may_wait_for_more(*accounts[0], first)) << "what was held has ended";
}

TEST(StreamLedger, AnAwakeDispatcherTellsOfTheEndItself) {
  UniqueFd fd;
  const auto gate = std::move(*GateMapping::create(fd));
  Accounting accounting(gate->page(), nullptr, -1);
  StreamLedger ledger({&accounting}, [](CUcontext) { return std::size_t{0}; });
  const StreamKey stream = stream_key(1, 0);
  ledger.submitted(stream);
  ledger.ended(ledger.mark(stream));
  EXPECT_EQ(gate->page().backlogged.load(), 1u);
  ledger.rest();
  EXPECT_EQ(gate->page().backlogged.load(), 0u);
  ledger.dispatcher_sleeps(true);
  ledger.submitted(stream);
  ledger.ended(ledger.mark(stream));
  EXPECT_EQ(gate->page().backlogged.load(), 0u);
}

}  // namespace
}  // namespace vgpu::worker
