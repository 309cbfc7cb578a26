// The broker's single thread: descriptors and timers, by epoll. Knows nothing of what they mean.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <unordered_map>

#include "protocol/unique_fd.hpp"

namespace vgpu::daemon {

// Calls handlers when descriptors become ready or times come. All functions belong to the loop's thread,
// except none. A handler may watch, forget and cancel anything, itself included.
class EventLoop {
 public:
  using Clock = std::chrono::steady_clock;
  using Handler = std::function<void(std::uint32_t events)>;
  using Task = std::function<void()>;
  using TimerId = std::uint64_t;

  EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Calls `handler` whenever `fd` has one of the epoll `events` (level-triggered; EPOLLHUP and EPOLLERR
  // always). The descriptor stays the caller's, who must forget() it before closing. False when the kernel
  // refuses.
  bool watch(int fd, std::uint32_t events, Handler handler);
  // Changes the events of a watched descriptor.
  void change(int fd, std::uint32_t events);
  // Stops watching; harmless when it was not watched.
  void forget(int fd);

  // Calls `task` once when `time` has come. Tasks that are due together are called in the order of their
  // times.
  TimerId at(Clock::time_point time, Task task);
  // Calls `task` once after `delay`.
  TimerId after(std::chrono::nanoseconds delay, Task task);
  // Calls `task` in every period until cancelled.
  TimerId every(std::chrono::nanoseconds period, Task task);
  // Harmless when the timer has gone already.
  void cancel(TimerId timer);

  // Serves until stop().
  void run();
  // Serves what is ready, waiting at most `longest`.
  void run_once(std::chrono::nanoseconds longest);
  void stop() { stopped_ = true; }

 private:
  struct Watch {
    std::uint64_t id;
    Handler handler;
  };
  struct Timer {
    TimerId id;
    std::chrono::nanoseconds period;  // 0: once
    Task task;
  };

  TimerId add_timer(Clock::time_point time, std::chrono::nanoseconds period, Task task);
  void run_due_timers();

  UniqueFd epoll_;
  std::uint64_t next_id_ = 1;
  std::unordered_map<int, std::shared_ptr<Watch>> watches_;
  std::multimap<Clock::time_point, std::shared_ptr<Timer>> timers_;
  std::unordered_map<TimerId, std::shared_ptr<Timer>> timer_by_id_;
  bool stopped_ = false;
};

}  // namespace vgpu::daemon
