#include "daemon/worker/accounting.hpp"

#include <unistd.h>

#include "protocol/futex.hpp"

namespace vgpu::worker {
namespace {
constexpr std::uint64_t gate_sleep_ns = 10'000'000;
}

Accounting::Accounting(GatePage& page, const DriverLibrary* driver, int attention)
    : page_(page), driver_(driver), attention_(attention) {
  if (driver_ != nullptr) meter_start_ = driver_->busy_ns().value_or(0);
}

void Accounting::wake_broker() const {
  if (attention_ < 0) return;
  const std::uint64_t one = 1;
  // A full counter means that the broker has not looked yet, which is as good.
  [[maybe_unused]] const ssize_t written = write(attention_, &one, sizeof one);
}

void Accounting::work_came() {
  if (busy_since_.load(std::memory_order_relaxed) == 0)
    busy_since_.store(now_ns(), std::memory_order_relaxed);
  if (page_.backlogged.load(std::memory_order_relaxed) == 0) {
    set_backlogged(1);
    wake_broker();
  }
}

void Accounting::set_backlogged(std::uint32_t value) {
  page_.backlogged.store(value, std::memory_order_release);
  if (slot_ != nullptr) slot_->host.backlogged.store(value, std::memory_order_release);
}

void Accounting::work_ended(bool dispatcher_awake) {
  measure();
  if (const std::uint64_t since = busy_since_.exchange(0, std::memory_order_relaxed); since != 0) {
    busy_sum_.fetch_add(now_ns() - since, std::memory_order_relaxed);
  }
  if (!dispatcher_awake) rest();
}

void Accounting::measure() {
  std::uint64_t used = 0;
  if (driver_ != nullptr && driver_->software()) {
    used = driver_->busy_ns().value_or(meter_start_) - meter_start_;
  } else {
    const std::uint64_t since = busy_since_.load(std::memory_order_relaxed);
    used = busy_sum_.load(std::memory_order_relaxed) + (since != 0 ? now_ns() - since : 0);
  }
  page_.consumed_ns.store(used, std::memory_order_release);
  page_.kernel_ns.store(used, std::memory_order_relaxed);
  if (slot_ != nullptr) {
    slot_->host.kernel_ns.store(used, std::memory_order_relaxed);
    slot_->host.consumed_ns.store(used, std::memory_order_release);
  }
}

void Accounting::admit(const std::function<void()>& before_sleep, const std::function<bool()>& stopped) {
  work_came();
  while (contended() && !stopped()) {
    const std::uint32_t refill = page_.refill.load(std::memory_order_acquire);
    const std::uint32_t flying = in_flight_.load(std::memory_order_acquire);
    measure();
    const bool allowed = page_.consumed_ns.load(std::memory_order_relaxed) <
                         page_.allowance_ns.load(std::memory_order_acquire);
    if (allowed && flying < gate_window) return;
    before_sleep();
    if (!allowed) {
      page_.blocked.store(1, std::memory_order_release);
      wake_broker();
      futex_wait(page_.refill, refill, gate_sleep_ns);
      page_.blocked.store(0, std::memory_order_release);
    } else {
      futex_wait(in_flight_, flying, gate_sleep_ns);
    }
  }
}

void Accounting::submitted() {
  page_.in_flight.store(in_flight_.fetch_add(1, std::memory_order_acq_rel) + 1, std::memory_order_relaxed);
}

void Accounting::finished() {
  const std::uint32_t before = in_flight_.fetch_sub(1, std::memory_order_acq_rel);
  page_.in_flight.store(before - 1, std::memory_order_relaxed);
  if (before >= gate_window) futex_wake(in_flight_);
}

bool Accounting::charge(std::uint64_t bytes) {
  const std::uint64_t quota = page_.memory_quota.load(std::memory_order_relaxed);
  std::uint64_t used = page_.memory_used.load(std::memory_order_relaxed);
  do {
    if (quota != 0 && (used > quota || quota - used < bytes)) return false;
  } while (!page_.memory_used.compare_exchange_weak(used, used + bytes, std::memory_order_relaxed));
  if (page_.memory_peak.load(std::memory_order_relaxed) < used + bytes) {
    page_.memory_peak.store(used + bytes, std::memory_order_relaxed);
  }
  return true;
}

void Accounting::refund(std::uint64_t bytes) {
  page_.memory_used.fetch_sub(bytes, std::memory_order_relaxed);
}

}  // namespace vgpu::worker
