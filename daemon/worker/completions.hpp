// What is to happen when the device has got to a point in a stream: reply to a waiting client, mark an arena
// block, account for finished work. The dispatcher polls; before it sleeps it hands what is left to waiter
// threads, which block in the driver. Never blocks the dispatcher.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "vgpu/driver_table.hpp"

namespace vgpu::worker {

class Completions {
 public:
  using Done = std::function<void(CUresult)>;

  Completions(const DriverTable& driver, CUcontext context);
  /// Waits for the waiter threads; what they wait for must have ended or the process must be about to.
  ~Completions();
  Completions(const Completions&) = delete;
  Completions& operator=(const Completions&) = delete;

  /// Runs `done` once the work now in `stream` has finished, with the driver's result. `done` runs in the
  /// dispatcher or in a waiter thread. Entries of one key complete in order. An error from the driver here:
  /// `done` did not and will not run.
  /// `context` is the stream's: events of another would be refused, and the default stream is one a context.
  CUresult after_stream(CUcontext context, CUstream stream, Done done);
  /// The same for an event that the caller has recorded in `stream` and keeps.
  void after_recorded(CUcontext context, CUstream stream, CUevent event, Done done);
  /// The same for an event of the client's.
  void after_event(CUevent event, Done done);

  /// True while something waits for this event of the client's: it must not be destroyed yet.
  bool waits_for(CUevent event);

  /// Forgets the events kept for `context`, which is about to be destroyed.
  void forget_context(CUcontext context);

  /// Kernels may print from now on: the driver is given the chance to write that out before an entry
  /// completes.
  void write_out_prints() { prints_.store(true, std::memory_order_relaxed); }

  /// Looks at the oldest entry of each stream; true when some are still pending with the dispatcher.
  bool poll();
  /// Gives all pending entries to waiter threads.
  void hand_off();
  /// Tells waiters to stop after what they are waiting for now.
  void stop();

 private:
  struct Entry {
    CUevent event;
    CUcontext context;  ///< of an event of ours; nullptr: the client's event
    Done done;
  };
  struct Queue {
    std::deque<Entry> entries;
    bool with_waiter = false;
  };
  static std::uint64_t key_of(CUcontext context, CUstream stream);
  CUresult take_event(CUcontext context, CUevent& event);
  void put_event(CUcontext context, CUevent event);
  void add(std::uint64_t key, Entry entry);
  void wait_loop();

  const DriverTable& driver_;
  CUcontext context_;
  std::atomic<bool> prints_{false};
  std::mutex mutex_;  // all below
  std::condition_variable work_;
  std::unordered_map<std::uint64_t, std::shared_ptr<Queue>> queues_;
  std::size_t with_dispatcher_ = 0;  // queues that are not empty and not with a waiter
  std::deque<std::shared_ptr<Queue>> handed_;
  std::unordered_map<CUcontext, std::vector<CUevent>> free_events_;
  std::vector<std::thread> waiters_;
  std::size_t idle_waiters_ = 0;
  bool stopping_ = false;
};

}  // namespace vgpu::worker
