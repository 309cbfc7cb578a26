// The worker's side of one gate page: how much time of one device it may use, what it used, and the
// statistics. The dispatcher calls admit(); everything else is thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "daemon/worker/driver_library.hpp"
#include "protocol/gate.hpp"
#include "protocol/memory_account.hpp"
#include "protocol/stub_layout.hpp"

namespace vgpu::worker {

class Accounting {
 public:
  /// `driver` may be nullptr (no meter then); `attention` is an eventfd or -1; both outlive the object.
  /// `place`: of the device among the driver's.
  Accounting(GatePage& page, const DriverLibrary* driver, int attention, std::size_t place = 0);

  GatePage& page() const { return page_; }

  /// The client is a process in a VM: its vgpud hears of what was used, and may ask for few commands in
  /// flight.
  void tell(stub::SlotControl& slot);

  /// True when what is in flight is bounded: others want the device or may want it soon, or a limit says so;
  /// or others in the client's VM want it.
  bool bounded() const {
    return page_.allowance_ns.load(std::memory_order_relaxed) != no_limit_ns ||
           page_.window_ns.load(std::memory_order_relaxed) != 0 ||
           page_.watchdog_ns.load(std::memory_order_relaxed) != 0 ||
           page_.queue_limit.load(std::memory_order_relaxed) != 0 ||
           page_.memory_contended.load(std::memory_order_relaxed) != 0 || others_in_vm();
  }
  /// Predicted device time that may be in flight; no_limit_ns: any.
  std::uint64_t window_ns() const;

  /// Says that there is work; wakes the broker when there was none before.
  void work_came();
  /// Says that work is on the device from now on.
  void work_began();
  /// Says that all work but the last command had finished before that was sent: the pauses until then show in
  /// what the commands take. Not at the same time as the one above and the one below.
  void begin_anew();
  /// Says that all work has finished. `dispatcher_awake`: the dispatcher is awake and calls rest() before it
  /// sleeps, so the broker need not hear of every short pause.
  void work_ended(bool dispatcher_awake = false);
  /// The dispatcher has nothing to do and no work is under way.
  void rest();

  /// What admit() does while it waits.
  struct Hooks {
    std::function<void()> poll;          ///< look whether something has finished
    std::function<void()> before_sleep;  ///< see to it that finished() is called while the caller sleeps
    /// Sleep while the word holds the value, at most so many ns; earlier if there is something to look at.
    std::function<void(const std::atomic<std::uint32_t>& word, std::uint32_t value, std::uint64_t ns)> sleep;
    std::function<bool()> stopped;
    std::uint64_t spin_ns = 0;  ///< for how long to poll before sleeping
    /// For how long to wait for what is in flight while none of it ends, beyond what it is expected to take:
    /// it may wait for what comes behind. Empty, or UINT64_MAX: however long it takes.
    std::function<std::uint64_t()> patience_ns;
    /// What the command is expected to take, asked again; no_limit_ns: nobody knows yet, so it goes alone.
    /// Empty: as said.
    std::function<std::uint64_t()> next_ns{};
  };
  /// Waits until a command that is expected to take `next_ns` may be submitted.
  void admit(std::uint64_t next_ns, const Hooks& hooks);
  /// A command was submitted while bounded(), or `count` of them have finished.
  void submitted(std::uint64_t predicted_ns);
  void finished(std::uint32_t count, std::uint64_t predicted_ns);
  /// What a command of the present busy time is expected to take; not `known`: nobody can say.
  void expect(std::uint64_t predicted_ns, bool known);

  /// Brings consumed_ns and kernel_ns up to date. Cheap.
  void measure();

  void count_latency(std::uint64_t ns) {
    page_.latency[latency_bucket(ns)].fetch_add(1, std::memory_order_relaxed);
    page_.latency_sum_ns.fetch_add(ns, std::memory_order_relaxed);
  }
  /// Charges memory; false when it would exceed the quota, or when there is no room for it on the device.
  bool charge(std::uint64_t bytes);
  void refund(std::uint64_t bytes);
  /// The same for memory whose room is seen to elsewhere: the quota only.
  bool charge_quota(std::uint64_t bytes);
  void refund_quota(std::uint64_t bytes);
  /// What charge() asks for room, and whom refund() gives it back to; without them there always is room.
  void ask_for_room(std::function<bool(std::uint64_t)> take, std::function<void(std::uint64_t)> give) {
    take_room_ = std::move(take);
    give_room_ = std::move(give);
  }

  /// The client is one of several that have the quota together (a VM's), at this place of their account,
  /// which lives longer.
  void share_quota(MemoryAccount& account, std::size_t place) {
    account_ = &account;
    account_place_ = place;
  }
  /// What counts against the quota: the client's memory, or that of all who have it together.
  std::uint64_t quota_used() const {
    return account_ != nullptr ? account_->used() : page_.memory_used.load(std::memory_order_relaxed);
  }

  void wake_broker() const;

 private:
  bool others_in_vm() const {
    return slot_ != nullptr && slot_->guest.contended.load(std::memory_order_relaxed) != 0;
  }
  bool metered() const { return page_.metered.load(std::memory_order_relaxed) != 0; }
  enum class Verdict { go, no_time, full };
  /// Commands in flight, and what they are expected to take.
  struct Flight {
    std::uint32_t commands = 0;
    std::uint64_t ns = 0;
  };
  Verdict verdict(std::uint64_t next_ns, const Flight& flight) const;
  /// Of `commands` in flight, those that are waited for. Dispatcher only.
  Flight waited_for(std::uint32_t commands);
  void publish_in_flight();
  void set_backlogged(std::uint32_t value);
  void count_progress();
  std::uint64_t clocked_ns() const;
  void publish_used();
  void open_interval();
  void close_interval();

  GatePage& page_;
  const DriverLibrary* driver_;
  int attention_;
  std::size_t place_;
  stub::SlotControl* slot_ = nullptr;
  MemoryAccount* account_ = nullptr;
  std::size_t account_place_ = 0;
  std::uint64_t meter_start_ = 0;
  std::atomic<std::uint32_t> in_flight_{0};
  std::atomic<std::uint64_t> predicted_{0};  // of what is in flight
  // Of what is in flight, what does not end and is no longer waited for. Which of the commands in flight they
  // are is not known: they count until so few are left. Dispatcher only.
  Flight given_up_;
  std::uint64_t given_up_at_ = 0;          // the progress at that time
  std::atomic<std::uint32_t> waiting_{0};  // the dispatcher sleeps until something finishes
  std::atomic<bool> admitting_{false};     // the dispatcher is in admit()
  std::atomic<bool> on_device_{false};
  // Where the driver has no meter: since when work is on the device, or 0; what is expected of it; and the
  // sum of what came before.
  std::atomic<std::uint64_t> busy_since_{0};
  std::atomic<std::uint64_t> expected_{0};
  std::atomic<bool> all_known_{true};
  std::atomic<std::uint64_t> busy_sum_{0};
  std::atomic<std::uint64_t> last_end_ns_{0};  // when work_ended() was called last; 0: never
  std::function<bool(std::uint64_t)> take_room_;
  std::function<void(std::uint64_t)> give_room_;
};

/// Memory that was charged, given back at the end of its life: held by all that keep the memory alive.
class Charge {
 public:
  Charge(Accounting& accounting, std::uint64_t bytes) : accounting_(accounting), bytes_(bytes) {}
  ~Charge() { accounting_.refund(bytes_); }
  Charge(const Charge&) = delete;
  Charge& operator=(const Charge&) = delete;
  std::uint64_t bytes() const { return bytes_; }
  /// Says that another amount is charged now; the difference was charged or refunded by the caller.
  void resize(std::uint64_t bytes) { bytes_ = bytes; }

 private:
  Accounting& accounting_;
  std::uint64_t bytes_;
};

}  // namespace vgpu::worker
