#include "protocol/upcall.hpp"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "protocol/testing.hpp"

namespace vgpu {
namespace {

using testing_support::new_channel;

TEST(Upcalls, CallerReturnsAfterTheClientRanIt) {
  const auto channel = new_channel();
  std::atomic<bool> stop{false};
  std::uint64_t ran = 0;
  std::thread client([&] {
    UpcallReader reader(*channel);
    Upcall upcall;
    while (!reader.next(upcall, 10'000'000)) {
    }
    ran = upcall.user;
    reader.finish();
  });
  UpcallPoster poster(*channel);
  poster.call({0, 0, 0x1000, 77, 0}, stop);
  EXPECT_EQ(ran, 77u);
  client.join();
}

TEST(Upcalls, MoreThanTheRingHoldsFromSeveralThreads) {
  const auto channel = new_channel();
  std::atomic<bool> stop{false};
  constexpr std::uint64_t threads = 4;
  constexpr std::uint64_t each = 200;
  std::thread client([&] {
    UpcallReader reader(*channel);
    std::vector<std::uint64_t> next(threads, 0);
    for (std::uint64_t n = 0; n < threads * each;) {
      Upcall upcall;
      if (!reader.next(upcall, 10'000'000)) continue;
      EXPECT_EQ(upcall.user, next[upcall.function]++);
      reader.finish();
      ++n;
    }
  });
  UpcallPoster poster(*channel);
  std::vector<std::thread> drivers;
  for (std::uint64_t t = 0; t < threads; ++t) {
    drivers.emplace_back([&, t] {
      for (std::uint64_t i = 0; i < each; ++i) poster.call({0, 0, t, i, 0}, stop);
    });
  }
  for (std::thread& thread : drivers) thread.join();
  client.join();
}

TEST(Upcalls, StopReleasesACallThatNobodyRuns) {
  const auto channel = new_channel();
  std::atomic<bool> stop{false};
  UpcallPoster poster(*channel);
  std::thread driver([&] { poster.call({0, 0, 1, 2, 3}, stop); });
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  stop = true;
  driver.join();
}

}  // namespace
}  // namespace vgpu
