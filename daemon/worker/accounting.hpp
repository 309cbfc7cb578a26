// The worker's side of the gate page: how much device time it may use, what it used, and the statistics. The
// dispatcher calls admit(); everything else is thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "daemon/worker/driver_library.hpp"
#include "protocol/gate.hpp"
#include "protocol/stub_layout.hpp"

namespace vgpu::worker {

class Accounting {
 public:
  /// `driver` may be nullptr (no meter then); `attention` is an eventfd or -1; both outlive the object.
  Accounting(GatePage& page, const DriverLibrary* driver, int attention);

  GatePage& page() const { return page_; }

  /// The client is a process in a VM: its vgpud hears of what was used, and may ask for few commands in
  /// flight.
  void tell(stub::SlotControl& slot) { slot_ = &slot; }

  /// True when the broker has set a limit: others want the device too. Or others in the client's VM do.
  bool contended() const {
    return page_.allowance_ns.load(std::memory_order_relaxed) != no_limit_ns ||
           (slot_ != nullptr && slot_->guest.contended.load(std::memory_order_relaxed) != 0);
  }
  /// Says that there is work; wakes the broker when there was none before.
  void work_came();
  /// Says that all work has finished. `dispatcher_awake`: the dispatcher is awake and calls rest() before it
  /// sleeps, so the broker need not hear of every short pause.
  void work_ended(bool dispatcher_awake = false);
  /// The dispatcher has nothing to do and no work is under way.
  void rest() { set_backlogged(0); }
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
  }
  /// Charges memory; false when it would exceed the quota.
  bool charge(std::uint64_t bytes);
  void refund(std::uint64_t bytes);

 private:
  void wake_broker() const;
  void set_backlogged(std::uint32_t value);

  GatePage& page_;
  const DriverLibrary* driver_;
  int attention_;
  stub::SlotControl* slot_ = nullptr;
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
