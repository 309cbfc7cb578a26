// Weighted fair queueing by virtual time: a client's clock advances by the device time it used divided by its
// weight, and nobody may get further than one quantum ahead of the slowest client that has work.
#pragma once

#include <unordered_map>

#include "daemon/scheduler/policy.hpp"

namespace vgpu::daemon {

// Work-conserving: a client that wants nothing holds nobody back, and a lone client is not limited. A client
// that comes back from idleness starts at the present, it has saved up nothing.
class FairQueue final : public SchedulingPolicy {
 public:
  // `quantum_ns`: the lead that a client of weight 100 may have. `idle_after_ns`: a client without work for
  // that long counts as idle; shorter gaps (between a result and the next launch) keep its place.
  FairQueue(std::uint64_t quantum_ns, std::uint64_t idle_after_ns);

  void add(ClientId client, const Terms& terms, std::uint64_t consumed_ns) override;
  void remove(ClientId client) override;
  void set_terms(ClientId client, const Terms& terms) override;
  std::vector<Grant> update(std::uint64_t now_ns, std::span<const Usage> usage) override;
  [[nodiscard]] std::size_t active() const override { return active_; }

 private:
  struct Account {
    double weight = kUnitWeight;
    std::uint64_t consumed_ns = 0;
    std::uint64_t last_busy_ns = 0;
    double clock = 0;  // virtual time: ns of device time at weight 100
    bool active = false;
    bool backlogged = false;
  };

  void charge(Account& account, const Usage& usage, std::uint64_t now_ns);
  // The slowest clock among active clients, or only among those that have work this instant.
  [[nodiscard]] double slowest(bool only_backlogged) const;
  [[nodiscard]] bool someone_may_run(double floor) const;

  double quantum_;
  std::uint64_t idle_after_ns_;
  double present_ = 0;  // virtual time of the device: what a newcomer starts with
  std::size_t active_ = 0;
  std::unordered_map<ClientId, Account> accounts_;
};

}  // namespace vgpu::daemon
