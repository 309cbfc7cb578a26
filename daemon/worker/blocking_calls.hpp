// Driver calls that may wait for the device (a free waits for all that runs, also for what was submitted
// after the client had freed): made in order by a thread of their own, so that the dispatcher, on whose next
// record the device may be waiting, goes on. Never makes a call of its own but to set the context.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "vgpu/driver_table.hpp"

namespace vgpu::worker {

/// Thread-safe. `driver` outlives it.
class BlockingCalls {
 public:
  BlockingCalls(const DriverTable& driver, CUcontext context) : driver_(driver), context_(context) {}
  ~BlockingCalls() { stop(); }
  BlockingCalls(const BlockingCalls&) = delete;
  BlockingCalls& operator=(const BlockingCalls&) = delete;

  /// Makes `call` after those posted before it, with the session's context current.
  void post(std::function<void()> call);
  /// True when all that was posted has been made.
  bool idle();
  /// Waits until it is idle.
  void drain();
  /// Waits for the call under way; what is left is not made.
  void stop();

 private:
  void run();

  const DriverTable& driver_;
  const CUcontext context_;
  std::mutex mutex_;  // all below
  std::condition_variable changed_;
  std::deque<std::function<void()>> calls_;  // the first is under way
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace vgpu::worker
