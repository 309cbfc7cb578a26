// Applies a scheduling policy to the gate pages of one device's workers: reads what they used, writes what
// they may use, wakes those who wait. Mechanism only; who gets what is policy.hpp's.
#pragma once

#include <memory>
#include <unordered_map>

#include "daemon/base/event_loop.hpp"
#include "daemon/scheduler/policy.hpp"
#include "protocol/gate.hpp"

namespace vgpu::daemon {

// Belongs to the loop's thread. Looks at the pages when a worker raises its attention descriptor and, while
// there are several clients, every millisecond (several busy) or ten (at most one busy). A lone client costs
// nothing.
class GateKeeper {
 public:
  GateKeeper(EventLoop& loop, std::unique_ptr<SchedulingPolicy> policy);
  ~GateKeeper();
  GateKeeper(const GateKeeper&) = delete;
  GateKeeper& operator=(const GateKeeper&) = delete;

  // A client's worker comes under the policy. `attention_fd` stays the caller's and must live until remove().
  void add(ClientId client, std::uint32_t weight, std::shared_ptr<GateMapping> gate, int attention_fd);
  void remove(ClientId client);
  void set_weight(ClientId client, std::uint32_t weight);
  // A held client gets no device time until it is let go: its queue waits, and it holds nobody back.
  void hold(ClientId client, bool held);

  // Reads all pages, asks the policy, writes the grants. Called by itself as said above.
  void tick();

 private:
  struct Entry {
    std::shared_ptr<GateMapping> gate;
    int attention_fd;
    bool held = false;
  };

  void schedule_next();

  EventLoop& loop_;
  std::unique_ptr<SchedulingPolicy> policy_;
  std::unordered_map<ClientId, Entry> entries_;
  std::vector<Usage> usage_;
  EventLoop::TimerId timer_ = 0;
};

}  // namespace vgpu::daemon
