#include "daemon/scheduler/strict_priority.hpp"

#include <algorithm>

namespace vgpu::daemon {

namespace {

Anticipation::Options anticipation(const StrictPriority::Options& options) {
  Anticipation::Options made;
  made.enabled = options.anticipate && options.linger_ns != 0;
  made.most_idle_ns = options.linger_ns;
  return made;
}

}  // namespace

StrictPriority::StrictPriority(const Options& options, const Make& make)
    : options_(options), anticipation_(anticipation(options)) {
  for (Level& level : levels_) level.policy = make();
}

void StrictPriority::add(ClientId client, const Terms& terms, std::uint64_t consumed_ns) {
  Account account;
  account.terms = terms;
  account.terms.level = std::min(terms.level, kLevels - 1);
  account.consumed_ns = consumed_ns;
  accounts_[client] = account;
  Level& level = levels_[account.terms.level];
  level.policy->add(client, account.terms, consumed_ns);
  anticipation_.add(client, account.terms.level);
  ++level.clients;
}

void StrictPriority::remove(ClientId client) {
  const auto found = accounts_.find(client);
  if (found == accounts_.end()) return;
  Level& level = levels_[found->second.terms.level];
  level.policy->remove(client);
  anticipation_.remove(client);
  --level.clients;
  if (aged_.client == client) aged_turn_ = false;
  accounts_.erase(found);
}

void StrictPriority::set_terms(ClientId client, const Terms& terms) {
  const auto found = accounts_.find(client);
  if (found == accounts_.end()) return;
  if (std::min(terms.level, kLevels - 1) == found->second.terms.level) {
    found->second.terms = terms;
    levels_[found->second.terms.level].policy->set_terms(client, terms);
    return;
  }
  const std::uint64_t consumed = found->second.consumed_ns;
  remove(client);
  add(client, terms, consumed);
}

void StrictPriority::note(const Usage& usage, std::uint64_t now_ns) {
  const auto found = accounts_.find(usage.client);
  if (found == accounts_.end()) return;
  Account& account = found->second;
  Level& level = levels_[account.terms.level];
  level.usage.push_back(usage);
  level.usage.back().served = account.granted;
  anticipation_.note(usage, now_ns);
  if (usage.backlogged || usage.in_flight) {
    level.backlogged = level.was_busy = true;
    level.last_busy_ns = now_ns;
  } else if (const std::uint64_t ended = std::min(usage.ended_ns, now_ns); ended > level.last_busy_ns) {
    // Since the last look.
    level.was_busy = true;
    level.last_busy_ns = ended;
  }
  const bool served = usage.consumed_ns > account.consumed_ns;
  account.consumed_ns = std::max(account.consumed_ns, usage.consumed_ns);
  if (!usage.backlogged) {
    account.waiting = false;
  } else if (served || !account.waiting) {
    account.waiting = true;
    account.waits_since_ns = now_ns;
  }
}

unsigned StrictPriority::top_level(std::uint64_t now_ns) {
  for (unsigned i = 0; i < kLevels; ++i) {
    Level& level = levels_[i];
    if (level.backlogged) return i;
    if (!level.was_busy) continue;
    const std::uint64_t idle_ns = now_ns - level.last_busy_ns;
    if (idle_ns < options_.linger_ns) {
      look_again_ns_ = options_.linger_ns - idle_ns;
      return i;
    }
    level.was_busy = false;
  }
  return kLevels;
}

void StrictPriority::begin_aged_turn(std::uint64_t now_ns, unsigned top) {
  if (options_.aging_ns == 0) return;
  const Account* oldest = nullptr;
  for (const auto& [id, account] : accounts_) {
    if (account.terms.level <= top || !account.waiting) continue;
    if (now_ns - account.waits_since_ns < options_.aging_ns) continue;
    if (oldest != nullptr && account.waits_since_ns >= oldest->waits_since_ns) continue;
    oldest = &account;
    aged_ = {id, account.consumed_ns + options_.turn_ns};
    aged_turn_ = true;
  }
}

std::vector<Grant> StrictPriority::update(std::uint64_t now_ns, std::span<const Usage> usage) {
  for (Level& level : levels_) {
    level.usage.clear();
    level.backlogged = false;
  }
  for (const Usage& one : usage) note(one, now_ns);
  look_again_ns_ = kUnlimited;
  const unsigned busiest = top_level(now_ns);
  const unsigned top = anticipation_.top_level(now_ns, busiest);
  look_again_ns_ = std::min(look_again_ns_, anticipation_.look_again_ns());

  if (aged_turn_) {
    const Account& account = accounts_.at(aged_.client);
    // Over: it has had its turn, has no more work, or may run as everybody of its level does.
    aged_turn_ =
        account.consumed_ns < aged_.until_consumed_ns && account.waiting && account.terms.level > top;
  }
  if (!aged_turn_) begin_aged_turn(now_ns, top);

  std::array<std::vector<Grant>, kLevels> inner;
  std::array<std::size_t, kLevels> taken{};
  for (unsigned i = 0; i < kLevels; ++i) {
    if (levels_[i].clients == 0) continue;
    inner[i] = levels_[i].policy->update(now_ns, levels_[i].usage);
    if (i <= top) look_again_ns_ = std::min(look_again_ns_, levels_[i].policy->look_again_ns());
  }
  std::vector<Grant> grants;
  grants.reserve(usage.size());
  for (const Usage& one : usage) {
    const auto found = accounts_.find(one.client);
    if (found == accounts_.end()) {
      grants.push_back({one.client, kUnlimited, false});
      continue;
    }
    const unsigned level = found->second.terms.level;
    Grant grant = inner[level][taken[level]++];
    if (aged_turn_) {
      const bool its = one.client == aged_.client;
      grant = {one.client, its ? aged_.until_consumed_ns - found->second.consumed_ns : 0, true};
    } else if (level > top) {
      grant = {one.client, 0, true};
      grant.tell = anticipation_.holds();
    }
    for (unsigned above = 0; above < level; ++above) {
      const Level& higher = levels_[above];
      if (higher.clients == 0) continue;
      grant.bounded = true;
      grant.brief = grant.brief || (higher.last_busy_ns != 0 && now_ns - higher.last_busy_ns < kPresenceNs);
    }
    found->second.granted = grant.more_ns > 0;
    grants.push_back(grant);
  }
  return grants;
}

std::size_t StrictPriority::active() const {
  std::size_t sum = 0;
  for (const Level& level : levels_) sum += level.clients > 0 ? level.policy->active() : 0;
  return sum;
}

}  // namespace vgpu::daemon
