#include "daemon/scheduler/turns.hpp"

#include <algorithm>

namespace vgpu::daemon {
namespace {

// How many slices a client may lag behind the others and still catch up: bounds what follows a long kernel of
// another's.
constexpr double kMostLagSlices = 4;

double weight_of(const Terms& terms) {
  return std::max(terms.weight, kLeastWeight);
}

std::uint64_t times_weight(std::uint64_t ns, double weight) {
  return std::max<std::uint64_t>(static_cast<std::uint64_t>(static_cast<double>(ns) * weight / kUnitWeight),
                                 1);
}

}  // namespace

std::int64_t EarliestDeadline::budget_of(const Account& account) const {
  return static_cast<std::int64_t>(times_weight(quantum_ns_, weight_of(account.terms)));
}

void EarliestDeadline::arrived(Account& account, std::uint64_t now_ns) {
  // Under overload deadlines lie in the past. Whoever comes then lines up with the others, not behind them.
  std::uint64_t present = now_ns;
  for (const auto& [id, other] : accounts()) {
    if (other.backlogged) present = std::min(present, other.deadline_ns);
  }
  const std::int64_t whole = budget_of(account);
  const std::uint64_t period = account.terms.deadline_ns;
  // What is left of the old budget may be used until the old deadline if that is no more than its bandwidth.
  const bool keeps_deadline =
      account.deadline_ns > present && account.budget_ns > 0 &&
      static_cast<double>(account.budget_ns) * static_cast<double>(period) <
          static_cast<double>(account.deadline_ns - present) * static_cast<double>(whole);
  if (keeps_deadline) return;
  account.deadline_ns = present + period;
  account.budget_ns = whole;
}

void EarliestDeadline::used(Account& account, std::uint64_t ns) {
  account.budget_ns -= static_cast<std::int64_t>(ns);
  const std::int64_t whole = budget_of(account);
  if (account.budget_ns > 0) return;
  const std::int64_t times = -account.budget_ns / whole + 1;
  account.budget_ns += times * whole;
  account.deadline_ns += static_cast<std::uint64_t>(times) * account.terms.deadline_ns;
}

std::uint64_t TimeSlices::slice_of(const Account& account) const {
  // Parts of a weight below 1 have its turns, less often: shorter ones would be spent on changing contexts.
  return times_weight(slice_ns_, std::max(weight_of(account.terms), 1.0));
}

void TimeSlices::arrived(Account& account, std::uint64_t now_ns) {
  // Idleness is not saved up; a short lag behind the others is made up for.
  double present = account.clock;
  bool found = false;
  for (const auto& [id, other] : accounts()) {
    if (!other.backlogged) continue;
    present = found ? std::min(present, other.clock) : other.clock;
    found = true;
  }
  if (!found) return;
  const bool paused = account.last_busy_ns != 0 && now_ns - account.last_busy_ns <= idle_after_ns_;
  const double lag = paused ? kMostLagSlices * static_cast<double>(slice_ns_) : 0;
  account.clock = std::max(account.clock, present - lag);
}

void TimeSlices::used(Account& account, std::uint64_t ns) {
  account.clock += static_cast<double>(ns) * kUnitWeight / weight_of(account.terms);
}

std::uint64_t TimeSlices::remaining(const Account& holder) const {
  const std::uint64_t slice = slice_of(holder);
  return holder.turn_used_ns < slice ? slice - holder.turn_used_ns : 0;
}

}  // namespace vgpu::daemon
