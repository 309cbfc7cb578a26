#include "daemon/scheduler/simulator.hpp"

#include <algorithm>
#include <utility>

namespace vgpu::daemon::simulation {

Simulator::Simulator(std::unique_ptr<SchedulingPolicy> policy, const std::vector<Program>& programs,
                     Pick pick, unsigned seed, std::uint64_t window_ns, std::uint64_t brief_ns)
    : policy_(std::move(policy)),
      pick_(std::move(pick)),
      random_(seed),
      window_ns_(window_ns),
      brief_ns_(brief_ns) {
  for (const Program& program : programs) {
    Client client;
    client.program = program;
    client.next_job_ns = program.from_ns;
    clients_.push_back(std::move(client));
  }
}

std::uint64_t Simulator::spread(std::uint64_t base, std::uint64_t more) {
  return more == 0 ? base : base + random_() % more;
}

void Simulator::set_terms(std::size_t i, const Terms& terms) {
  clients_[i].program.terms = terms;
  policy_->set_terms(i, terms);
}

std::uint64_t Simulator::Client::next() const {
  const bool away = next_job_ns >= program.away_from_ns && next_job_ns < program.away_until_ns;
  const std::uint64_t wanted = away ? program.away_until_ns : next_job_ns;
  return wanted < program.until_ns ? wanted : UINT64_MAX;
}

void Simulator::arrive() {
  for (std::size_t i = 0; i < clients_.size(); ++i) {
    Client& client = clients_[i];
    const Program& program = client.program;
    if (!client.added && now_ >= program.from_ns) {
      policy_->add(i, program.terms, 0);
      client.added = true;
    }
    if (client.job || now_ < client.next()) continue;
    client.job = true;
    wake_broker();
    client.job_since_ns = client.wants_since_ns = now_;
    for (unsigned n = 0; n < program.burst; ++n) {
      client.waiting.push_back(
          std::max<std::uint64_t>(spread(program.kernel_ns, program.kernel_spread_ns), 1));
    }
  }
}

void Simulator::decide() {
  std::vector<Usage> usage;
  for (std::size_t i = 0; i < clients_.size(); ++i) {
    const Client& client = clients_[i];
    if (!client.added) continue;
    Usage one{i, client.outcome.consumed_ns, client.job, !client.submitted.empty(), client.in_flight_ns};
    one.came_ns = client.job_since_ns;
    one.ended_ns = client.ended_ns;
    usage.push_back(one);
  }
  const bool alone = usage.size() == 1;
  look_at_ns_ = UINT64_MAX;
  if (alone && alone_) return;
  alone_ = alone;
  for (const Grant& grant : policy_->update(now_, usage)) {
    Client& client = clients_[grant.client];
    client.grant = grant;
    client.granted_at_consumed = client.outcome.consumed_ns;
  }
  if (!machine_) return;
  // As the gate keeper does.
  const std::uint64_t period = policy_->active() > 1 ? kMs : 10 * kMs;
  const std::uint64_t wish = std::max(policy_->look_again_ns(), 20 * kUs);
  look_at_ns_ = now_ + std::min(period, wish) + machine_->reaction_ns;
}

void Simulator::wake_broker() {
  if (machine_) look_at_ns_ = std::min(look_at_ns_, now_ + machine_->reaction_ns);
}

bool Simulator::spent(const Client& client) const {
  if (client.grant.more_ns == kUnlimited) return false;
  return client.outcome.consumed_ns - client.granted_at_consumed + client.in_flight_ns >=
         client.grant.more_ns;
}

bool Simulator::may_submit(const Client& client) const {
  if (client.waiting.empty() || spent(client)) return false;
  if (!client.grant.bounded || client.submitted.empty()) return true;
  const std::uint64_t window = client.grant.brief ? std::min(window_ns_, brief_ns_) : window_ns_;
  return client.waiting.front() <= window && client.in_flight_ns < window;
}

void Simulator::submit() {
  std::size_t with_work = 0;
  for (Client& client : clients_) {
    while (may_submit(client)) {
      client.told = false;
      client.submitted.push_back(client.waiting.front());
      client.in_flight_ns += client.waiting.front();
      client.waiting.pop_front();
    }
    if (!client.submitted.empty()) ++with_work;
    if (client.submitted.empty() && client.job && !std::exchange(client.told, true)) wake_broker();
  }
  overlapped_ = overlapped_ || with_work > 1;
}

bool Simulator::begin_one() {
  if (running_) return true;
  std::vector<std::size_t> ready;
  for (std::size_t i = 0; i < clients_.size(); ++i) {
    if (!clients_[i].submitted.empty()) ready.push_back(i);
  }
  if (ready.empty()) return false;
  running_ = pick_(ready);
  Client& client = clients_[*running_];
  client.outcome.longest_wait_ns = std::max(client.outcome.longest_wait_ns, now_ - client.wants_since_ns);
  running_until_ns_ = now_ + client.submitted.front();
  if (machine_ && ran_last_ != *running_) running_until_ns_ += machine_->change_ns;
  ran_last_ = *running_;
  return true;
}

void Simulator::end_one() {
  Client& client = clients_[*running_];
  running_.reset();
  const std::uint64_t kernel = client.submitted.front();
  now_ = running_until_ns_;
  client.submitted.pop_front();
  client.in_flight_ns -= kernel;
  client.outcome.consumed_ns += kernel;
  client.wants_since_ns = now_;
  if (client.submitted.empty() && client.grant.tell) wake_broker();
  if (!client.submitted.empty() || !client.waiting.empty()) return;
  wake_broker();
  client.job = false;
  client.ended_ns = now_;
  ++client.outcome.jobs;
  client.outcome.job_ns.push_back(now_ - client.job_since_ns);
  const Program& program = client.program;
  client.next_job_ns = now_ + spread(program.pause_ns, program.pause_spread_ns);
  if (program.pause_tail_ns != 0) {
    std::exponential_distribution<double> tail(1.0 / static_cast<double>(program.pause_tail_ns));
    client.next_job_ns += static_cast<std::uint64_t>(tail(random_));
  }
}

std::uint64_t Simulator::next_event(std::uint64_t end) const {
  std::uint64_t next = end;
  for (const Client& client : clients_) {
    if (!client.job) next = std::min(next, client.next());
  }
  if (machine_) next = std::min(next, look_at_ns_);
  return std::max(next, now_ + 1);
}

void Simulator::stand_still(std::uint64_t end) {
  std::uint64_t next = next_event(end);
  const bool wanted =
      std::any_of(clients_.begin(), clients_.end(), [](const Client& client) { return client.job; });
  // The broker looks again after a millisecond at the latest, or when the policy wishes.
  const std::uint64_t look =
      std::min<std::uint64_t>(kMs, std::max<std::uint64_t>(policy_->look_again_ns(), 1));
  if (wanted && !machine_) next = std::min(next, now_ + look);
  if (wanted) {
    stalled_ns_ += next - now_;
    stall_ns_ += next - now_;
    longest_stall_ns_ = std::max(longest_stall_ns_, stall_ns_);
  } else {
    stall_ns_ = 0;
  }
  now_ = next;
}

void Simulator::run(std::uint64_t duration_ns) {
  const std::uint64_t end = now_ + duration_ns;
  while (now_ < end) {
    arrive();
    if (due()) decide();
    submit();
    if (!begin_one()) {
      stand_still(end);
      continue;
    }
    stall_ns_ = 0;
    const std::uint64_t next = machine_ ? next_event(end) : running_until_ns_;
    if (next >= running_until_ns_) {
      end_one();
    } else {
      now_ = next;
    }
  }
}

Simulator::Pick whim(unsigned seed) {
  switch (seed % 3) {
    case 0:
      return [](const std::vector<std::size_t>& ready) { return ready.front(); };
    case 1:
      return [](const std::vector<std::size_t>& ready) { return ready.back(); };
    default:
      return [random = std::make_shared<std::mt19937>(seed)](const std::vector<std::size_t>& ready) {
        return ready[(*random)() % ready.size()];
      };
  }
}

}  // namespace vgpu::daemon::simulation
