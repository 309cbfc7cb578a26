#include "daemon/scheduler/gate_keeper.hpp"

#include <sys/epoll.h>
#include <unistd.h>

#include "protocol/futex.hpp"

namespace vgpu::daemon {
namespace {

constexpr std::chrono::milliseconds kBusyPeriod{1};
constexpr std::chrono::milliseconds kIdlePeriod{10};

}  // namespace

GateKeeper::GateKeeper(EventLoop& loop, std::unique_ptr<SchedulingPolicy> policy)
    : loop_(loop), policy_(std::move(policy)) {}

GateKeeper::~GateKeeper() {
  loop_.cancel(timer_);
  for (const auto& [client, entry] : entries_) loop_.forget(entry.attention_fd);
}

void GateKeeper::add(ClientId client, std::uint32_t weight, std::shared_ptr<GateMapping> gate,
                     int attention_fd) {
  policy_->add(client, weight);
  entries_[client] = Entry{std::move(gate), attention_fd};
  loop_.watch(attention_fd, EPOLLIN, [this, attention_fd](std::uint32_t) {
    std::uint64_t count = 0;
    if (read(attention_fd, &count, sizeof count) == static_cast<ssize_t>(sizeof count)) tick();
  });
  tick();
}

void GateKeeper::remove(ClientId client) {
  const auto found = entries_.find(client);
  if (found == entries_.end()) return;
  loop_.forget(found->second.attention_fd);
  entries_.erase(found);
  policy_->remove(client);
  tick();
}

void GateKeeper::set_weight(ClientId client, std::uint32_t weight) {
  policy_->set_weight(client, weight);
}

void GateKeeper::hold(ClientId client, bool held) {
  const auto found = entries_.find(client);
  if (found == entries_.end() || found->second.held == held) return;
  found->second.held = held;
  tick();
}

void GateKeeper::tick() {
  usage_.clear();
  for (const auto& [client, entry] : entries_) {
    const GatePage& page = entry.gate->page();
    usage_.push_back({client, page.consumed_ns.load(std::memory_order_acquire),
                      !entry.held && page.backlogged.load(std::memory_order_acquire) != 0});
  }
  for (const Grant& grant : policy_->update(now_ns(), usage_)) {
    const Entry& entry = entries_.at(grant.client);
    GatePage& page = entry.gate->page();
    std::uint64_t allowance = grant.allowance_ns == kUnlimited ? no_limit_ns : grant.allowance_ns;
    if (entry.held) allowance = 0;
    if (page.allowance_ns.exchange(allowance) == allowance) continue;
    page.refill.fetch_add(1);  // sequentially consistent with the worker: it sets blocked, then looks again
    if (page.blocked.load() != 0) futex_wake(page.refill);
  }
  schedule_next();
}

void GateKeeper::schedule_next() {
  loop_.cancel(timer_);
  timer_ = 0;
  if (entries_.size() < 2) return;
  timer_ = loop_.after(policy_->active() > 1 ? kBusyPeriod : kIdlePeriod, [this] {
    timer_ = 0;
    tick();
  });
}

}  // namespace vgpu::daemon
