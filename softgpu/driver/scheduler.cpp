#include "softgpu/driver/scheduler.hpp"

#include <algorithm>
#include <chrono>
#include <thread>

namespace softgpu {
namespace {

constexpr unsigned host_thread_limit = 64;
constexpr auto shortest_poll = std::chrono::microseconds(20);
constexpr auto longest_poll = std::chrono::microseconds(500);

bool& will_wait() {
  thread_local bool value = false;
  return value;
}

}  // namespace

Scheduler::WillWait::WillWait() {
  will_wait() = true;
}
Scheduler::WillWait::~WillWait() {
  will_wait() = false;
}

std::uint64_t now_ns() {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                        std::chrono::steady_clock::now().time_since_epoch())
                                        .count());
}

Scheduler::Scheduler(unsigned device_threads) : device_limit_(device_threads) {}

Scheduler::~Scheduler() {
  stop(10'000);
  std::unique_lock lock(mutex_);
  threads_gone_.wait(lock, [&] { return threads_ == 0; });
}

void Scheduler::start_thread(void (Scheduler::*body)()) {
  ++threads_;
  std::thread([this, body] {
    (this->*body)();
    const std::unique_lock lock(mutex_);
    --threads_;
    threads_gone_.notify_all();
  }).detach();
}

void Scheduler::submit(const OperationRef& operation, std::span<const OperationRef> after) {
  const std::unique_lock lock(mutex_);
  submit_locked(operation, after);
}

void Scheduler::submit_locked(const OperationRef& operation, std::span<const OperationRef> after) {
  operation->submitted_ = true;
  for (const OperationRef& before : after) {
    if (before == nullptr || before->done()) continue;
    before->successors_.push_back(operation);
    ++operation->unmet_;
  }
  if (operation->unmet_ == 0) ready_locked(operation);
}

void Scheduler::ready_locked(OperationRef operation, bool looks_again) {
  switch (operation->lane_) {
    case Lane::none:
      finish_locked(std::move(operation));
      return;
    case Lane::device: {
      device_ready_.push_back(std::move(operation));
      if (will_wait()) return;
      const std::size_t for_others = device_ready_.size() - (looks_again ? 1 : 0);
      if (for_others == 0) return;
      // An idle thread that was woken but has not come up yet still counts as idle: there must be one for
      // each.
      if (device_idle_ >= for_others) {
        device_wake_.notify_one();
      } else if (device_threads_ < device_limit_ && !stopping_) {
        ++device_threads_;
        start_thread(&Scheduler::device_thread);
      }
      return;
    }
    case Lane::host:
      host_ready_.push_back(std::move(operation));
      if (host_idle_ >= host_ready_.size()) {
        host_wake_.notify_one();
      } else if (host_threads_ < host_thread_limit && !stopping_) {
        ++host_threads_;
        start_thread(&Scheduler::host_thread);
      }
      return;
    case Lane::poll:
      polls_.push_back(std::move(operation));
      if (polling_) {
        poll_wake_.notify_one();
      } else if (!stopping_) {
        polling_ = true;
        start_thread(&Scheduler::serve_polls);
      }
      return;
  }
}

// A list instead of recursion: a long chain of joins must not use up the stack.
void Scheduler::finish_locked(OperationRef operation, bool looks_again) {
  std::vector<OperationRef> finished{std::move(operation)};
  while (!finished.empty()) {
    const OperationRef current = std::move(finished.back());
    finished.pop_back();
    current->ended_ns_.store(now_ns(), std::memory_order_relaxed);
    current->done_.store(1, std::memory_order_release);
    current->done_.notify_all();
    std::vector<OperationRef> successors = std::move(current->successors_);
    current->successors_.clear();
    for (OperationRef& next : successors) {
      if (--next->unmet_ != 0) continue;
      if (next->lane_ == Lane::none) {
        finished.push_back(std::move(next));
      } else {
        ready_locked(std::move(next), looks_again);
      }
    }
  }
}

void Scheduler::run(const OperationRef& operation, std::unique_lock<std::mutex>& lock, bool looks_again) {
  const bool device = operation->lane_ == Lane::device;
  if (device) ++running_;
  lock.unlock();
  operation->work_();
  // What the work holds (buffers, modules) is let go outside the lock: its destructors may submit work.
  operation->work_ = nullptr;
  lock.lock();
  if (device && --running_ == 0) {
    if (stopping_) threads_gone_.notify_all();
    if (quiet_ != 0) quiet_wake_.notify_all();
  }
  finish_locked(operation, looks_again);
}

void Scheduler::serve(Ready& ready, std::condition_variable& wake, unsigned& idle) {
  std::unique_lock lock(mutex_);
  const auto held = [&] { return ready.empty() || (quiet_ != 0 && &ready == &device_ready_); };
  while (!stopping_) {
    if (held()) {
      ++idle;
      wake.wait(lock, [&] { return stopping_ || !held(); });
      --idle;
      continue;
    }
    const OperationRef operation = std::move(ready.front());
    ready.pop_front();
    run(operation, lock, &ready == &device_ready_);
  }
}

void Scheduler::serve_polls() {
  std::unique_lock lock(mutex_);
  auto pause = shortest_poll;
  while (!stopping_) {
    if (polls_.empty()) {
      poll_wake_.wait(lock, [&] { return stopping_ || !polls_.empty(); });
      pause = shortest_poll;
      continue;
    }
    const std::vector<OperationRef> asked = polls_;
    lock.unlock();
    std::vector<OperationRef> answered;
    for (const OperationRef& operation : asked) {
      if (operation->work_()) answered.push_back(operation);
    }
    lock.lock();
    for (const OperationRef& operation : answered) {
      std::erase(polls_, operation);
      finish_locked(operation);
    }
    pause = answered.empty() ? std::min<std::chrono::microseconds>(pause * 2, longest_poll) : shortest_poll;
    if (!stopping_ && !polls_.empty()) poll_wake_.wait_for(lock, pause);
  }
}

OperationRef Scheduler::take_locked(const void* queue, Help help) {
  const auto found = std::find_if(
      device_ready_.begin(), device_ready_.end(),
      [&](const OperationRef& operation) { return help == Help::any_queue || operation->queue_ == queue; });
  if (found == device_ready_.end()) return nullptr;
  OperationRef operation = std::move(*found);
  device_ready_.erase(found);
  return operation;
}

void Scheduler::wait(const OperationRef& operation, Help help) {
  if (operation == nullptr || operation->done()) return;
  std::unique_lock lock(mutex_);
  while (!operation->done() && !stopping_) {
    if (quiet_ != 0) {
      quiet_wake_.wait(lock, [&] { return quiet_ == 0 || stopping_ || operation->done(); });
      continue;
    }
    const OperationRef next = take_locked(operation->queue_, help);
    if (next == nullptr) break;
    run(next, lock);
  }
  const bool stopped = stopping_;
  lock.unlock();
  if (stopped) return;
  // Another thread runs what is left; it may be done any moment.
  constexpr int spins = 64;
  for (int spin = 0; spin < spins && !operation->done(); ++spin) {
    __builtin_ia32_pause();
  }
  while (!operation->done()) operation->done_.wait(0, std::memory_order_acquire);
}

void Scheduler::while_quiet(const std::function<void()>& work) {
  std::unique_lock lock(mutex_);
  ++quiet_;
  quiet_wake_.wait(lock, [&] { return running_ == 0 || stopping_; });
  work();
  if (--quiet_ != 0) return;
  device_wake_.notify_all();
  quiet_wake_.notify_all();
}

void Scheduler::stop(unsigned limit_ms) {
  std::unique_lock lock(mutex_);
  stopping_ = true;
  quiet_wake_.notify_all();
  device_ready_.clear();
  device_wake_.notify_all();
  host_wake_.notify_all();
  poll_wake_.notify_all();
  threads_gone_.wait_for(lock, std::chrono::milliseconds(limit_ms), [&] { return running_ == 0; });
}

}  // namespace softgpu
