// What a scheduling policy is: from what each client has used it says how much each may use. Knows weights
// and time; never a gate page, a process or CUDA, so that it runs in tests with a clock of their own.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace vgpu::daemon {

using ClientId = std::uint64_t;

// No bound on what a client may use.
inline constexpr std::uint64_t kUnlimited = UINT64_MAX;

// What was measured of one client.
struct Usage {
  ClientId client = 0;
  std::uint64_t consumed_ns = 0;  // device time since it came; only grows
  bool backlogged = false;        // it has work waiting or running now
};

// How much device time, in all since it came, a client may have used before it must wait.
struct Grant {
  ClientId client = 0;
  std::uint64_t allowance_ns = kUnlimited;
};

// One device's policy. Not thread-safe.
class SchedulingPolicy {
 public:
  SchedulingPolicy() = default;
  SchedulingPolicy(const SchedulingPolicy&) = delete;
  SchedulingPolicy& operator=(const SchedulingPolicy&) = delete;
  virtual ~SchedulingPolicy() = default;

  // A client comes. `weight` >= 1, relative to other clients'.
  virtual void add(ClientId client, std::uint32_t weight) = 0;
  virtual void remove(ClientId client) = 0;
  // Changes a weight from now on; earlier use keeps its old price.
  virtual void set_weight(ClientId client, std::uint32_t weight) = 0;

  // Takes the usage of every client, added ones only, at time `now_ns`, and returns a grant for each in the
  // same order.
  virtual std::vector<Grant> update(std::uint64_t now_ns, std::span<const Usage> usage) = 0;

  // How many clients had work at the last update.
  [[nodiscard]] virtual std::size_t active() const = 0;
};

}  // namespace vgpu::daemon
