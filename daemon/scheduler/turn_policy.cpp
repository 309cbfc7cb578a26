#include "daemon/scheduler/turn_policy.hpp"

#include <algorithm>

namespace vgpu::daemon {
void TurnPolicy::add(ClientId client, const Terms& terms, std::uint64_t consumed_ns) {
  Account account;
  account.client = client;
  account.terms = terms;
  account.consumed_ns = consumed_ns;
  accounts_[client] = account;
}

void TurnPolicy::remove(ClientId client) {
  if (held_ && holder_ == client) held_ = false;
  accounts_.erase(client);
}

void TurnPolicy::set_terms(ClientId client, const Terms& terms) {
  if (const auto found = accounts_.find(client); found != accounts_.end()) found->second.terms = terms;
}

bool TurnPolicy::on_device(const Account& account) const {
  return account.owes_ns != 0 || (held_ && holder_ == account.client && account.backlogged);
}

std::uint64_t TurnPolicy::held_ns(Account& account, const Usage& usage, std::uint64_t now_ns) {
  // As it was until now: `usage` says how it is from now on.
  if (!on_device(account) || (!usage.served && !account.in_flight)) return 0;
  const std::uint64_t elapsed = (now_ns - updated_ns_) / std::max<std::size_t>(together_, 1);
  if (account.owes_ns != 0) {
    const std::uint64_t part = std::min(elapsed, account.owes_ns);
    account.owes_ns -= part;
    return part;
  }
  const std::uint64_t paid = std::min(elapsed, paid_ns_);
  paid_ns_ -= paid;
  return elapsed - paid;
}

void TurnPolicy::charge(Account& account, const Usage& usage, std::uint64_t now_ns) {
  // A counter that went back is a lie or a fault of the worker: it earns nothing.
  const std::uint64_t measured = std::max(usage.consumed_ns, account.consumed_ns) - account.consumed_ns;
  account.consumed_ns += measured;
  const std::uint64_t more = rules_.by_clock ? held_ns(account, usage, now_ns) : measured;
  const bool busy = usage.backlogged || usage.in_flight;
  if ((busy || more > 0) && !account.backlogged) {
    // A pause that kept the turn is no new arrival.
    if (busy && (!held_ || holder_ != account.client)) account.arrived_ns = now_ns;
    arrived(account, now_ns);
  }
  if (busy) account.last_busy_ns = now_ns;
  account.backlogged = busy;
  account.in_flight = usage.in_flight;
  account.in_flight_ns = usage.in_flight_ns;
  if (!usage.in_flight) account.owes_ns = 0;
  if (more > 0) {
    account.turn_used_ns += more;
    used(account, more, now_ns);
  }
}

TurnPolicy::Account* TurnPolicy::next() {
  Account* best = nullptr;
  for (auto& [id, account] : accounts_) {
    if (!account.backlogged || (held_ && id == holder_)) continue;
    if (best == nullptr || before(account, *best)) best = &account;
  }
  return best;
}

bool TurnPolicy::waits_for_end(const Account& holder, std::uint64_t now_ns) {
  if (!holder.in_flight || (rules_.lead_ns != 0 && holder.in_flight_ns <= rules_.lead_ns)) return false;
  if (over_ns_ < began_ns_) over_ns_ = now_ns;
  const std::uint64_t waited = now_ns - over_ns_;
  if (waited >= rules_.most_wait_ns) return false;
  if (rules_.lead_ns != 0) {
    look_again_ns_ = std::min(holder.in_flight_ns - rules_.lead_ns, rules_.most_wait_ns - waited);
  }
  return true;
}

bool TurnPolicy::pass_on(std::uint64_t now_ns) {
  look_again_ns_ = kUnlimited;
  Account* const waiting = next();
  if (held_) {
    Account& holder = accounts_.at(holder_);
    if (waiting == nullptr) return true;
    const std::uint64_t idle_ns = holder.backlogged ? 0 : now_ns - holder.last_busy_ns;
    if (idle_ns < rules_.linger_ns || holder.backlogged) {
      if (keeps(holder, *waiting, now_ns)) {
        if (!holder.backlogged) look_again_ns_ = rules_.linger_ns - idle_ns;
        if (is_new(*waiting) && holder.turn_used_ns < rules_.least_ns && rules_.least_ns != kUnlimited) {
          look_again_ns_ = std::min(look_again_ns_, rules_.least_ns - holder.turn_used_ns);
        }
        return true;
      }
      if (rules_.exclusive && waits_for_end(holder, now_ns)) return false;
    }
    if (holder.backlogged) turn_ended(holder, now_ns);
    paid_ns_ = 0;
    if (rules_.by_clock && holder.in_flight) {
      if (holder.in_flight_ns > rules_.lead_ns) {
        holder.owes_ns = holder.in_flight_ns;
      } else {
        paid_ns_ = holder.in_flight_ns;
        used(holder, paid_ns_, now_ns);
      }
    }
    held_ = false;
  }
  Account* const chosen = next();
  if (chosen == nullptr) return true;
  held_ = true;
  holder_ = chosen->client;
  began_ns_ = now_ns;
  chosen->turn_used_ns = 0;
  chosen->owes_ns = 0;
  return true;
}

std::vector<Grant> TurnPolicy::update(std::uint64_t now_ns, std::span<const Usage> usage) {
  together_ = static_cast<std::size_t>(std::count_if(
      accounts_.begin(), accounts_.end(), [this](const auto& entry) { return on_device(entry.second); }));
  // What those have used who had work already, they used before the others came.
  std::vector<const Usage*> others;
  for (const Usage& one : usage) {
    const auto found = accounts_.find(one.client);
    if (found == accounts_.end()) continue;
    if (found->second.backlogged) {
      charge(found->second, one, now_ns);
    } else {
      others.push_back(&one);
    }
  }
  for (const Usage* one : others) charge(accounts_.at(one->client), *one, now_ns);
  updated_ns_ = now_ns;
  active_ = static_cast<std::size_t>(std::count_if(
      accounts_.begin(), accounts_.end(), [](const auto& entry) { return entry.second.backlogged; }));
  const bool may_run = pass_on(now_ns);
  const bool waited_for = held_ && active_ > (accounts_.at(holder_).backlogged ? 1U : 0U);
  if (rules_.by_clock && waited_for && may_run) {
    const std::uint64_t left = remaining(accounts_.at(holder_));
    look_again_ns_ = std::min(look_again_ns_, left - std::min(left, rules_.lead_ns));
  }

  std::vector<Grant> grants;
  grants.reserve(usage.size());
  for (const Usage& one : usage) {
    Grant grant{one.client, 0, true};
    if (accounts_.size() == 1) {
      grant = {one.client, kUnlimited, false};
    } else if (may_run && held_ && one.client == holder_) {
      grant.more_ns = waited_for ? remaining(accounts_.at(holder_)) : kUnlimited;
      grant.bounded = waited_for || others_expected(accounts_, holder_, now_ns);
    }
    grants.push_back(grant);
  }
  return grants;
}

}  // namespace vgpu::daemon
