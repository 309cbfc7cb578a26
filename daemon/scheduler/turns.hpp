// Three orders in which clients take turns on a device: first come first served, earliest deadline first, and
// slices by weight. Each says only who goes first and for how long; turn_policy.hpp does the rest.
#pragma once

#include "daemon/scheduler/turn_policy.hpp"

namespace vgpu::daemon {

// Who came first has the device until it has no more work, but goes to the end of the line when another has
// waited for `patience_ns` (and it has had `quantum_ns`).
class Fifo final : public TurnPolicy {
 public:
  Fifo(std::uint64_t quantum_ns, std::uint64_t patience_ns, const TurnRules& rules)
      : TurnPolicy(rules), quantum_ns_(quantum_ns), patience_ns_(patience_ns) {}

 protected:
  void arrived(Account&, std::uint64_t) override {}
  void used(Account&, std::uint64_t, std::uint64_t) override {}
  void turn_ended(Account& account, std::uint64_t now_ns) override { account.arrived_ns = now_ns; }
  [[nodiscard]] bool before(const Account& a, const Account& b) const override {
    return a.arrived_ns != b.arrived_ns ? a.arrived_ns < b.arrived_ns : a.client < b.client;
  }
  [[nodiscard]] bool keeps(const Account& holder, const Account& next, std::uint64_t now_ns) const override {
    return holder.turn_used_ns < quantum_ns_ || now_ns - next.arrived_ns < patience_ns_;
  }
  [[nodiscard]] std::uint64_t remaining(const Account&) const override { return kUnlimited; }

 private:
  std::uint64_t quantum_ns_;
  std::uint64_t patience_ns_;
};

// The client whose deadline is nearest has the device. Its deadline is its terms' time after it became busy,
// and is put off by that time whenever it has used a quantum (times weight / 100), so that a client with
// endless work starves nobody. Source: the constant bandwidth server of Abeni and Buttazzo (1998). Device
// time that nobody else wanted is free, as with the reclaiming server of Lipari and Baruah (2000): whoever
// comes finds no deadline put off for it.
class EarliestDeadline final : public TurnPolicy {
 public:
  EarliestDeadline(std::uint64_t quantum_ns, const TurnRules& rules)
      : TurnPolicy(rules), quantum_ns_(quantum_ns) {}

 protected:
  void arrived(Account& account, std::uint64_t now_ns) override;
  void used(Account& account, std::uint64_t ns, std::uint64_t now_ns) override;
  void turn_ended(Account&, std::uint64_t) override {}
  [[nodiscard]] bool before(const Account& a, const Account& b) const override {
    const std::uint64_t first = deadline_of(a);
    const std::uint64_t second = deadline_of(b);
    return first != second ? first < second : a.client < b.client;
  }
  [[nodiscard]] bool keeps(const Account& holder, const Account& next, std::uint64_t) const override {
    return !before(next, holder);
  }
  [[nodiscard]] std::uint64_t remaining(const Account& holder) const override {
    return static_cast<std::uint64_t>(holder.budget_ns);
  }

 private:
  [[nodiscard]] static std::uint64_t deadline_of(const Account& account) {
    return account.since_ns + account.terms.deadline_ns;
  }
  [[nodiscard]] std::int64_t budget_of(const Account& account) const;

  std::uint64_t quantum_ns_;
};

// Turns of `slice_ns` (times weight / 100) each, to the client that has had the least for its weight.
class TimeSlices final : public TurnPolicy {
 public:
  // `idle_after_ns`: who pauses for less keeps what it has fallen behind.
  TimeSlices(std::uint64_t slice_ns, std::uint64_t idle_after_ns, const TurnRules& rules)
      : TurnPolicy(rules), slice_ns_(slice_ns), idle_after_ns_(idle_after_ns) {}

 protected:
  void arrived(Account& account, std::uint64_t now_ns) override;
  void used(Account& account, std::uint64_t ns, std::uint64_t now_ns) override;
  void turn_ended(Account&, std::uint64_t) override {}
  [[nodiscard]] bool before(const Account& a, const Account& b) const override {
    return a.clock != b.clock ? a.clock < b.clock : a.client < b.client;
  }
  [[nodiscard]] bool keeps(const Account& holder, const Account& next, std::uint64_t) const override {
    const bool cut_short =
        is_new(next) && next.clock < holder.clock && holder.turn_used_ns >= rules().least_ns;
    return remaining(holder) > rules().lead_ns && !cut_short;
  }
  [[nodiscard]] std::uint64_t remaining(const Account& holder) const override;

 private:
  [[nodiscard]] std::uint64_t slice_of(const Account& account) const;

  std::uint64_t slice_ns_;
  std::uint64_t idle_after_ns_;
  double present_ = 0;  // the clock of who had had the least of those with work, when somebody last had some
};

}  // namespace vgpu::daemon
