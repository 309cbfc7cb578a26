// The worker's side of the gate page: how much device time it may use, what it used, and the statistics. The
// dispatcher calls admit(); everything else is thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "daemon/worker/driver_library.hpp"
#include "protocol/gate.hpp"

namespace vgpu::worker {

class Accounting {
 public:
  /// `driver` may be nullptr (no meter then); `attention` is an eventfd or -1; both outlive the object.
  Accounting(GatePage& page, const DriverLibrary* driver, int attention);

  GatePage& page() const { return page_; }

  /// True when the broker has set a limit: others want the device too.
  bool contended() const { return page_.allowance_ns.load(std::memory_order_relaxed) != no_limit_ns; }
  /// Says that there is work; wakes the broker when there was none before.
  void work_came();
  /// Says that all work has finished. `dispatcher_awake`: the dispatcher is awake and calls rest() before it
  /// sleeps, so the broker need not hear of every short pause.
  void work_ended(bool dispatcher_awake = false);
  /// The dispatcher has nothing to do and no work is under way.
  void rest() { page_.backlogged.store(0, std::memory_order_release); }
  /// Waits until one more command may be submitted. `before_sleep` is called before each sleep, `stopped`
  /// after.
  void admit(const std::function<void()>& before_sleep, const std::function<bool()>& stopped);
  /// A command that was admitted under contention was submitted, or has finished.
  void submitted();
  void finished();
  /// Brings consumed_ns and kernel_ns up to date. Cheap.
  void measure();

  void count_latency(std::uint64_t ns) {
    page_.latency[latency_bucket(ns)].fetch_add(1, std::memory_order_relaxed);
    page_.latency_sum_ns.fetch_add(ns, std::memory_order_relaxed);
  }
  /// Charges memory; false when it would exceed the quota.
  bool charge(std::uint64_t bytes);
  void refund(std::uint64_t bytes);

 private:
  void wake_broker() const;

  GatePage& page_;
  const DriverLibrary* driver_;
  int attention_;
  std::uint64_t meter_start_ = 0;
  std::atomic<std::uint32_t> in_flight_{0};
  std::atomic<std::uint64_t> busy_since_{
      0};  // where the driver has no meter: since when work is under way, or 0
  std::atomic<std::uint64_t> busy_sum_{0};
};

/// Memory that was charged, given back at the end of its life: held by all that keep the memory alive.
class Charge {
 public:
  Charge(Accounting& accounting, std::uint64_t bytes) : accounting_(accounting), bytes_(bytes) {}
  ~Charge() { accounting_.refund(bytes_); }
  Charge(const Charge&) = delete;
  Charge& operator=(const Charge&) = delete;

 private:
  Accounting& accounting_;
  std::uint64_t bytes_;
};

}  // namespace vgpu::worker
