// What a scheduling policy is: from what each client has used it says how much each may use. Knows queues,
// weights, priorities and time; never a gate page, a process or CUDA, so that it runs in tests with a clock
// of their own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace vgpu::daemon {

using ClientId = std::uint64_t;

// No bound on what a client may use.
inline constexpr std::uint64_t kUnlimited = UINT64_MAX;

// Who has had work within that time is expected to have some again soon.
inline constexpr std::uint64_t kPresenceNs = 100'000'000;

// Whether somebody other than `client` is here or expected: `accounts` maps clients to objects with a
// last_busy_ns, 0 for who never had work.
template <class Accounts>
[[nodiscard]] bool others_expected(const Accounts& accounts, ClientId client, std::uint64_t now_ns) {
  return std::any_of(accounts.begin(), accounts.end(), [&](const auto& entry) {
    const std::uint64_t last = entry.second.last_busy_ns;
    return entry.first != client && last != 0 && now_ns - last < kPresenceNs;
  });
}

// The weight of a class that names none.
inline constexpr std::uint32_t kUnitWeight = 100;

// The least that is taken for a weight; a class's is 1 at least, a part of one may be less.
inline constexpr double kLeastWeight = 1e-3;

// What a client is promised.
struct Terms {
  double weight = kUnitWeight;             // relative to other clients'
  unsigned level = 1;                      // priority: 0 is served first; below kLevels
  std::uint64_t deadline_ns = 50'000'000;  // from becoming busy to when it wants its turn
};
inline constexpr unsigned kLevels = 3;

// What was measured of one client.
struct Usage {
  ClientId client = 0;
  std::uint64_t consumed_ns = 0;   // device time since it came; only grows
  bool backlogged = false;         // it has work waiting or running now
  bool in_flight = false;          // some of that work is on the device
  std::uint64_t in_flight_ns = 0;  // what that is expected to take
  bool served = true;              // false: it has not been let on the device since the last update
  std::uint64_t came_ns = 0;       // when it became backlogged last; 0: nobody knows
  std::uint64_t ended_ns = 0;      // when work of its ended last before it had none
};

// What a client may do until the next update.
struct Grant {
  ClientId client = 0;
  std::uint64_t more_ns = kUnlimited;  // device time beyond what it has used; 0: it must wait
  bool bounded = false;  // somebody may want the device soon: it is to keep little work in flight
  bool brief = false;    // somebody of a higher priority will, and is to wait for hardly anything
  bool tell = false;     // the next update is to come as soon as nothing of its is in flight any more
};

// One device's policy. Not thread-safe. Work-conserving: whenever a client has work, some client that has
// work may run (or, where a policy says so, may after a pause of bounded length).
class SchedulingPolicy {
 public:
  SchedulingPolicy() = default;
  SchedulingPolicy(const SchedulingPolicy&) = delete;
  SchedulingPolicy& operator=(const SchedulingPolicy&) = delete;
  virtual ~SchedulingPolicy() = default;

  // A client comes. It has used nothing yet, whatever its counter says at the first update.
  virtual void add(ClientId client, const Terms& terms, std::uint64_t consumed_ns) = 0;
  virtual void remove(ClientId client) = 0;
  // Changes the terms from now on; earlier use keeps its old price.
  virtual void set_terms(ClientId client, const Terms& terms) = 0;

  // Takes the usage of every client that was added, at time `now_ns`, and returns a grant for each in the
  // same order.
  virtual std::vector<Grant> update(std::uint64_t now_ns, std::span<const Usage> usage) = 0;

  // After how long the next update should come although nothing happens; kUnlimited: no wish.
  [[nodiscard]] virtual std::uint64_t look_again_ns() const { return kUnlimited; }

  // How many clients had work at the last update.
  [[nodiscard]] virtual std::size_t active() const = 0;
};

}  // namespace vgpu::daemon
