#include "daemon/worker/deferred_upcalls.hpp"

namespace vgpu::worker {

DeferredUpcalls::~DeferredUpcalls() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void DeferredUpcalls::post(const Upcall& upcall) {
  const std::lock_guard lock(mutex_);
  if (ending_) return;
  waiting_.push_back(upcall);
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  changed_.notify_all();
}

void DeferredUpcalls::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ending_ || !waiting_.empty(); });
    if (ending_) return;
    const Upcall upcall = waiting_.front();
    waiting_.pop_front();
    lock.unlock();
    poster_.call(upcall, stop_);
    lock.lock();
  }
}

}  // namespace vgpu::worker
