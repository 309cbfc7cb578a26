// What policies have in common in which one client at a time has the device: who holds the turn, when it
// passes on. In what order and for how long is the derived policy's.
#pragma once

#include <unordered_map>

#include "daemon/scheduler/policy.hpp"

namespace vgpu::daemon {

// How turns are kept and passed on.
struct TurnRules {
  // A client that has the turn and pauses keeps it for that long (the gap between a result and the next
  // launch); then it passes on if somebody waits. A client alone keeps it for as long as it likes.
  std::uint64_t linger_ns = 0;
  // A turn begins only when nothing of the former holder's is on the device any more, or no more than takes
  // `lead_ns`: the next holder's work is then there when that ends.
  bool exclusive = false;
  std::uint64_t lead_ns = 0;
  // Nor is it waited for longer than that: a long kernel of one holds the others up no longer, and the device
  // executes both by its own rules.
  std::uint64_t most_wait_ns = kUnlimited;
  // Who comes while another has his turn, and has had less, need not wait for its end but only until it has
  // lasted so long; kUnlimited: it is not cut short.
  std::uint64_t least_ns = kUnlimited;
  // A client pays for the time for which it has the turn or work on the device, a part of it where it is not
  // alone, and not what was measured of its work: for devices that do not say whose work they execute.
  bool by_clock = false;
};

class TurnPolicy : public SchedulingPolicy {
 public:
  explicit TurnPolicy(const TurnRules& rules) : rules_(rules) {}

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
    std::uint64_t in_flight_ns = 0;
    std::uint64_t owes_ns = 0;  // for work that goes on beside the next turns: its own was not waited for
    // For the derived policies.
    double clock = 0;            // virtual time used
    std::uint64_t since_ns = 0;  // from when its deadline counts
    std::int64_t budget_ns = 0;  // device time until the deadline moves
  };
  using Accounts = std::unordered_map<ClientId, Account>;

  // A client had no work and has some now, or has had some in between. What the others have used until now is
  // known.
  virtual void arrived(Account& account, std::uint64_t now_ns) = 0;
  // It has used device time.
  virtual void used(Account& account, std::uint64_t ns, std::uint64_t now_ns) = 0;
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
  [[nodiscard]] Accounts& accounts() { return accounts_; }
  [[nodiscard]] const TurnRules& rules() const { return rules_; }
  // Whether it has come since the holder's turn began.
  [[nodiscard]] bool is_new(const Account& account) const { return account.arrived_ns > began_ns_; }

 private:
  void charge(Account& account, const Usage& usage, std::uint64_t now_ns);
  // For how long the account has had the device since the last update.
  [[nodiscard]] std::uint64_t held_ns(Account& account, const Usage& usage, std::uint64_t now_ns);
  [[nodiscard]] bool on_device(const Account& account) const;
  // Whether the next turn, the holder's being over, has to wait for work of his.
  bool waits_for_end(const Account& holder, std::uint64_t now_ns);
  // The first in order of those that have work, the holder left out; or null.
  Account* next();
  // Ends and begins turns; false while the device has to run empty first.
  bool pass_on(std::uint64_t now_ns);

  TurnRules rules_;
  Accounts accounts_;
  std::uint64_t updated_ns_ = 0;
  std::uint64_t began_ns_ = 0;  // the turn
  ClientId holder_ = 0;
  bool held_ = false;
  std::uint64_t paid_ns_ = 0;  // of this turn: the former holder paid for it, whose work ends in it
  std::uint64_t over_ns_ = 0;  // since when the turn is over, and the next waits for its work; before
                               // began_ns_: it is not
  std::size_t together_ = 0;   // clients that have had the device since the last update
  std::size_t active_ = 0;
  std::uint64_t look_again_ns_ = kUnlimited;
};

}  // namespace vgpu::daemon
