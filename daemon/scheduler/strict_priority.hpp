// Strict priorities over any policy: each level has a policy of its own, and a level gets the device only
// while none above it wants it, or is about to (anticipation.hpp). Aging keeps lower levels from starving.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <unordered_map>

#include "daemon/scheduler/anticipation.hpp"
#include "daemon/scheduler/policy.hpp"

namespace vgpu::daemon {

class StrictPriority final : public SchedulingPolicy {
 public:
  struct Options {
    std::uint64_t linger_ns = 100'000;       // a level keeps the device through pauses as short as this
    std::uint64_t aging_ns = 1'000'000'000;  // a client that waited so long gets one turn; 0: never
    std::uint64_t turn_ns = 4'000'000;       // of that length
    bool anticipate = true;  // the device is kept free for who is about to come, no longer than linger_ns
  };
  using Make = std::function<std::unique_ptr<SchedulingPolicy>()>;

  // `make` makes the policy inside a level.
  StrictPriority(const Options& options, const Make& make);

  void add(ClientId client, const Terms& terms, std::uint64_t consumed_ns) override;
  void remove(ClientId client) override;
  void set_terms(ClientId client, const Terms& terms) override;
  std::vector<Grant> update(std::uint64_t now_ns, std::span<const Usage> usage) override;
  [[nodiscard]] std::size_t active() const override;
  [[nodiscard]] std::uint64_t look_again_ns() const override { return look_again_ns_; }

 private:
  struct Level {
    std::unique_ptr<SchedulingPolicy> policy;
    std::size_t clients = 0;
    std::vector<Usage> usage;        // of this update
    bool backlogged = false;         // at this update
    std::uint64_t last_busy_ns = 0;  // 0: never
    bool was_busy = false;
  };
  struct Account {
    Terms terms;
    std::uint64_t consumed_ns = 0;
    std::uint64_t waits_since_ns = 0;  // has had work and no device time since then
    bool waiting = false;
    bool granted = true;  // by the last update
  };
  struct AgedTurn {
    ClientId client = 0;
    std::uint64_t until_consumed_ns = 0;
  };

  void note(const Usage& usage, std::uint64_t now_ns);
  // The level that has the device now: the highest one that wants it; kLevels: none does.
  unsigned top_level(std::uint64_t now_ns);
  void begin_aged_turn(std::uint64_t now_ns, unsigned top);

  Options options_;
  Anticipation anticipation_;
  std::array<Level, kLevels> levels_;
  std::unordered_map<ClientId, Account> accounts_;
  AgedTurn aged_;
  bool aged_turn_ = false;
  std::uint64_t look_again_ns_ = kUnlimited;
};

}  // namespace vgpu::daemon
