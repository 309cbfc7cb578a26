#include "daemon/scheduler/policies.hpp"

#include "daemon/scheduler/fair_queue.hpp"
#include "daemon/scheduler/strict_priority.hpp"
#include "daemon/scheduler/turns.hpp"

namespace vgpu::daemon {
namespace {

std::uint64_t count(std::chrono::nanoseconds time) {
  return static_cast<std::uint64_t>(time.count());
}

std::unique_ptr<SchedulingPolicy> make_order(PolicyKind kind, const PolicyOptions& options) {
  TurnRules rules;
  rules.linger_ns = count(options.linger);
  switch (kind) {
    case PolicyKind::fifo:
      return std::make_unique<Fifo>(count(options.quantum),
                                    options.aging.count() == 0 ? kUnlimited : count(options.aging), rules);
    case PolicyKind::deadline:
      return std::make_unique<EarliestDeadline>(count(options.quantum), rules);
    case PolicyKind::time_slice:
      rules.exclusive = true;
      return std::make_unique<TimeSlices>(count(options.slice), count(options.idle_after), rules);
    case PolicyKind::turns:
      rules.exclusive = rules.by_clock = true;
      rules.lead_ns = count(options.lead);
      rules.least_ns = rules.most_wait_ns = count(options.quantum) / 2;
      return std::make_unique<TimeSlices>(count(options.turn), count(options.idle_after), rules);
    case PolicyKind::fair:
      break;
  }
  return std::make_unique<FairQueue>(count(options.quantum), count(options.idle_after));
}

}  // namespace

const char* to_string(PolicyKind kind) {
  switch (kind) {
    case PolicyKind::fair:
      return "fair";
    case PolicyKind::fifo:
      return "fifo";
    case PolicyKind::deadline:
      return "deadline";
    case PolicyKind::time_slice:
      return "time_slice";
    case PolicyKind::turns:
      return "turns";
  }
  return "fair";
}

std::unique_ptr<SchedulingPolicy> make_policy(PolicyKind kind, const PolicyOptions& options) {
  StrictPriority::Options priority;
  priority.linger_ns = count(options.linger);
  priority.aging_ns = count(options.aging);
  priority.turn_ns = count(options.quantum);
  priority.anticipate = options.anticipate;
  return std::make_unique<StrictPriority>(priority, [&] { return make_order(kind, options); });
}

}  // namespace vgpu::daemon
