#include "daemon/scheduler/residence_keeper.hpp"

#include <algorithm>
#include <climits>
#include <utility>

#include "protocol/futex.hpp"

namespace vgpu::daemon {
namespace {

constexpr std::uint64_t kLookAgainNs = 20'000'000;
// Who could not obey is asked again after twice as long each time, up to a bound. Workers hold their client's
// calls back for a quarter of that each time.
constexpr std::uint64_t kFirstPauseNs = 400'000'000;
constexpr unsigned kLongestPause = 6;  // doublings
// What a worker says of its own moves is not believed beyond that.
constexpr std::uint64_t kLongestMoveNs = 60'000'000'000;
// More than was asked for, while there is plenty: not every allocation has to ask.
constexpr std::uint64_t kSlack = 16;  // a part of the device

}  // namespace

ResidenceKeeper::~ResidenceKeeper() {
  loop_.cancel(timer_);
}

void ResidenceKeeper::set_device(std::uint64_t bytes, std::uint64_t context_bytes,
                                 std::function<unsigned()> workers) {
  device_bytes_ = bytes;
  context_bytes_ = context_bytes;
  workers_ = std::move(workers);
}

std::uint64_t ResidenceKeeper::capacity() const {
  const std::uint64_t contexts = context_bytes_ * (workers_ ? workers_() : 0);
  return device_bytes_ > contexts ? device_bytes_ - contexts : 0;
}

void ResidenceKeeper::add(ClientId client, unsigned level, std::shared_ptr<GateMapping> gate) {
  const std::uint64_t now = now_ns();
  Entry entry;
  const GatePage& page = gate->page();
  entry.gate = std::move(gate);
  entry.tenant.client = client;
  entry.tenant.level = level;
  entry.tenant.since_ns = entry.tenant.busy_ns = now;
  // What an earlier vgpud had said, the worker may have written over: it is bounded as every claim is.
  entry.tenant.granted = std::min(page.memory_granted.load(), device_bytes_);
  entry.tenant.out = page.memory_out.load() != 0;
  if (entry.tenant.out) entry.tenant.movable = std::min(page.memory_moved.load(), device_bytes_);
  entry.order = page.memory_order.load();
  entry.tenant.ordered =
      page.memory_obeyed.load() != entry.order && page.memory_excused.load() != entry.order;
  if (page.moves_out.load() != 0) {
    entry.stored = std::max(entry.tenant.movable, std::min(page.memory_claim.load(), device_bytes_));
  }
  entries_[client] = std::move(entry);
  look();
}

void ResidenceKeeper::remove(ClientId client) {
  if (entries_.erase(client) == 0) return;
  ++moves_;  // its memory is free, which may be what somebody found missing
  look();
  tell_host_bytes();
}

void ResidenceKeeper::set_level(ClientId client, unsigned level) {
  if (const auto found = entries_.find(client); found != entries_.end()) found->second.tenant.level = level;
}

void ResidenceKeeper::say(GatePage& page) {
  page.memory_turn.fetch_add(1);
  futex_wake(page.memory_turn, INT_MAX);
}

void ResidenceKeeper::read_figures(Entry& entry, std::uint64_t now) {
  const GatePage& page = entry.gate->page();
  Tenant& tenant = entry.tenant;
  if (page.memory_movable.load(std::memory_order_relaxed) == 0) {
    // It allocates as it likes: nothing of it can be moved, and it asks nobody.
    tenant.granted = tenant.fixed = entry.claim = page.memory_used.load(std::memory_order_relaxed);
    return;
  }
  entry.claim = std::min(page.memory_claim.load(), tenant.granted);
  tenant.fixed = std::min(page.memory_fixed.load(), entry.claim);
  // What leaves is free at once, part by part.
  if (tenant.ordered && page.memory_out.load() != 0) tenant.granted = entry.claim;
  if (!tenant.out && !tenant.ordered) {
    tenant.movable = entry.claim - tenant.fixed;
  } else {
    // It may free what it holds; it cannot get more meanwhile.
    const std::uint64_t moved = std::min(page.memory_moved.load(), tenant.movable);
    tenant.movable = std::min(tenant.movable, entry.claim - tenant.fixed + moved);
  }
  const std::uint64_t records = page.records.load(std::memory_order_relaxed);
  if (records != entry.records || page.backlogged.load(std::memory_order_relaxed) != 0 ||
      page.in_flight.load(std::memory_order_relaxed) != 0) {
    tenant.busy_ns = now;
  }
  entry.records = records;
  tenant.move_ns = std::min(page.last_move_out_ns.load(std::memory_order_relaxed), kLongestMoveNs) +
                   std::min(page.last_move_in_ns.load(std::memory_order_relaxed), kLongestMoveNs);
}

void ResidenceKeeper::read_order(Entry& entry, std::uint64_t now) {
  GatePage& page = entry.gate->page();
  Tenant& tenant = entry.tenant;
  if (tenant.ordered && page.memory_obeyed.load() == entry.order) {
    tenant.ordered = false;
    tenant.out = true;
    entry.stored = std::max(entry.stored, tenant.movable);
    tenant.granted = std::min(tenant.granted, page.memory_fixed.load());
    page.memory_granted.store(tenant.granted);
    entry.excuses = 0;
    ++moves_;
  } else if (tenant.ordered && page.memory_excused.load() == entry.order) {
    tenant.ordered = false;
    tenant.out = page.memory_out.load() != 0;  // a part of it, if it failed on the way
    tenant.not_before_ns = now + (kFirstPauseNs << std::min<std::uint64_t>(entry.excuses++, kLongestPause));
  }
  if (tenant.out && !tenant.ordered && page.memory_out.load() == 0) {
    tenant.out = tenant.arriving = false;
    if (page.memory_keep.load(std::memory_order_relaxed) == 0) entry.stored = 0;
    tenant.since_ns = tenant.busy_ns = now;
  }
}

void ResidenceKeeper::read(Entry& entry, std::uint64_t now) {
  read_order(entry, now);
  read_figures(entry, now);
  const GatePage& page = entry.gate->page();
  Tenant& tenant = entry.tenant;
  const std::uint64_t request = page.memory_request.load();
  tenant.asks = page.memory_movable.load(std::memory_order_relaxed) != 0 && page.memory_wanted.load() != 0 &&
                request != page.memory_answered.load() && request != page.memory_refused.load();
  if (!tenant.asks) return;
  if (request != entry.request) {
    entry.request = request;
    entry.moves_seen = moves_;
    // Who asks again because it was short keeps its place.
    if (page.memory_short.load() == 0 || tenant.asked_ns == 0) tenant.asked_ns = now;
  }
  tenant.wanted = page.memory_wanted.load();
  tenant.wanted_fixed = std::min(page.memory_wanted_fixed.load(), tenant.wanted);
  // Once somebody has made room, another try is due.
  tenant.short_of = page.memory_short.load() != 0 && entry.moves_seen == moves_;
}

// Takes back what was granted and is not used. The worker first raises its claim and then looks at what it
// was granted, this looks at the claim again: at least one of the two sees the other.
void ResidenceKeeper::tighten(Entry& entry) {
  Tenant& tenant = entry.tenant;
  GatePage& page = entry.gate->page();
  if (page.memory_movable.load(std::memory_order_relaxed) == 0 || tenant.out || tenant.ordered) return;
  const std::uint64_t before = tenant.granted;
  if (entry.claim >= before) return;
  page.memory_granted.store(entry.claim);
  const std::uint64_t again = std::min(page.memory_claim.load(), before);
  if (again > entry.claim) page.memory_granted.store(again);
  tenant.granted = std::max(entry.claim, again);
}

std::vector<Tenant> ResidenceKeeper::tenants() const {
  std::vector<Tenant> all;
  all.reserve(entries_.size());
  for (const auto& [client, entry] : entries_) all.push_back(entry.tenant);
  return all;
}

void ResidenceKeeper::open() {
  open_ = true;
  look();
}

void ResidenceKeeper::look() {
  if (entries_.empty() || !open_) return;
  const std::uint64_t now = now_ns();
  std::size_t waiting = 0;
  for (auto& [client, entry] : entries_) {
    read(entry, now);
    if (entry.tenant.asks) ++waiting;
  }
  if (waiting != 0) {
    for (auto& [client, entry] : entries_) tighten(entry);
    const ResidencePlan plan = plan_residence(now, capacity(), options_, tenants());
    apply(plan, now);
    waiting = static_cast<std::size_t>(std::count_if(
        entries_.begin(), entries_.end(), [](const auto& entry) { return entry.second.tenant.asks; }));
    if (waiting != 0) look_later(std::min(plan.look_again_ns, kLookAgainNs));
  }
  tell_host_bytes();
  const std::vector<Tenant> all = tenants();
  std::uint64_t movable = 0;
  for (const Tenant& tenant : all) movable += tenant.movable;
  for (auto& [client, entry] : entries_) {
    GatePage& page = entry.gate->page();
    page.memory_keep.store(movable <= options_.host_limit ? 1 : 0, std::memory_order_relaxed);
    page.memory_contended.store(waiting != 0 ? 1 : 0, std::memory_order_relaxed);
    page.memory_most.store(most_residence(client, capacity(), options_, all), std::memory_order_relaxed);
    page.memory_fixed_most.store(most_fixed(client, capacity(), all), std::memory_order_relaxed);
  }
}

void ResidenceKeeper::apply(const ResidencePlan& plan, std::uint64_t now) {
  std::uint64_t granted = 0;
  for (const auto& [client, entry] : entries_) granted += entry.tenant.granted;
  for (const ResidencePlan::Granted& grant : plan.grants) {
    Entry& entry = entries_.at(grant.client);
    GatePage& page = entry.gate->page();
    granted += grant.bytes - entry.tenant.granted;
    if (!grant.whole) {
      entry.tenant.granted = grant.bytes;
      entry.tenant.arriving = true;
      page.memory_granted.store(grant.bytes);
      say(page);
      continue;
    }
    std::uint64_t bytes = grant.bytes;
    if (plan.grants.size() == 1 && plan.orders.empty() && !entry.tenant.out) {
      const std::uint64_t free = capacity() > granted ? capacity() - granted : 0;
      bytes += std::min(free, capacity() / kSlack);
    }
    entry.tenant.granted = bytes;
    entry.tenant.arriving = entry.tenant.out;
    entry.tenant.asks = false;
    // For whom others had to make room, the stay begins now, not with the little that it had before.
    if (now > entry.tenant.asked_ns) entry.tenant.since_ns = entry.tenant.busy_ns = now;
    page.memory_granted.store(bytes);
    page.memory_answered.store(entry.request);
    say(page);
  }
  for (const ClientId client : plan.refusals) {
    Entry& entry = entries_.at(client);
    entry.tenant.asks = false;
    entry.gate->page().memory_refused.store(entry.request);
    say(entry.gate->page());
  }
  for (const ClientId client : plan.orders) entries_.at(client).tenant.ordered = true;
  tell_host_bytes();
  for (const ClientId client : plan.orders) {
    Entry& entry = entries_.at(client);
    entry.gate->page().memory_order.store(++entry.order);
    say(entry.gate->page());
  }
}

std::uint64_t ResidenceKeeper::host_bytes() const {
  std::uint64_t all = 0;
  for (const auto& [client, entry] : entries_) {
    const Tenant& tenant = entry.tenant;
    all += tenant.ordered || tenant.out ? std::max(entry.stored, tenant.movable) : entry.stored;
  }
  return all;
}

void ResidenceKeeper::tell_host_bytes() {
  const std::uint64_t bytes = host_bytes();
  if (bytes == host_told_ || !host_changed_) return;
  host_told_ = bytes;
  host_changed_();
}

void ResidenceKeeper::look_later(std::uint64_t after_ns) {
  loop_.cancel(timer_);
  timer_ = loop_.after(std::chrono::nanoseconds(after_ns), [this] {
    timer_ = 0;
    look();
  });
}

}  // namespace vgpu::daemon
