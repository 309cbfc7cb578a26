#include "daemon/worker/queue_thread.hpp"

#include <utility>

namespace vgpu::worker {

void QueueThread::post(std::function<void()> call) {
  const std::lock_guard lock(mutex_);
  if (ending_) return;
  calls_.push_back(std::move(call));
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  changed_.notify_all();
}

bool QueueThread::idle() {
  const std::lock_guard lock(mutex_);
  return calls_.empty();
}

void QueueThread::drain() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return ending_ || calls_.empty(); });
}

void QueueThread::stop() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void QueueThread::run() {
  if (begin_) begin_();
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ending_ || !calls_.empty(); });
    if (ending_) return;
    const std::function<void()>& call = calls_.front();  // a deque's elements stay where they are
    lock.unlock();
    call();
    lock.lock();
    calls_.pop_front();
    if (calls_.empty()) changed_.notify_all();
  }
}

}  // namespace vgpu::worker
