#include "libclient/cuda/copy_crew.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>

namespace vgpu::client {
namespace {

// Never destroyed, as the process's own: its helpers sleep in it.
CopyCrew& crew_of_three() {
  static auto* const crew = new CopyCrew(3);
  return *crew;
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
  for (int round = 0; round < 3; ++round) {
    Meeting meeting;
    std::atomic<bool> met{true};
    crew_of_three().run([&] {
      if (!meeting.wait_for(4)) met = false;
    });
    EXPECT_TRUE(met);
    EXPECT_EQ(meeting.here.size(), 4U);
  }
}

TEST(CopyCrew, ReturnsAfterTheLastHelper) {
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> inside{0};
    crew_of_three().run([&] {
      ++inside;
      std::this_thread::sleep_for(std::chrono::microseconds(200));
      --inside;
    });
    EXPECT_EQ(inside, 0);
  }
}

TEST(CopyCrew, WhoFindsItTakenWorksAlone) {
  std::mutex mutex;
  std::condition_variable moved;
  bool taken = false;
  bool over = false;
  std::thread holder([&] {
    crew_of_three().run([&] {
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
  crew_of_three().run([&] {
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

TEST(CopyCrew, WithoutHelpersTheCallerWorksAlone) {
  CopyCrew crew(0);
  int workers = 0;
  crew.run([&] { ++workers; });
  EXPECT_EQ(workers, 1);
}

}  // namespace
}  // namespace vgpu::client
