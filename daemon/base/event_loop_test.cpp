#include "daemon/base/event_loop.hpp"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "daemon/base/log.hpp"

namespace vgpu::daemon {
namespace {

using std::chrono::milliseconds;

UniqueFd ready_event() {
  return UniqueFd(eventfd(1, EFD_CLOEXEC));
}

TEST(EventLoop, CallsTheHandlerOfAReadyDescriptor) {
  EventLoop loop;
  const UniqueFd event = ready_event();
  int calls = 0;
  ASSERT_TRUE(loop.watch(event.get(), EPOLLIN, [&](std::uint32_t) { ++calls; }));
  loop.run_once(milliseconds(0));
  EXPECT_EQ(calls, 1);
  loop.forget(event.get());
  loop.run_once(milliseconds(0));
  EXPECT_EQ(calls, 1);
}

TEST(EventLoop, DescriptorForgottenInTheSameBatchIsNotCalled) {
  EventLoop loop;
  const UniqueFd first = ready_event();
  const UniqueFd second = ready_event();
  int calls = 0;
  const auto forget_other = [&](int other) {
    return [&calls, &loop, other](std::uint32_t) {
      ++calls;
      loop.forget(other);
    };
  };
  loop.watch(first.get(), EPOLLIN, forget_other(second.get()));
  loop.watch(second.get(), EPOLLIN, forget_other(first.get()));
  loop.run_once(milliseconds(0));
  EXPECT_EQ(calls, 1);
}

TEST(EventLoop, HandlerMayForgetItself) {
  EventLoop loop;
  const UniqueFd event = ready_event();
  auto alive = std::make_shared<int>(1);
  loop.watch(event.get(), EPOLLIN, [&loop, &event, alive](std::uint32_t) {
    loop.forget(event.get());
    EXPECT_EQ(*alive, 1);
  });
  loop.run_once(milliseconds(0));
  EXPECT_EQ(alive.use_count(), 1);
}

TEST(EventLoop, TimersRunInTheOrderOfTheirTimes) {
  EventLoop loop;
  std::string order;
  const auto start = EventLoop::Clock::now();
  loop.at(start + milliseconds(2), [&] { order += "b"; });
  loop.at(start + milliseconds(1), [&] { order += "a"; });
  loop.at(start + milliseconds(3), [&] { loop.stop(); });
  loop.run();
  EXPECT_EQ(order, "ab");
}

TEST(EventLoop, CancelledTimersAreNotCalled) {
  EventLoop loop;
  const auto start = EventLoop::Clock::now();
  bool called = false;
  loop.cancel(loop.at(start + milliseconds(1), [&] { called = true; }));
  int ticks = 0;
  EventLoop::TimerId periodic = 0;
  periodic = loop.every(milliseconds(1), [&] {
    if (++ticks < 3) return;
    loop.cancel(periodic);
    loop.after(milliseconds(10), [&] { loop.stop(); });
  });
  loop.run();
  EXPECT_FALSE(called);
  EXPECT_EQ(ticks, 3);
}

TEST(LogLimiter, LetsSomeLinesThroughInEachPeriod) {
  using std::chrono::seconds;
  log::Limiter limiter(2, seconds(10));
  const EventLoop::Clock::time_point start{seconds(100)};
  EXPECT_TRUE(limiter.allows(start));
  EXPECT_TRUE(limiter.allows(start));
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(limiter.allows(start + seconds(9)));
  EXPECT_EQ(limiter.held_back(), 1000U);
  EXPECT_TRUE(limiter.allows(start + seconds(10)));
  EXPECT_EQ(limiter.held_back(), 0U);
  EXPECT_TRUE(limiter.allows(start + seconds(11)));
  EXPECT_FALSE(limiter.allows(start + seconds(12)));
  limiter.look(start + seconds(13));
  EXPECT_EQ(limiter.held_back(), 1U);
  limiter.look(start + seconds(30));  // the flood has ended
  EXPECT_EQ(limiter.held_back(), 0U);
}

}  // namespace
}  // namespace vgpu::daemon
