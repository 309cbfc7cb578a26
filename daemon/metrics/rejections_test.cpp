#include "daemon/metrics/rejections.hpp"

#include <gtest/gtest.h>

namespace vgpu::daemon {
namespace {

using namespace std::chrono_literals;

struct RejectionsTest : testing::Test {
  Rejections rejections;
  Rejections::TimePoint now{1000h};
};

TEST_F(RejectionsTest, TheLastOnesAreRememberedByTheirProcess) {
  for (pid_t pid = 1; pid <= 100; ++pid) rejections.remember({0, 1000, pid, {7}, "no"});
  ASSERT_EQ(rejections.recent().size(), Rejections::kMostRecent);
  EXPECT_EQ(rejections.recent().back().pid, 100);
  EXPECT_EQ(rejections.recent().back().number, 100U);
  EXPECT_EQ(rejections.recent().front().number, 101U - Rejections::kMostRecent);
}

TEST_F(RejectionsTest, AreCountedByUserClassAndReason) {
  rejections.count(1000, "a", RejectionReason::limit, "one", "too many", now);
  rejections.count(1000, "a", RejectionReason::limit, "two", "too many still", now + 1s);
  rejections.count(1000, "b", RejectionReason::limit, "one", "too many", now);
  rejections.count(1000, "a", RejectionReason::device, "one", "none", now);
  rejections.count(7, "a", RejectionReason::limit, "one", "too many", now);
  const auto all = rejections.all();
  ASSERT_EQ(all.size(), 4U);
  EXPECT_EQ(all[0].uid, 7U);
  EXPECT_EQ(all[1].count, 2U);
  EXPECT_EQ(all[1].client_class, "a");
  EXPECT_EQ(all[1].program, "two");
  EXPECT_EQ(all[1].sentence, "too many still");
  EXPECT_EQ(all[1].last, now + 1s);
  EXPECT_EQ(all[2].reason, RejectionReason::device);
  EXPECT_EQ(all[3].client_class, "b");
}

TEST_F(RejectionsTest, AreBoundedAndTheLongestAgoGiveWay) {
  rejections.count(1, "", RejectionReason::version, "", "", now + 1h);
  for (uid_t uid = 10; uid < 10 + 2 * Rejections::kMost; ++uid) {
    rejections.count(uid, "", RejectionReason::handshake, "", "", now + std::chrono::milliseconds(uid));
  }
  const auto all = rejections.all();
  ASSERT_EQ(all.size(), Rejections::kMost);
  EXPECT_EQ(all.front().uid, 1U);
  EXPECT_EQ(all.back().uid, 9 + 2 * Rejections::kMost);
}

TEST_F(RejectionsTest, GoOnFromWhatAnEarlierVgpudCounted) {
  rejections.restore({5, "a", RejectionReason::rule, 9, "p", "", now});
  rejections.count(5, "a", RejectionReason::rule, "q", "no", now);
  ASSERT_EQ(rejections.all().size(), 1U);
  EXPECT_EQ(rejections.all()[0].count, 10U);
}

TEST(RejectionReasons, HaveWords) {
  EXPECT_STREQ(to_string(RejectionReason::worker), "worker");
  EXPECT_STREQ(to_string(static_cast<RejectionReason>(99)), "internal");
}

}  // namespace
}  // namespace vgpu::daemon
