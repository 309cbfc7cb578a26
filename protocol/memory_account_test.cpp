// The account of a VM's memory: its quota holds whoever charges at once, and however a worker ends.
#include "protocol/memory_account.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <thread>
#include <vector>

namespace vgpu {
namespace {

struct MemoryAccountTest : testing::Test {
  void SetUp() override {
    auto made = MemoryAccount::create(fd);
    ASSERT_TRUE(made) << made.error();
    account = std::move(*made);
  }
  UniqueFd fd;
  std::unique_ptr<MemoryAccount> account;
};

TEST_F(MemoryAccountTest, AllTogetherHoldNoMoreThanTheQuota) {
  EXPECT_TRUE(account->charge(0, 60, 100));
  EXPECT_FALSE(account->charge(1, 41, 100));
  EXPECT_TRUE(account->charge(1, 40, 100));
  EXPECT_EQ(account->used(), 100U);
  account->refund(0, 10);
  EXPECT_FALSE(account->charge(2, 11, 100));
  EXPECT_TRUE(account->charge(63, 10, 100));
  account->clear(1);
  EXPECT_EQ(account->used(), 60U);
}

TEST_F(MemoryAccountTest, HoldsUnderALoweredQuotaAndWithoutOne) {
  EXPECT_TRUE(account->charge(0, 100, 0));
  EXPECT_FALSE(account->charge(0, 1, 50));
  EXPECT_FALSE(account->charge(0, UINT64_MAX, 200)) << "a sum that wraps around";
  EXPECT_TRUE(account->charge(0, 1, 0));
  EXPECT_FALSE(account->charge(MemoryAccount::places, 1, 0));
}

TEST_F(MemoryAccountTest, OnlyAnAccountCanBeMapped) {
  EXPECT_FALSE(MemoryAccount::attach(STDIN_FILENO));
  auto other = MemoryAccount::attach(fd.get());
  ASSERT_TRUE(other);
  EXPECT_TRUE((*other)->charge(3, 7, 10));
  EXPECT_EQ(account->used(), 7U);
}

TEST_F(MemoryAccountTest, QuotaHoldsForManyAtOnce) {
  constexpr std::uint64_t quota = 1000;
  std::atomic<bool> beyond{false};
  std::atomic<std::uint64_t> held{0};  // never more than what is charged
  std::vector<std::thread> all;
  for (std::size_t place = 0; place < 8; ++place) {
    all.emplace_back([&, place] {
      for (std::uint64_t round = 0; round < 20'000; ++round) {
        const std::uint64_t bytes = 150 + round % 300;
        if (!account->charge(place, bytes, quota)) continue;
        if (held.fetch_add(bytes) + bytes > quota) beyond = true;
        held.fetch_sub(bytes);
        account->refund(place, bytes);
      }
    });
  }
  for (std::thread& one : all) one.join();
  EXPECT_FALSE(beyond);
  EXPECT_EQ(account->used(), 0U);
}

TEST_F(MemoryAccountTest, WhoIsKilledWhileChargingHoldsUpNobody) {
#ifdef VGPU_THREAD_SANITIZER
  GTEST_SKIP() << "ThreadSanitizer does not know that a lock whose owner has died is the next one's";
#endif
  for (int round = 0; round < 30; ++round) {
    const pid_t child = fork();
    if (child == 0) {
      for (;;) {
        if (account->charge(5, 3, 1'000'000)) account->refund(5, 3);
      }
    }
    usleep(2000);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    account->clear(5);
    ASSERT_TRUE(account->charge(6, 1, 1'000'000)) << round;
  }
  EXPECT_EQ(account->used(), 30U);
}

}  // namespace
}  // namespace vgpu
