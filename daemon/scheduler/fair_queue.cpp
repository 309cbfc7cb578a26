#include "daemon/scheduler/fair_queue.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace vgpu::daemon {
namespace {

// How many quanta a client may lag behind the present and still catch up: bounds the burst that follows a
// stall.
constexpr double kMostLagQuanta = 4;

}  // namespace

FairQueue::FairQueue(std::uint64_t quantum_ns, std::uint64_t idle_after_ns)
    : quantum_(static_cast<double>(quantum_ns)), idle_after_ns_(idle_after_ns) {}

void FairQueue::add(ClientId client, const Terms& terms, std::uint64_t consumed_ns) {
  Account account;
  account.weight = std::max(terms.weight, kLeastWeight);
  account.consumed_ns = consumed_ns;
  account.clock = present_;
  accounts_[client] = account;
}

void FairQueue::remove(ClientId client) {
  accounts_.erase(client);
}

void FairQueue::set_terms(ClientId client, const Terms& terms) {
  const auto found = accounts_.find(client);
  if (found != accounts_.end()) found->second.weight = std::max(terms.weight, kLeastWeight);
}

void FairQueue::charge(Account& account, const Usage& usage, std::uint64_t now_ns) {
  // A counter that went back is a lie or a fault of the worker: it earns nothing.
  const std::uint64_t used = std::max(usage.consumed_ns, account.consumed_ns) - account.consumed_ns;
  account.consumed_ns += used;
  account.clock += static_cast<double>(used) * kUnitWeight / account.weight;
  account.backlogged = usage.backlogged;
  if (usage.backlogged || used > 0) {
    if (!account.active) account.clock = std::max(account.clock, present_);
    account.active = true;
    account.last_busy_ns = now_ns;
  } else if (now_ns - account.last_busy_ns > idle_after_ns_) {
    account.active = false;
  }
}

double FairQueue::slowest(bool only_backlogged) const {
  double result = std::numeric_limits<double>::infinity();
  for (const auto& [id, account] : accounts_) {
    if (account.active && (account.backlogged || !only_backlogged)) result = std::min(result, account.clock);
  }
  return result;
}

bool FairQueue::someone_may_run(double floor) const {
  return std::any_of(accounts_.begin(), accounts_.end(), [&](const auto& entry) {
    return entry.second.backlogged && entry.second.clock < floor + quantum_;
  });
}

std::vector<Grant> FairQueue::update(std::uint64_t now_ns, std::span<const Usage> usage) {
  // What those have used who were here already, they used before the others came, who start at the present.
  std::vector<const Usage*> others;
  for (const Usage& one : usage) {
    const auto found = accounts_.find(one.client);
    if (found == accounts_.end()) continue;
    if (found->second.active) {
      charge(found->second, one, now_ns);
    } else {
      others.push_back(&one);
    }
  }
  if (const double floor = slowest(false); !std::isinf(floor)) present_ = std::max(present_, floor);
  for (const Usage* one : others) charge(accounts_.at(one->client), *one, now_ns);
  active_ = static_cast<std::size_t>(std::count_if(accounts_.begin(), accounts_.end(),
                                                   [](const auto& entry) { return entry.second.active; }));

  double floor = slowest(false);
  // Never let the device stand idle for a client that is between two commands.
  if (active_ > 0 && !someone_may_run(floor)) {
    const double busy_floor = slowest(true);
    if (busy_floor < std::numeric_limits<double>::infinity()) floor = busy_floor;
  }
  if (active_ > 0) {
    present_ = std::max(present_, floor);
    for (auto& [id, account] : accounts_) {
      if (account.active) account.clock = std::max(account.clock, present_ - kMostLagQuanta * quantum_);
    }
  }

  std::vector<Grant> grants;
  grants.reserve(usage.size());
  for (const Usage& one : usage) {
    Grant grant{one.client, kUnlimited, false};
    const auto found = accounts_.find(one.client);
    if (found != accounts_.end()) {
      const Account& account = found->second;
      const bool alone = active_ == 0 || (active_ == 1 && account.active) || accounts_.size() == 1;
      if (!alone) {
        // An idle client may start at once, with one quantum; the next update sees it.
        const double lead = account.active ? floor + quantum_ - account.clock : quantum_;
        // Who may run may use something, however small its weight.
        if (lead <= 0) {
          grant.more_ns = 0;
        } else {
          grant.more_ns =
              std::max<std::uint64_t>(static_cast<std::uint64_t>(lead * account.weight / kUnitWeight), 1);
        }
      }
      // Whoever paused for a moment must not find all that the other ones had queued on the device.
      grant.bounded = !alone || others_expected(accounts_, one.client, now_ns);
    }
    grants.push_back(grant);
  }
  return grants;
}

}  // namespace vgpu::daemon
