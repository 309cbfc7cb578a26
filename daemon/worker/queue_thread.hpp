// Calls that the thread which wants them made must not wait for: made in order by a thread of their own,
// which is started with the first. Knows nothing of what they do.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

namespace vgpu::worker {

/// Thread-safe.
class QueueThread {
 public:
  /// `begin`: what the thread does before its first call.
  explicit QueueThread(std::function<void()> begin = {}) : begin_(std::move(begin)) {}
  ~QueueThread() { stop(); }
  QueueThread(const QueueThread&) = delete;
  QueueThread& operator=(const QueueThread&) = delete;

  /// Makes `call` after those posted before it.
  void post(std::function<void()> call);
  /// True when all that was posted has been made.
  bool idle();
  /// Waits until it is idle.
  void drain();
  /// Waits for the call under way; what is left is not made.
  void stop();

 private:
  void run();

  const std::function<void()> begin_;
  std::mutex mutex_;  // all below
  std::condition_variable changed_;
  std::deque<std::function<void()>> calls_;  // the first is under way
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace vgpu::worker
