// What policies have in common in which one client at a time has the device: who holds the turn, when it
// passes on. In what order and for how long is the derived policy's.
#pragma once

#include <unordered_map>

#include "daemon/scheduler/policy.hpp"

namespace vgpu::daemon {

// A client that has the turn and pauses keeps it for `linger_ns` (the gap between a result and the next
// launch); then it passes on if somebody waits. A client alone keeps it for as long as it likes.
class TurnPolicy : public SchedulingPolicy {
 public:
  // `exclusive`: a turn begins only when nothing of the former holder's is on the device any more.
  TurnPolicy(std::uint64_t linger_ns, bool exclusive) : linger_ns_(linger_ns), exclusive_(exclusive) {}

  void add(ClientId client, const Terms& terms, std::uint64_t consumed_ns) override;
  void remove(ClientId client) override;
  void set_terms(ClientId client, const Terms& terms) override;
  std::vector<Grant> update(std::uint64_t now_ns, std::span<const Usage> usage) override;
  [[nodiscard]] std::size_t active() const override { return active_; }
  [[nodiscard]] std::uint64_t look_again_ns() const override { return look_again_ns_; }

 protected:
  struct Account {
    ClientId client = 0;
    Terms terms;
    std::uint64_t consumed_ns = 0;
    std::uint64_t arrived_ns = 0;  // since when it has had work or has waited for another turn
    std::uint64_t last_busy_ns = 0;
    std::uint64_t turn_used_ns = 0;  // device time used in this turn
    bool backlogged = false;
    bool in_flight = false;
    // For the derived policies.
    double clock = 0;               // virtual time used
    std::uint64_t deadline_ns = 0;  // when it wants to be served
    std::int64_t budget_ns = 0;     // device time until the deadline moves
  };
  using Accounts = std::unordered_map<ClientId, Account>;

  // A client had no work and has some now.
  virtual void arrived(Account& account, std::uint64_t now_ns) = 0;
  // It has used device time.
  virtual void used(Account& account, std::uint64_t ns) = 0;
  // Its turn has ended although it has more work.
  virtual void turn_ended(Account& account, std::uint64_t now_ns) = 0;
  // Which of two clients with work goes first.
  [[nodiscard]] virtual bool before(const Account& a, const Account& b) const = 0;
  // Whether the holder goes on although `next` waits.
  [[nodiscard]] virtual bool keeps(const Account& holder, const Account& next,
                                   std::uint64_t now_ns) const = 0;
  // Device time that the holder may use before the next decision.
  [[nodiscard]] virtual std::uint64_t remaining(const Account& holder) const = 0;

  [[nodiscard]] const Accounts& accounts() const { return accounts_; }

 private:
  void charge(Account& account, const Usage& usage, std::uint64_t now_ns);
  // The first in order of those that have work, the holder left out; or null.
  Account* next();
  // Ends and begins turns; false while the device has to run empty first.
  bool pass_on(std::uint64_t now_ns);

  std::uint64_t linger_ns_;
  bool exclusive_;
  Accounts accounts_;
  ClientId holder_ = 0;
  bool held_ = false;
  std::size_t active_ = 0;
  std::uint64_t look_again_ns_ = kUnlimited;
};

}  // namespace vgpu::daemon
