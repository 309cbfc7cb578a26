#include "libclient/cuda/stream_work.hpp"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace vgpu::client {
namespace {

TEST(WorkCount, AValueFoundAgainSaysThatNothingCameAfterIt) {
  WorkCount work;
  WorkCount ended;
  EXPECT_EQ(work.value(), ended.value());
  work.count(0, false);  // the ring's first record
  EXPECT_NE(work.value(), ended.value());
  ended.set(work.value());
  EXPECT_EQ(work.value(), ended.value());
  work.count(2, false);
  EXPECT_NE(work.value(), ended.value());
  EXPECT_FALSE(work.value().quiet_until(ended.value()));
}

TEST(WorkCount, QuietWorkIsToldApart) {
  WorkCount work;
  work.count(0, false);
  const WorkCount::Value before = work.value();
  work.count(2, true);
  work.count(4, true);
  EXPECT_NE(work.value(), before);
  EXPECT_TRUE(work.value().quiet_until(before));
  work.count(6, false);
  EXPECT_FALSE(work.value().quiet_until(before));
}

TEST(WorkCount, AnEarlierCallThatCountsLateHidesNothing) {
  WorkCount work;
  work.count(0, false);
  const WorkCount::Value covered = work.value();  // by a synchronisation whose record is at 4
  work.count(8, false);
  work.count(6, false);
  EXPECT_NE(work.value(), covered);
  EXPECT_FALSE(work.value().quiet_until(covered));
}

// Each thread counts a position and looks at once whether what was covered before it says that all has ended.
TEST(WorkCount, ThreadsThatCountAtOnceNeverBringAnOldValueBack) {
  constexpr int threads = 4;
  constexpr int each = 20'000;
  WorkCount work;
  std::atomic<std::uint64_t> next{0};
  std::atomic<int> wrong{0};
  std::vector<std::thread> all;
  for (int t = 0; t < threads; ++t) {
    all.emplace_back([&] {
      for (int i = 0; i < each; ++i) {
        const WorkCount::Value covered = work.value();
        const std::uint64_t position = next.fetch_add(2);
        work.count(position, false);
        if (work.value() == covered || work.value().quiet_until(covered)) ++wrong;
      }
    });
  }
  for (std::thread& thread : all) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace vgpu::client
