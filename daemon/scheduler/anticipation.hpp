// Keeps a device free for clients whose arrivals are regular: from when the work of lower levels in flight
// would end too late until they come, or until they should have come.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_map>

#include "daemon/scheduler/arrivals.hpp"
#include "daemon/scheduler/policy.hpp"

namespace vgpu::daemon {

// What it costs is bounded: the device stands still beside work for `most_idle_ns` at a stretch, what it
// stood still before included, and for `share` of the time that is left to the lower levels. Not thread-safe.
class Anticipation {
 public:
  struct Options {
    bool enabled = true;
    std::uint64_t most_idle_ns = 400'000;
    double share = 0.1;
    std::uint64_t saved_ns = 2'000'000;  // of unused share at most
    std::uint64_t margin_ns = 30'000;    // by which timers, wake-ups and forecasts may be wrong
  };

  explicit Anticipation(const Options& options) : options_(options) {}

  void add(ClientId client, unsigned level);
  void remove(ClientId client);

  // The usage of each client at time `now_ns`, then, once, which level it is to be kept free for: the one of
  // the client that is expected, if it is above `top`, the level that has the device (kLevels: none has it),
  // else `top`.
  void note(const Usage& usage, std::uint64_t now_ns);
  unsigned top_level(std::uint64_t now_ns, unsigned top);

  // Whether it is kept free for somebody since the last top_level().
  [[nodiscard]] bool holds() const { return held_for_ != nullptr; }
  // After how long to call again; kUnlimited: no wish.
  [[nodiscard]] std::uint64_t look_again_ns() const { return look_again_ns_; }

 private:
  struct Account {
    unsigned level = 0;
    Arrivals arrivals;
    std::uint64_t consumed_ns = 0;
  };

  // All clients' at this update.
  struct Seen {
    std::array<std::uint64_t, kLevels> in_flight_ns{};
    bool on_device = false;  // somebody's work is
    bool moved = false;      // or was, since the last update
    bool wanted = false;     // somebody has work
  };

  // Who is expected first of those above `top` and above somebody.
  Account* next_above(std::uint64_t now_ns, unsigned top);
  // Adds to the share what the time since the last call makes, and takes off what was spent; notes whether
  // the device stands still.
  void settle(std::uint64_t now_ns);
  // How long lower levels' work in flight takes at most, by what was seen lately.
  [[nodiscard]] std::uint64_t flight_ns() const;

  Options options_;
  std::unordered_map<ClientId, Account> accounts_;
  std::array<std::size_t, kLevels> clients_{};
  Account* held_for_ = nullptr;
  std::uint64_t look_again_ns_ = kUnlimited;
  std::uint64_t last_ns_ = 0;
  unsigned last_top_ = kLevels;
  double credit_ns_ = 0;
  Seen seen_;
  // Since when the device has stood still beside work; 0: it does not.
  std::uint64_t still_since_ns_ = 0;
  std::array<std::uint64_t, 16> flights_{};  // the latest that were seen
  std::size_t next_flight_ = 0;
};

}  // namespace vgpu::daemon
