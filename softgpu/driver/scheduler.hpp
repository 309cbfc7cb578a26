// Runs operations when everything they depend on is done: the machinery under streams, events and graphs.
//
// It knows nothing of CUDA: an operation is a function, the lane that may run it, and the operations before
// it. A thread that waits for an operation runs ready ones of the same queue itself, so that a small kernel
// followed by a synchronisation needs no thread switch.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace softgpu {

/// Monotonic clock, nanoseconds.
std::uint64_t now_ns();

/// Who runs an operation.
enum class Lane : std::uint8_t {
  none,    ///< nobody: done as soon as it is ready (joins, event records)
  device,  ///< a device thread, or a thread that waits for it
  host,    ///< a host-function thread: may block for as long as it likes
  poll,    ///< asked again and again until it says that it is done
};

class Operation;
using OperationRef = std::shared_ptr<Operation>;

class Operation {
 public:
  /// `queue` groups operations for waiting threads that help (a stream's address); `work` of Lane::poll
  /// returns true when done, the others' result is ignored.
  Operation(Lane lane, const void* queue, std::function<bool()> work)
      : lane_(lane), queue_(queue), work_(std::move(work)) {}

  bool done() const { return done_.load(std::memory_order_acquire) != 0; }
  /// When it ended (now_ns); meaningful once done.
  std::uint64_t ended_ns() const { return ended_ns_.load(std::memory_order_relaxed); }
  const void* queue() const { return queue_; }

 private:
  friend class Scheduler;

  const Lane lane_;
  const void* const queue_;
  std::function<bool()> work_;
  std::atomic<std::uint32_t> done_{0};
  std::atomic<std::uint64_t> ended_ns_{0};
  // Under the scheduler's mutex:
  bool submitted_ = false;
  std::size_t unmet_ = 0;
  std::vector<OperationRef> successors_;
};

/// Thread-safe. Threads are started when there is work for them and all of them are busy.
class Scheduler {
 public:
  /// At most this many device operations run at once, waiting threads not counted.
  explicit Scheduler(unsigned device_threads = 16);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  /// Guards the order of submission: who reads the last operation of a stream and submits its next holds it.
  std::mutex& mutex() { return mutex_; }

  /// Submits with mutex() held. Null and finished dependencies are ignored.
  void submit_locked(const OperationRef& operation, std::span<const OperationRef> after);
  void submit(const OperationRef& operation, std::span<const OperationRef> after);

  /// Waits until `operation` is done, or until stop(); meanwhile runs ready device operations of its queue,
  /// or of any queue.
  enum class Help : std::uint8_t { same_queue, any_queue };
  void wait(const OperationRef& operation, Help help = Help::same_queue);

  /// While it lives, operations that this thread submits wake nobody: it is about to wait() for the last of
  /// them.
  class WillWait {
   public:
    WillWait();
    ~WillWait();
    WillWait(const WillWait&) = delete;
    WillWait& operator=(const WillWait&) = delete;
  };

  /// Runs `work` while no device operation runs: waits for those that do, and holds up the others. Not from
  /// within an operation.
  void while_quiet(const std::function<void()>& work);

  /// Waits until no device operation is running (queued ones are dropped), at most `limit_ms`; afterwards
  /// nothing runs any more. For process exit.
  void stop(unsigned limit_ms);

 private:
  using Ready = std::deque<OperationRef>;

  // `looks_again`: called by a device thread that looks for work next: one operation needs no other thread.
  void ready_locked(OperationRef operation, bool looks_again = false);
  void finish_locked(OperationRef operation, bool looks_again = false);
  /// `looks_again`: by a device thread, which then takes the next operation that is ready.
  void run(const OperationRef& operation, std::unique_lock<std::mutex>& lock, bool looks_again = false);
  OperationRef take_locked(const void* queue, Help help);
  void serve(Ready& ready, std::condition_variable& wake, unsigned& idle);
  void serve_polls();
  void start_thread(void (Scheduler::*body)());
  void device_thread() { serve(device_ready_, device_wake_, device_idle_); }
  void host_thread() { serve(host_ready_, host_wake_, host_idle_); }

  std::mutex mutex_;
  std::condition_variable device_wake_, host_wake_, poll_wake_, threads_gone_, quiet_wake_;
  Ready device_ready_, host_ready_;
  std::vector<OperationRef> polls_;
  unsigned device_limit_;
  unsigned device_threads_ = 0, device_idle_ = 0;
  unsigned host_threads_ = 0, host_idle_ = 0;
  unsigned running_ = 0;  // device operations, helpers' included
  unsigned threads_ = 0;
  unsigned quiet_ = 0;  // callers of while_quiet()
  bool polling_ = false;
  bool stopping_ = false;
};

}  // namespace softgpu
