// Calls that other threads want the dispatcher to make between two records. Makes none by itself.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <mutex>
#include <utility>

namespace vgpu::worker {

/// run() is the dispatcher's; the rest is thread-safe.
class LaterCalls {
 public:
  /// `wake`: has the dispatcher look.
  explicit LaterCalls(std::function<void()> wake) : wake_(std::move(wake)) {}

  void post(std::function<void()> call) {
    {
      const std::lock_guard lock(mutex_);
      calls_.push_back(std::move(call));
      any_.store(true);
    }
    wake_();
  }
  bool any() const { return any_.load(std::memory_order_acquire); }
  /// Makes those posted so far.
  void run() {
    std::deque<std::function<void()>> calls;
    {
      const std::lock_guard lock(mutex_);
      calls.swap(calls_);
      any_.store(false);
    }
    for (const auto& call : calls) call();
  }

 private:
  const std::function<void()> wake_;
  std::atomic<bool> any_{false};
  std::mutex mutex_;
  std::deque<std::function<void()>> calls_;  // under mutex_
};

}  // namespace vgpu::worker
