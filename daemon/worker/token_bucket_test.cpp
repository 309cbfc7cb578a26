// How a rate limit delays what exceeds it.
#include "daemon/worker/token_bucket.hpp"

#include <gtest/gtest.h>

namespace vgpu::worker {
namespace {

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
  std::uint64_t now = 10'000'000'000;
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

}  // namespace
}  // namespace vgpu::worker
