// The scheduler by itself: dependencies, lanes, helping, stopping.
#include "softgpu/driver/scheduler.hpp"

#include <gtest/gtest.h>

#include <random>
#include <thread>

namespace softgpu {
namespace {

OperationRef make(Lane lane, std::function<void()> work) {
  return std::make_shared<Operation>(lane, nullptr, [work = std::move(work)] {
    work();
    return true;
  });
}

TEST(Scheduler, RunsAnOperationAfterAllThatItDependsOn) {
  Scheduler scheduler;
  std::mt19937 random(7);
  constexpr std::size_t count = 2000;
  std::vector<OperationRef> operations;
  std::vector<std::atomic<bool>> ran(count);
  std::atomic<int> violations{0};
  for (std::size_t i = 0; i < count; ++i) {
    std::vector<OperationRef> before;
    std::vector<std::size_t> indices;
    for (int edge = 0; edge < 3 && i > 0; ++edge) {
      indices.push_back(random() % i);
      before.push_back(operations[indices.back()]);
    }
    const Lane lane = i % 5 == 0 ? Lane::host : Lane::device;
    operations.push_back(make(lane, [&, i, indices] {
      for (const std::size_t earlier : indices) {
        if (!ran[earlier].load()) ++violations;
      }
      ran[i].store(true);
    }));
    scheduler.submit(operations.back(), before);
  }
  for (const auto& operation : operations) scheduler.wait(operation);
  EXPECT_EQ(violations, 0);
}

TEST(Scheduler, AWaitingThreadRunsItsOwnQueueItself) {
  Scheduler scheduler(0);  // no threads: somebody has to help
  std::thread::id ran_on;
  const auto operation = std::make_shared<Operation>(Lane::device, &scheduler, [&] {
    ran_on = std::this_thread::get_id();
    return true;
  });
  scheduler.submit(operation, {});
  scheduler.wait(operation);
  EXPECT_EQ(ran_on, std::this_thread::get_id());
}

TEST(Scheduler, LongChainsOfJoinsDoNotUseUpTheStack) {
  Scheduler scheduler;
  std::atomic<bool> go{false};
  OperationRef last = make(Lane::device, [&] {
    while (!go.load()) std::this_thread::yield();
  });
  scheduler.submit(last, {});
  for (int i = 0; i < 200'000; ++i) {
    const OperationRef before[] = {last};
    last = std::make_shared<Operation>(Lane::none, nullptr, nullptr);
    scheduler.submit(last, before);
  }
  go.store(true);
  scheduler.wait(last);
  EXPECT_TRUE(last->done());
}

TEST(Scheduler, PolledOperationsAreAskedUntilTheySayDone) {
  Scheduler scheduler;
  std::atomic<int> asked{0};
  const auto poll = std::make_shared<Operation>(Lane::poll, nullptr, [&] { return ++asked == 5; });
  scheduler.submit(poll, {});
  scheduler.wait(poll);
  EXPECT_EQ(asked, 5);
}

TEST(Scheduler, BlockedHostFunctionsDoNotHoldUpOthers) {
  Scheduler scheduler;
  std::atomic<int> waiting{0};
  constexpr int together = 8;
  std::vector<OperationRef> operations;
  for (int i = 0; i < together; ++i) {
    operations.push_back(make(Lane::host, [&] {
      ++waiting;
      while (waiting.load() < together) std::this_thread::yield();
    }));
    scheduler.submit(operations.back(), {});
  }
  for (const auto& operation : operations) scheduler.wait(operation);
  EXPECT_EQ(waiting, together);
}

TEST(Scheduler, OperationsThatWaitForEachOtherAllGetAThread) {
  for (int round = 0; round < 200; ++round) {
    Scheduler scheduler;
    std::atomic<int> arrived{0};
    constexpr int together = 4;
    std::vector<OperationRef> operations;
    // One thread that idles, so that waking it and starting others race.
    operations.push_back(make(Lane::device, [] {}));
    scheduler.submit(operations.back(), {});
    while (!operations.back()->done()) std::this_thread::yield();
    for (int i = 0; i < together; ++i) {
      operations.push_back(make(Lane::device, [&] {
        ++arrived;
        while (arrived.load() < together) std::this_thread::yield();
      }));
      scheduler.submit(operations.back(), {});
    }
    while (arrived.load() < together) std::this_thread::yield();
    for (const auto& operation : operations) scheduler.wait(operation);
  }
}

}  // namespace
}  // namespace softgpu
