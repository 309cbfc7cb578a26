// Upcalls that the thread which causes them must not wait for: destructors of user objects, which the driver
// may call in the middle of any call. One thread posts them in order, started with the first.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "protocol/upcall.hpp"

namespace vgpu::worker {

/// Thread-safe. `poster` and `stop` outlive it; once `stop` is set, what is left is not delivered.
class DeferredUpcalls {
 public:
  DeferredUpcalls(UpcallPoster& poster, const std::atomic<bool>& stop) : poster_(poster), stop_(stop) {}
  ~DeferredUpcalls();
  DeferredUpcalls(const DeferredUpcalls&) = delete;
  DeferredUpcalls& operator=(const DeferredUpcalls&) = delete;

  void post(const Upcall& upcall);

 private:
  void run();

  UpcallPoster& poster_;
  const std::atomic<bool>& stop_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Upcall> waiting_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace vgpu::worker
