// Applies a scheduling policy to the gate pages of one device's workers: reads what they used, writes what
// they may use, wakes those who wait. Mechanism only; who gets what is policy.hpp's.
#pragma once

#include <functional>
#include <memory>
#include <unordered_map>

#include "daemon/base/event_loop.hpp"
#include "daemon/scheduler/policy.hpp"
#include "protocol/gate.hpp"

namespace vgpu::daemon {

// What holds for one client on its device.
struct GateTerms {
  Terms terms;
  std::uint64_t window_ns = 0;    // predicted device time in flight while others may want the device
  std::uint64_t brief_ns = 0;     // the same while somebody of a higher priority is expected
  std::uint64_t watchdog_ns = 0;  // device time that one command may take; 0: no limit
};

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
  // Called, from the loop, with a client one command of which has taken longer than its watchdog allows.
  using Stuck = std::function<void(ClientId)>;

  GateKeeper(EventLoop& loop, std::unique_ptr<SchedulingPolicy> policy);
  ~GateKeeper();
  GateKeeper(const GateKeeper&) = delete;
  GateKeeper& operator=(const GateKeeper&) = delete;

  // Another policy; only while there are no clients.
  void use(std::unique_ptr<SchedulingPolicy> policy) { policy_ = std::move(policy); }
  void on_stuck(Stuck stuck) { stuck_ = std::move(stuck); }
  // Called at the end of each look, for others who read the same pages.
  void on_look(std::function<void()> look) { look_ = std::move(look); }

  // A client's worker comes under the policy, or is held from the start; what it has used before is not
  // charged. `attention_fd` stays the caller's and must live until remove(); -1: another keeper watches it
  // and says so by tick().
  void add(ClientId client, const GateTerms& terms, std::shared_ptr<GatePage> page, int attention_fd,
           bool held = false);
  // Called when a client's attention descriptor was raised, after tick().
  void on_attention(ClientId client, std::function<void()> also);
  void remove(ClientId client);
  // Holds from the next tick on, which follows at once.
  void set_terms(ClientId client, const GateTerms& terms);
  // A held client gets no device time until it is let go; its calls wait.
  void hold(ClientId client, bool held);
  // Lifts every limit and lets go of all clients: for the time in which no vgpud looks at the pages. Those
  // that are held stay so.
  void open_all();

  // Reads all pages, asks the policy, writes the grants. Called by itself as said above.
  void tick();

  [[nodiscard]] GateFigures figures(ClientId client) const;
  // How often the device was given to a client that had had to wait.
  [[nodiscard]] std::uint64_t switches() const { return switches_; }
  // Device time of all clients so far, as the policy counts it: what several had at once counts once.
  [[nodiscard]] std::uint64_t charged_ns() const;
  // Both count on from what an earlier broker had counted.
  void go_on_from(std::uint64_t switches, std::uint64_t charged_ns) {
    switches_ += switches;
    charged_ns_ += charged_ns;
  }

 private:
  struct Entry {
    std::shared_ptr<GatePage> page;
    int attention_fd = -1;
    std::function<void()> also;
    GateTerms terms;
    std::uint64_t seen_ns = 0;  // its own counter at the last tick
    std::uint64_t more_ns = 0;  // what that counter has grown by at this one
    GateFigures figures;
    std::uint64_t progress = 0;  // its counter of what has finished, at the last tick
    std::uint64_t stuck_ns = 0;  // device time since that counter grew
    std::uint64_t beats = 0;     // its sign of life, at the last tick
    std::uint64_t heard_ns = 0;  // when that last changed
    std::uint64_t moved_ns = 0;  // when it last used the device, had no work or waited at the gate
    bool silent = false;
    bool stalled = false;
    bool on_device = false;
    bool backlogged = false;
    bool held = false;
    bool waited = false;
  };

  void forget_attention(const Entry& entry);
  void read_pages(std::uint64_t now);
  // `waiting`: clients with work that have to wait; `busy`: clients with work.
  void apply(const Grant& grant, std::size_t waiting, std::size_t busy);
  // Whether a command of its has been on the device for too long.
  static bool is_stuck(Entry& entry, std::uint64_t elapsed);
  // Whether it has work, may run it and does not: its work waits for a host function or an event of
  // another's.
  static bool is_stalled(Entry& entry, std::uint64_t now);
  // Whether its worker has shown no sign of life for too long.
  static bool is_silent(Entry& entry, std::uint64_t now);
  void schedule_next();

  EventLoop& loop_;
  std::unique_ptr<SchedulingPolicy> policy_;
  std::unordered_map<ClientId, Entry> entries_;
  std::vector<Usage> usage_;
  Stuck stuck_;
  std::function<void()> look_;
  std::uint64_t last_tick_ns_ = 0;
  std::uint64_t switches_ = 0;
  std::uint64_t charged_ns_ = 0;
  EventLoop::TimerId timer_ = 0;
};

}  // namespace vgpu::daemon
