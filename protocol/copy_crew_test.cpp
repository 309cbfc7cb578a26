#include "protocol/copy_crew.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

namespace vgpu {
namespace {

constexpr std::uint64_t kSpin = 2'000'000;

std::vector<unsigned char> numbers(std::size_t count) {
  std::vector<unsigned char> bytes(count);
  std::uint32_t state = 1;
  for (unsigned char& byte : bytes)
    byte = static_cast<unsigned char>((state = state * 1664525U + 1013904223U) >> 24U);
  return bytes;
}

/// Lets threads wait for each other, at most ten seconds.
struct Meeting {
  std::mutex mutex;
  std::condition_variable came;
  std::set<std::thread::id> here;
  bool wait_for(std::size_t many) {
    std::unique_lock lock(mutex);
    here.insert(std::this_thread::get_id());
    came.notify_all();
    return came.wait_for(lock, std::chrono::seconds(10), [&] { return here.size() >= many; });
  }
};

TEST(CopyCrew, TheCallerAndAllHelpersWorkAtOnce) {
  CopyCrew crew(3);
  for (int round = 0; round < 3; ++round) {
    Meeting meeting;
    std::atomic<bool> met{true};
    crew.run([&] {
      if (!meeting.wait_for(4)) met = false;
    });
    EXPECT_TRUE(met);
    EXPECT_EQ(meeting.here.size(), 4U);
  }
}

TEST(CopyCrew, ReturnsAfterTheLastHelper) {
  CopyCrew sleeping(3);
  CopyCrew spinning(3, kSpin);
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> inside{0};
    (round % 2 == 0 ? sleeping : spinning).run([&] {
      ++inside;
      std::this_thread::sleep_for(std::chrono::microseconds(200));
      --inside;
    });
    EXPECT_EQ(inside, 0);
  }
}

TEST(CopyCrew, WhoFindsItTakenWorksAlone) {
  CopyCrew crew(3);
  std::mutex mutex;
  std::condition_variable moved;
  bool taken = false;
  bool over = false;
  std::thread holder([&] {
    crew.run([&] {
      std::unique_lock lock(mutex);
      taken = true;
      moved.notify_all();
      moved.wait(lock, [&] { return over; });
    });
  });
  {
    std::unique_lock lock(mutex);
    moved.wait(lock, [&] { return taken; });
  }
  std::atomic<int> workers{0};
  std::thread::id worker;
  crew.run([&] {
    ++workers;
    worker = std::this_thread::get_id();
  });
  EXPECT_EQ(workers, 1);
  EXPECT_EQ(worker, std::this_thread::get_id());
  {
    const std::lock_guard lock(mutex);
    over = true;
  }
  moved.notify_all();
  holder.join();
}

TEST(CopyCrew, CopiesEveryByteAndNoOther) {
  const std::vector<unsigned char> source = numbers((3 << 20) + 1);
  for (const std::uint64_t spin : {std::uint64_t{0}, kSpin}) {
    CopyCrew crew(3, spin);
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, std::size_t{256} << 10,
                                    (std::size_t{1} << 20) + 4097, source.size()}) {
      std::vector<unsigned char> target(source.size() + 1, 0xee);
      crew.copy(target.data(), source.data(), bytes);
      EXPECT_TRUE(
          std::equal(source.begin(), source.begin() + static_cast<std::ptrdiff_t>(bytes), target.begin()));
      EXPECT_TRUE(std::all_of(target.begin() + static_cast<std::ptrdiff_t>(bytes), target.end(),
                              [](unsigned char byte) { return byte == 0xee; }));
    }
  }
}

TEST(CopyCrew, WithoutHelpersTheCallerWorksAlone) {
  CopyCrew crew(0);
  int workers = 0;
  crew.run([&] { ++workers; });
  EXPECT_EQ(workers, 1);
}

}  // namespace
}  // namespace vgpu
