// Applies a scheduling policy to the gate pages of one device's workers: reads what they used, writes what
// they may use, wakes those who wait. Mechanism only; who gets what is policy.hpp's.
#pragma once

#include <memory>
#include <unordered_map>

#include "daemon/base/event_loop.hpp"
#include "daemon/scheduler/policy.hpp"
#include "protocol/gate.hpp"

namespace vgpu::daemon {

// What the keeper has done for one client.
struct GateFigures {
  std::uint64_t charged_ns = 0;  // device time as the policy counts it
  std::uint64_t turns = 0;       // how often it was let on the device after it had had to wait
};

// Belongs to the loop's thread. Looks at the pages when a worker raises its attention descriptor and, while
// there are several clients, every millisecond (several busy) or ten (at most one busy). A lone client costs
// nothing.
//
// Where a device has no meter of its own, a worker can only say for how long its work was on the device. What
// several had there at once they shared: each is charged its part, so that the sum is the device's time.
class GateKeeper {
 public:
  GateKeeper(EventLoop& loop, std::unique_ptr<SchedulingPolicy> policy);
  ~GateKeeper();
  GateKeeper(const GateKeeper&) = delete;
  GateKeeper& operator=(const GateKeeper&) = delete;

  // A client's worker comes under the policy; what it has used before is not charged. `attention_fd` stays
  // the caller's and must live until remove(). `window_ns`: predicted device time that it may have in flight
  // while others may want the device.
  void add(ClientId client, const Terms& terms, std::uint64_t window_ns, std::shared_ptr<GateMapping> gate,
           int attention_fd);
  void remove(ClientId client);
  // Holds from the next tick on, which follows at once.
  void set_terms(ClientId client, const Terms& terms, std::uint64_t window_ns);
  // A held client gets no device time until it is let go; its calls wait.
  void hold(ClientId client, bool held);

  // Reads all pages, asks the policy, writes the grants. Called by itself as said above.
  void tick();

  [[nodiscard]] GateFigures figures(ClientId client) const;
  // How often the device was given to a client that had had to wait.
  [[nodiscard]] std::uint64_t switches() const { return switches_; }

 private:
  struct Entry {
    std::shared_ptr<GateMapping> gate;
    int attention_fd = -1;
    Terms terms;
    std::uint64_t window_ns = 0;
    std::uint64_t seen_ns = 0;  // its own counter at the last tick
    std::uint64_t more_ns = 0;  // what that counter has grown by at this one
    GateFigures figures;
    bool backlogged = false;
    bool held = false;
    bool waited = false;
  };

  void read_pages(std::uint64_t now);
  void apply(const Grant& grant, bool somebody_waits);
  void schedule_next();

  EventLoop& loop_;
  std::unique_ptr<SchedulingPolicy> policy_;
  std::unordered_map<ClientId, Entry> entries_;
  std::vector<Usage> usage_;
  std::uint64_t last_tick_ns_ = 0;
  std::uint64_t switches_ = 0;
  EventLoop::TimerId timer_ = 0;
};

}  // namespace vgpu::daemon
