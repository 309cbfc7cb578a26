#include "daemon/scheduler/anticipation.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace vgpu::daemon {

void Anticipation::add(ClientId client, unsigned level) {
  Arrivals::Rules rules;
  rules.least_pause_ns = options_.most_idle_ns;
  rules.most_spread_ns = options_.most_idle_ns * 3 / 4;
  accounts_.insert_or_assign(client, Account{level, Arrivals(rules)});
  ++clients_[level];
}

void Anticipation::remove(ClientId client) {
  const auto found = accounts_.find(client);
  if (found == accounts_.end()) return;
  if (held_for_ == &found->second) held_for_ = nullptr;
  --clients_[found->second.level];
  accounts_.erase(found);
}

void Anticipation::note(const Usage& usage, std::uint64_t now_ns) {
  if (!options_.enabled) return;
  const auto found = accounts_.find(usage.client);
  if (found == accounts_.end()) return;
  Account& account = found->second;
  const bool working = usage.backlogged || usage.in_flight;
  // What a worker says of the future is not believed.
  account.arrivals.note(std::min(usage.came_ns, now_ns), std::min(usage.ended_ns, now_ns), working);
  if (usage.in_flight) seen_.in_flight_ns[account.level] += usage.in_flight_ns;
  seen_.on_device = seen_.on_device || usage.in_flight;
  seen_.wanted = seen_.wanted || working;
  seen_.moved = seen_.moved || usage.consumed_ns > account.consumed_ns;
  account.consumed_ns = std::max(account.consumed_ns, usage.consumed_ns);
}

Anticipation::Account* Anticipation::next_above(std::uint64_t now_ns, unsigned top) {
  const auto lowest = std::find_if(clients_.rbegin(), clients_.rend(), [](std::size_t n) { return n != 0; });
  // Nobody has to make room for others of its level.
  top = std::min(top, static_cast<unsigned>(std::distance(lowest, clients_.rend())) - 1);
  Account* first = nullptr;
  for (auto& [client, account] : accounts_) {
    if (account.level >= top || !account.arrivals.next()) continue;
    if (now_ns >= account.arrivals.next()->late_ns + options_.margin_ns) {
      account.arrivals.missed();
    } else if (first == nullptr || account.arrivals.next()->early_ns < first->arrivals.next()->early_ns) {
      first = &account;
    }
  }
  return first;
}

std::uint64_t Anticipation::flight_ns() const {
  return *std::max_element(flights_.begin(), flights_.end());
}

void Anticipation::settle(std::uint64_t now_ns) {
  const auto elapsed = static_cast<double>(now_ns - std::exchange(last_ns_, now_ns));
  if (last_top_ != 0) credit_ns_ += options_.share * elapsed;
  if (held_for_ != nullptr && still_since_ns_ != 0) credit_ns_ -= elapsed;
  credit_ns_ = std::min(credit_ns_, static_cast<double>(options_.saved_ns));
  if (!seen_.wanted || seen_.on_device || seen_.moved) still_since_ns_ = 0;
  if (seen_.wanted && !seen_.on_device && still_since_ns_ == 0) still_since_ns_ = now_ns;
}

unsigned Anticipation::top_level(std::uint64_t now_ns, unsigned top) {
  if (!options_.enabled) return top;
  settle(now_ns);
  const Seen seen = std::exchange(seen_, {});
  const Account* const held_before = std::exchange(held_for_, nullptr);
  last_top_ = top;
  look_again_ns_ = kUnlimited;
  Account* const first = next_above(now_ns, top);
  const unsigned level = first != nullptr ? first->level : 0;
  const std::uint64_t flight =
      std::accumulate(seen.in_flight_ns.begin() + level + 1, seen.in_flight_ns.end(), std::uint64_t{0});
  if (flight != 0) {
    flights_[next_flight_] = flight;
    next_flight_ = (next_flight_ + 1) % flights_.size();
  }
  if (first == nullptr) return top;

  const Arrivals::Expected& expected = *first->arrivals.next();
  const std::uint64_t ahead = flight_ns() + options_.margin_ns;
  const std::uint64_t spread = expected.high_ns - expected.early_ns;
  // To give up just before it comes is worse than not to begin: then a whole piece of work is before it.
  if (ahead * 3 / 4 + spread > options_.most_idle_ns) return top;
  const std::uint64_t from = expected.early_ns - std::min(expected.early_ns, ahead);
  if (now_ns < from) {
    look_again_ns_ = from - now_ns;
    return top;
  }
  const bool began = held_before == first;
  // On average the work in flight ends in the middle of the time ahead.
  const std::uint64_t price = ahead / 2 + spread + options_.margin_ns;
  if (!began && credit_ns_ < static_cast<double>(price)) return top;
  std::uint64_t until = expected.late_ns + options_.margin_ns;
  if (still_since_ns_ != 0) until = std::min(until, still_since_ns_ + options_.most_idle_ns);
  if (now_ns >= until) {
    if (began) first->arrivals.missed();
    return top;
  }
  // The device stands still a little longer than anybody sees.
  if (!began) credit_ns_ -= static_cast<double>(options_.margin_ns);
  held_for_ = first;
  look_again_ns_ = until - now_ns;
  return level;
}

}  // namespace vgpu::daemon
