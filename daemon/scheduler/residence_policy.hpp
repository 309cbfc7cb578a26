// Whose memory lies on a device whose clients hold more than it has: who may have more, who must wait, who is
// to be moved out to the host's memory. Knows sizes, priorities and time; never CUDA, a gate page or a
// process.
//
// A client is wholly on the device or, but for what cannot be moved, wholly off it. Nobody is moved out
// before he has been there for a while, unless he is idle: else two clients that both need the device would
// only move.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "daemon/scheduler/policy.hpp"

namespace vgpu::daemon {

struct ResidenceOptions {
  std::uint64_t host_limit = 0;  // bytes of host memory for what is moved out; 0: nothing is ever moved
  std::uint64_t minimum_residence_ns = 5'000'000'000;
  std::uint64_t idle_after_ns = 200'000'000;  // who has had no work for so long is moved out first

  bool operator==(const ResidenceOptions&) const = default;
};

// One client, as the mechanism knows it. Sizes in bytes; what its worker claims has been bounded.
struct Tenant {
  ClientId client = 0;
  unsigned level = 1;               // priority: 0 is the highest
  std::uint64_t granted = 0;        // may lie on the device
  std::uint64_t fixed = 0;          // of that, what cannot be moved; at most `granted`
  std::uint64_t movable = 0;        // the rest of what it holds, wherever that lies
  bool out = false;                 // the movable part is in the host's memory
  bool arriving = false;            // it has been granted room to come back, perhaps not yet all
  bool ordered = false;             // it has been told to move out and has not answered
  bool asks = false;                // it waits for `wanted`
  bool short_of = false;            // what it was granted is not there: the device has less than was thought
  std::uint64_t wanted = 0;         // on the device, in all
  std::uint64_t wanted_fixed = 0;   // of that, what could not be moved
  std::uint64_t asked_ns = 0;       // since when it waits
  std::uint64_t since_ns = 0;       // since when it is on the device
  std::uint64_t busy_ns = 0;        // when it last had work
  std::uint64_t not_before_ns = 0;  // it could not obey an order: no other one before
  std::uint64_t move_ns = 0;        // what its last move took, out and in
};

// What is to be done. Who asks and is in none of the lists waits.
struct ResidencePlan {
  struct Granted {
    ClientId client = 0;
    std::uint64_t bytes = 0;
    bool whole = true;  // false: a part of what was asked for, the rest is on its way out
  };
  std::vector<Granted> grants;
  std::vector<ClientId> refusals;            // it can never have so much here
  std::vector<ClientId> orders;              // to move out
  std::uint64_t look_again_ns = kUnlimited;  // from now
};

// What is to be done now on a device of `capacity` bytes. The caller has reduced grants to what is used when
// somebody asks.
[[nodiscard]] ResidencePlan plan_residence(std::uint64_t now_ns, std::uint64_t capacity,
                                           const ResidenceOptions& options, std::span<const Tenant> tenants);

// Of its memory, the most that may be such as cannot be moved: everybody else must still fit beside it.
[[nodiscard]] std::uint64_t most_fixed(ClientId client, std::uint64_t capacity,
                                       std::span<const Tenant> tenants);

// The most that this client could be granted, if all others made room: what it may think the device has.
[[nodiscard]] std::uint64_t most_residence(ClientId client, std::uint64_t capacity,
                                           const ResidenceOptions& options, std::span<const Tenant> tenants);

}  // namespace vgpu::daemon
