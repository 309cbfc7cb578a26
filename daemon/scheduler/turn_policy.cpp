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

void TurnPolicy::charge(Account& account, const Usage& usage, std::uint64_t now_ns) {
  // A counter that went back is a lie or a fault of the worker: it earns nothing.
  const std::uint64_t more = std::max(usage.consumed_ns, account.consumed_ns) - account.consumed_ns;
  account.consumed_ns += more;
  const bool busy = usage.backlogged || usage.in_flight;
  if (busy && !account.backlogged) {
    // A pause that kept the turn is no new arrival.
    if (!held_ || holder_ != account.client) account.arrived_ns = now_ns;
    arrived(account, now_ns);
  }
  if (busy) account.last_busy_ns = now_ns;
  account.backlogged = busy;
  account.in_flight = usage.in_flight;
  if (more > 0) {
    account.turn_used_ns += more;
    used(account, more);
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

bool TurnPolicy::pass_on(std::uint64_t now_ns) {
  look_again_ns_ = kUnlimited;
  Account* const waiting = next();
  if (held_) {
    Account& holder = accounts_.at(holder_);
    if (waiting == nullptr) return true;
    const std::uint64_t idle_ns = holder.backlogged ? 0 : now_ns - holder.last_busy_ns;
    if (idle_ns < linger_ns_ || holder.backlogged) {
      if (keeps(holder, *waiting, now_ns)) {
        if (!holder.backlogged) look_again_ns_ = linger_ns_ - idle_ns;
        return true;
      }
      if (exclusive_ && holder.in_flight) return false;
    }
    if (holder.backlogged) turn_ended(holder, now_ns);
    held_ = false;
  }
  Account* const chosen = next();
  if (chosen == nullptr) return true;
  held_ = true;
  holder_ = chosen->client;
  chosen->turn_used_ns = 0;
  return true;
}

std::vector<Grant> TurnPolicy::update(std::uint64_t now_ns, std::span<const Usage> usage) {
  for (const Usage& one : usage) {
    const auto found = accounts_.find(one.client);
    if (found != accounts_.end()) charge(found->second, one, now_ns);
  }
  active_ = static_cast<std::size_t>(std::count_if(
      accounts_.begin(), accounts_.end(), [](const auto& entry) { return entry.second.backlogged; }));
  const bool may_run = pass_on(now_ns);
  const bool waited_for = held_ && active_ > (accounts_.at(holder_).backlogged ? 1U : 0U);

  std::vector<Grant> grants;
  grants.reserve(usage.size());
  for (const Usage& one : usage) {
    Grant grant{one.client, 0, true};
    if (accounts_.size() == 1) {
      grant = {one.client, kUnlimited, false};
    } else if (may_run && held_ && one.client == holder_) {
      grant.more_ns = waited_for ? remaining(accounts_.at(holder_)) : kUnlimited;
    }
    grants.push_back(grant);
  }
  return grants;
}

}  // namespace vgpu::daemon
