#include "daemon/scheduler/gate_keeper.hpp"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>

#include "protocol/futex.hpp"

namespace vgpu::daemon {
namespace {

constexpr std::chrono::nanoseconds kBusyPeriod{1'000'000};
constexpr std::chrono::nanoseconds kIdlePeriod{10'000'000};
constexpr std::chrono::nanoseconds kNever = std::chrono::nanoseconds::max();
// A policy's wish for an earlier look is not taken more literally than that.
constexpr std::uint64_t kShortestPeriodNs = 20'000;
// A worker shows that it is alive every 100 ms at least. One that is stopped or held up in its driver submits
// nothing: nobody waits for it.
constexpr std::uint64_t kSilenceNs = 400'000'000;
// What is on a metered device and uses none of it for so long waits for something else than the device.
constexpr std::uint64_t kStallNs = 150'000'000;

void set_allowance(GatePage& page, std::uint64_t allowance) {
  if (page.allowance_ns.exchange(allowance) == allowance) return;
  page.refill.fetch_add(1);  // sequentially consistent with the worker: it sets blocked, then looks again
  if (page.blocked.load() != 0) futex_wake(page.refill);
}

// What a worker has used, `seen` of it known. A counter that went back is a lie or a fault of the worker: it
// earns nothing. Where the clock measures, the worker brings its counter up to date now and then only, by
// more than others may have had in all since the last look.
std::uint64_t used_ns(const GatePage& page, std::uint64_t seen, std::uint64_t now) {
  const std::uint64_t measured = page.measured_ns.load(std::memory_order_acquire);
  const std::uint64_t said = page.consumed_ns.load(std::memory_order_acquire);
  const std::uint64_t since = measured != 0 && measured < now ? now - measured : 0;
  return std::max(said + std::min(since, kSilenceNs), seen);
}

}  // namespace

GateKeeper::GateKeeper(EventLoop& loop, std::unique_ptr<SchedulingPolicy> policy)
    : loop_(loop), policy_(std::move(policy)) {}

GateKeeper::~GateKeeper() {
  loop_.cancel(timer_);
  for (const auto& [client, entry] : entries_) forget_attention(entry);
}

void GateKeeper::add(ClientId client, const GateTerms& terms, std::shared_ptr<GatePage> page,
                     int attention_fd, bool held) {
  Entry entry;
  entry.seen_ns = page->consumed_ns.load(std::memory_order_acquire);
  entry.page = std::move(page);
  entry.attention_fd = attention_fd;
  entry.terms = terms;
  entry.held = held;
  entries_[client] = std::move(entry);
  if (!held) policy_->add(client, terms.terms, 0);
  if (attention_fd >= 0) {
    loop_.watch(attention_fd, EPOLLIN, [this, client, attention_fd](std::uint32_t) {
      std::uint64_t count = 0;
      if (read(attention_fd, &count, sizeof count) != static_cast<ssize_t>(sizeof count)) return;
      tick();
      const auto found = entries_.find(client);
      if (found != entries_.end() && found->second.also) found->second.also();
    });
  }
  tick();
}

void GateKeeper::on_attention(ClientId client, std::function<void()> also) {
  const auto found = entries_.find(client);
  if (found != entries_.end()) found->second.also = std::move(also);
}

void GateKeeper::forget_attention(const Entry& entry) {
  if (entry.attention_fd >= 0) loop_.forget(entry.attention_fd);
}

void GateKeeper::remove(ClientId client) {
  const auto found = entries_.find(client);
  if (found == entries_.end()) return;
  tick();  // what it has used since the last one counts
  forget_attention(found->second);
  if (!found->second.held) policy_->remove(client);
  entries_.erase(found);
  tick();
}

void GateKeeper::set_terms(ClientId client, const GateTerms& terms) {
  const auto found = entries_.find(client);
  if (found == entries_.end()) return;
  found->second.terms = terms;
  if (!found->second.held) policy_->set_terms(client, terms.terms);
  tick();
}

void GateKeeper::hold(ClientId client, bool held) {
  const auto found = entries_.find(client);
  if (found == entries_.end() || found->second.held == held) return;
  Entry& entry = found->second;
  entry.held = held;
  if (held) {
    policy_->remove(client);
  } else {
    policy_->add(client, entry.terms.terms, entry.figures.charged_ns);
  }
  tick();
}

void GateKeeper::read_pages(std::uint64_t now) {
  std::uint64_t unmetered = 0;
  std::uint64_t metered = 0;
  for (auto& [client, entry] : entries_) {
    const GatePage& page = *entry.page;
    const std::uint64_t used = used_ns(page, entry.seen_ns, now);
    entry.more_ns = used - entry.seen_ns;
    entry.seen_ns = used;
    entry.silent = is_silent(entry, now);
    entry.backlogged = page.backlogged.load(std::memory_order_acquire) != 0 && !entry.silent;
    // Nobody is held back for it: whom it waits for may be among them.
    if (is_stalled(entry, now)) entry.backlogged = false;
    (page.metered.load(std::memory_order_relaxed) == 0 ? unmetered : metered) += entry.more_ns;
  }
  const std::uint64_t elapsed = now - last_tick_ns_;
  charged_ns_ += metered + std::min(unmetered, elapsed);
  last_tick_ns_ = now;
  for (auto& [client, entry] : entries_) {
    const GatePage& page = *entry.page;
    if (unmetered > elapsed && page.metered.load(std::memory_order_relaxed) == 0) {
      entry.more_ns = static_cast<std::uint64_t>(
          static_cast<double>(entry.more_ns) * static_cast<double>(elapsed) / static_cast<double>(unmetered));
    }
    entry.figures.charged_ns += entry.more_ns;
    if (is_stuck(entry, elapsed) && stuck_) {
      // Later: what is done about it removes the client.
      loop_.after(std::chrono::nanoseconds(0), [this, id = client] {
        if (entries_.contains(id)) stuck_(id);
      });
    }
    if (entry.held) continue;
    Usage usage{client, entry.figures.charged_ns, entry.backlogged,
                page.in_flight.load(std::memory_order_acquire) != 0 && !entry.silent && !entry.stalled,
                page.predicted_ns.load(std::memory_order_relaxed)};
    usage.came_ns = page.came_ns.load(std::memory_order_relaxed);
    usage.ended_ns = page.ended_ns.load(std::memory_order_relaxed);
    usage_.push_back(usage);
  }
}

bool GateKeeper::is_stalled(Entry& entry, std::uint64_t now) {
  const GatePage& page = *entry.page;
  const bool waits = page.blocked.load(std::memory_order_relaxed) != 0;
  if (entry.more_ns != 0 || !entry.backlogged || waits || entry.moved_ns == 0) entry.moved_ns = now;
  entry.stalled = page.metered.load(std::memory_order_relaxed) != 0 && now - entry.moved_ns > kStallNs;
  return entry.stalled;
}

bool GateKeeper::is_silent(Entry& entry, std::uint64_t now) {
  const std::uint64_t beats = entry.page->beats.load(std::memory_order_relaxed);
  if (beats != entry.beats || entry.heard_ns == 0) entry.heard_ns = now;
  entry.beats = beats;
  return beats != 0 && now - entry.heard_ns > kSilenceNs;
}

bool GateKeeper::is_stuck(Entry& entry, std::uint64_t elapsed) {
  const GatePage& page = *entry.page;
  const std::uint64_t progress = page.progress.load(std::memory_order_acquire);
  const bool on_device = page.in_flight.load(std::memory_order_acquire) != 0;
  const bool same = progress == entry.progress && on_device && entry.on_device;
  entry.progress = progress;
  entry.on_device = on_device;
  if (!same || entry.terms.watchdog_ns == 0) {
    entry.stuck_ns = 0;
    return false;
  }
  // On a device without a meter, time in which others had it does not count.
  entry.stuck_ns += page.metered.load(std::memory_order_relaxed) != 0 ? elapsed : entry.more_ns;
  // The worker keeps up to a quarter of the limit in flight before what is too long.
  return entry.stuck_ns > entry.terms.watchdog_ns + entry.terms.watchdog_ns / 4;
}

void GateKeeper::apply(const Grant& grant, std::size_t waiting, std::size_t busy) {
  Entry& entry = entries_.at(grant.client);
  GatePage& page = *entry.page;
  const bool waits = entry.backlogged && grant.more_ns == 0;
  if (entry.waited && !waits && entry.backlogged) {
    ++entry.figures.turns;
    ++switches_;
  }
  entry.waited = waits;
  std::uint64_t window = grant.bounded ? entry.terms.window_ns : 0;
  if (grant.brief && entry.terms.brief_ns != 0) window = std::min(window, entry.terms.brief_ns);
  page.window_ns.store(window, std::memory_order_relaxed);
  page.others_busy.store(busy > (entry.backlogged ? 1U : 0U) ? 1 : 0, std::memory_order_relaxed);
  page.others_wait.store(grant.tell || waiting > (waits ? 1U : 0U) ? 1 : 0, std::memory_order_relaxed);
  set_allowance(page, grant.more_ns == kUnlimited ? no_limit_ns : entry.seen_ns + grant.more_ns);
}

void GateKeeper::tick() {
  usage_.clear();
  const std::uint64_t now = now_ns();
  read_pages(now);
  const std::vector<Grant> grants = policy_->update(now, usage_);
  const auto waiting = std::count_if(grants.begin(), grants.end(), [&](const Grant& grant) {
    return grant.more_ns == 0 && entries_.at(grant.client).backlogged;
  });
  const auto busy = std::count_if(entries_.begin(), entries_.end(),
                                  [](const auto& entry) { return entry.second.backlogged; });
  for (const Grant& grant : grants) {
    apply(grant, static_cast<std::size_t>(waiting), static_cast<std::size_t>(busy));
  }
  for (auto& [client, entry] : entries_) {
    if (entry.held) set_allowance(*entry.page, entry.seen_ns);
  }
  if (look_) look_();
  schedule_next();
}

std::uint64_t GateKeeper::charged_ns() const {
  std::uint64_t unmetered = 0;
  std::uint64_t metered = 0;
  const std::uint64_t now = now_ns();
  for (const auto& [client, entry] : entries_) {
    const GatePage& page = *entry.page;
    const std::uint64_t used = used_ns(page, entry.seen_ns, now);
    (page.metered.load(std::memory_order_relaxed) == 0 ? unmetered : metered) += used - entry.seen_ns;
  }
  return charged_ns_ + metered + std::min(unmetered, now - last_tick_ns_);
}

GateFigures GateKeeper::figures(ClientId client) const {
  const auto found = entries_.find(client);
  return found == entries_.end() ? GateFigures{} : found->second.figures;
}

void GateKeeper::open_all() {
  for (const auto& [client, entry] : entries_) {
    forget_attention(entry);
    if (entry.held) continue;
    policy_->remove(client);
    entry.page->window_ns.store(0, std::memory_order_relaxed);
    set_allowance(*entry.page, no_limit_ns);
  }
  entries_.clear();
  loop_.cancel(timer_);
}

void GateKeeper::schedule_next() {
  loop_.cancel(timer_);
  timer_ = 0;
  std::chrono::nanoseconds period = kNever;
  for (const auto& [client, entry] : entries_) {
    if (entry.terms.watchdog_ns == 0) continue;
    const std::chrono::nanoseconds look(entry.terms.watchdog_ns / 8);
    period = std::min(period, std::max(look, kBusyPeriod));
  }
  if (entries_.size() > 1) {
    period = std::min(period, policy_->active() > 1 ? kBusyPeriod : kIdlePeriod);
    if (const std::uint64_t wish = policy_->look_again_ns(); wish != kUnlimited) {
      period = std::min(period, std::chrono::nanoseconds(std::max(wish, kShortestPeriodNs)));
    }
  }
  if (period == kNever) return;
  timer_ = loop_.after(period, [this] {
    timer_ = 0;
    tick();
  });
}

}  // namespace vgpu::daemon
