#include "daemon/base/event_loop.hpp"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>
#include <stdexcept>

#include "protocol/errno_text.hpp"

namespace vgpu::daemon {
namespace {

using std::chrono::nanoseconds;

constexpr std::size_t kBatch = 64;

// An event names its descriptor and the low half of its watch's number, so that an event for a descriptor
// that was forgotten in the same batch, and whose number was reused, goes nowhere.
std::uint64_t tag(int fd, std::uint64_t id) {
  return (id << 32U) | static_cast<std::uint32_t>(fd);
}

}  // namespace

EventLoop::EventLoop() : epoll_(epoll_create1(EPOLL_CLOEXEC)) {
  if (!epoll_) throw std::runtime_error(errno_text("epoll_create1"));
}

bool EventLoop::watch(int fd, std::uint32_t events, Handler handler) {
  auto entry = std::make_shared<Watch>(Watch{next_id_++, std::move(handler)});
  epoll_event event{};
  event.events = events;
  event.data.u64 = tag(fd, entry->id);
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return false;
  watches_[fd] = std::move(entry);
  return true;
}

void EventLoop::change(int fd, std::uint32_t events) {
  const auto found = watches_.find(fd);
  if (found == watches_.end()) return;
  epoll_event event{};
  event.events = events;
  event.data.u64 = tag(fd, found->second->id);
  epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void EventLoop::forget(int fd) {
  if (watches_.erase(fd) != 0) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

EventLoop::TimerId EventLoop::add_timer(Clock::time_point time, nanoseconds period, Task task) {
  auto timer = std::make_shared<Timer>(Timer{next_id_++, period, std::move(task)});
  timers_.emplace(time, timer);
  timer_by_id_.emplace(timer->id, timer);
  return timer->id;
}

EventLoop::TimerId EventLoop::at(Clock::time_point time, Task task) {
  return add_timer(time, nanoseconds{0}, std::move(task));
}

EventLoop::TimerId EventLoop::after(nanoseconds delay, Task task) {
  return at(Clock::now() + delay, std::move(task));
}

EventLoop::TimerId EventLoop::every(nanoseconds period, Task task) {
  return add_timer(Clock::now() + period, period, std::move(task));
}

void EventLoop::cancel(TimerId timer) {
  const auto found = timer_by_id_.find(timer);
  if (found == timer_by_id_.end()) return;
  const auto entry = std::find_if(timers_.begin(), timers_.end(),
                                  [&](const auto& pair) { return pair.second == found->second; });
  if (entry != timers_.end()) timers_.erase(entry);
  timer_by_id_.erase(found);
}

void EventLoop::run_due_timers() {
  const Clock::time_point now = Clock::now();
  while (!timers_.empty() && timers_.begin()->first <= now) {
    const std::shared_ptr<Timer> timer = timers_.begin()->second;
    timers_.erase(timers_.begin());
    if (timer->period.count() > 0) {
      timers_.emplace(now + timer->period, timer);
    } else {
      timer_by_id_.erase(timer->id);
    }
    timer->task();
  }
}

void EventLoop::run_once(nanoseconds longest) {
  nanoseconds wait = longest;
  if (!timers_.empty()) {
    wait = std::min(wait, std::chrono::duration_cast<nanoseconds>(timers_.begin()->first - Clock::now()));
  }
  wait = std::max(wait, nanoseconds{0});
  const timespec timeout{static_cast<time_t>(wait.count() / 1'000'000'000),
                         static_cast<long>(wait.count() % 1'000'000'000)};
  std::array<epoll_event, kBatch> events{};
  const int count = epoll_pwait2(epoll_.get(), events.data(), kBatch, &timeout, nullptr);
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    const int fd = static_cast<int>(event.data.u64 & 0xffffffffU);
    const auto found = watches_.find(fd);
    if (found == watches_.end() || tag(fd, found->second->id) != event.data.u64) continue;
    const std::shared_ptr<Watch> watch = found->second;  // lives through its own forget()
    watch->handler(event.events);
  }
  run_due_timers();
}

void EventLoop::run() {
  stopped_ = false;
  while (!stopped_) run_once(std::chrono::hours(1));
}

}  // namespace vgpu::daemon
