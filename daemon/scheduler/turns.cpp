#include "daemon/scheduler/turns.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

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
    if (other.backlogged) present = std::min(present, deadline_of(other));
  }
  const std::int64_t whole = budget_of(account);
  const std::uint64_t deadline = deadline_of(account);
  // What is left of the old budget may be used until the old deadline if that is no more than its bandwidth.
  const bool keeps_deadline =
      deadline > present && account.budget_ns > 0 &&
      static_cast<double>(account.budget_ns) * static_cast<double>(account.terms.deadline_ns) <
          static_cast<double>(deadline - present) * static_cast<double>(whole);
  if (keeps_deadline) return;
  account.since_ns = present;
  account.budget_ns = whole;
}

void EarliestDeadline::used(Account& account, std::uint64_t ns, std::uint64_t now_ns) {
  account.budget_ns -= static_cast<std::int64_t>(ns);
  const std::int64_t whole = budget_of(account);
  if (account.budget_ns > 0) return;
  const std::int64_t times = -account.budget_ns / whole + 1;
  account.budget_ns += times * whole;
  account.since_ns += static_cast<std::uint64_t>(times) * account.terms.deadline_ns;

  // When all who have work are ahead of the clock, they have used what nobody else wanted. All go back
  // together: what one has had more than another it still owes.
  std::uint64_t least = account.since_ns;
  for (const auto& [id, other] : accounts()) {
    if (other.backlogged) least = std::min(least, other.since_ns);
  }
  if (least <= now_ns) return;
  const std::uint64_t ahead = least - now_ns;
  for (auto& [id, other] : accounts()) other.since_ns -= std::min(other.since_ns, ahead);
}

std::uint64_t TimeSlices::slice_of(const Account& account) const {
  // Parts of a weight below 1 have its turns, less often: shorter ones would be spent on changing contexts.
  return times_weight(slice_ns_, std::max(weight_of(account.terms), 1.0));
}

void TimeSlices::arrived(Account& account, std::uint64_t now_ns) {
  // Idleness is not saved up; a short lag behind the others is made up for. Where all others pause at this
  // moment, the present is where they left it.
  double least = std::numeric_limits<double>::infinity();
  for (const auto& [id, other] : accounts()) {
    if (other.backlogged) least = std::min(least, other.clock);
  }
  const double present = std::isinf(least) ? present_ : least;
  const bool paused = account.last_busy_ns != 0 && now_ns - account.last_busy_ns <= idle_after_ns_;
  const double lag = paused ? kMostLagSlices * static_cast<double>(slice_ns_) : 0;
  account.clock = std::max(account.clock, present - lag);
}

void TimeSlices::used(Account& account, std::uint64_t ns, std::uint64_t) {
  account.clock += static_cast<double>(ns) * kUnitWeight / weight_of(account.terms);
  present_ = account.clock;
  for (const auto& [id, other] : accounts()) {
    if (other.backlogged) present_ = std::min(present_, other.clock);
  }
}

std::uint64_t TimeSlices::remaining(const Account& holder) const {
  const std::uint64_t slice = slice_of(holder);
  return holder.turn_used_ns < slice ? slice - holder.turn_used_ns : 0;
}

}  // namespace vgpu::daemon
