// Applies the residence policy to the gate pages of one device's workers: reads what they hold and ask for,
// says who may have how much and who is to move out. Mechanism only; whom it concerns is
// residence_policy.hpp's.
//
// What a worker claims is bounded by what it was granted: a wrong claim costs its own client, nobody else.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "daemon/base/event_loop.hpp"
#include "daemon/scheduler/residence_policy.hpp"
#include "protocol/gate.hpp"

namespace vgpu::daemon {

// Belongs to the loop's thread. look() is called by the gate keeper, whenever that looks; while somebody
// waits it calls itself, too. Costs nothing on a device where nothing is moved.
class ResidenceKeeper {
 public:
  ResidenceKeeper(EventLoop& loop, const ResidenceOptions& options) : loop_(loop), options_(options) {}
  ~ResidenceKeeper();
  ResidenceKeeper(const ResidenceKeeper&) = delete;
  ResidenceKeeper& operator=(const ResidenceKeeper&) = delete;

  // True where new clients' memory is to be movable.
  [[nodiscard]] bool enabled() const { return options_.host_limit != 0; }
  // What the device has in all, and how many workers there are now, with or without a client.
  void set_device(std::uint64_t bytes, std::uint64_t context_bytes, std::function<unsigned()> workers);
  // All clients that an earlier vgpud left have been added: from now on there are answers.
  void open();

  // A client's worker comes under the policy; one whose memory is not movable counts with what it holds. One
  // that an earlier vgpud left goes on where it is.
  void add(ClientId client, unsigned level, std::shared_ptr<GateMapping> gate);
  void remove(ClientId client);
  void set_level(ClientId client, unsigned level);

  // Reads all pages, asks the policy, writes the answers.
  void look();

  // What clients may have together now; 0: not known yet.
  [[nodiscard]] std::uint64_t capacity() const;
  // Host memory that clients have taken for what is moved out, or are about to take: the most that each had,
  // for as long as it keeps that.
  [[nodiscard]] std::uint64_t host_bytes() const;
  // Is called when that has changed; before a client hears that it is to move out.
  void on_host_bytes(std::function<void()> changed) { host_changed_ = std::move(changed); }
  // Orders to move out that were obeyed.
  [[nodiscard]] std::uint64_t moves() const { return moves_; }

 private:
  struct Entry {
    std::shared_ptr<GateMapping> gate;
    Tenant tenant;
    std::uint64_t claim = 0;
    std::uint64_t order = 0;
    std::uint64_t request = 0;     // the one that `tenant` asks with
    std::uint64_t records = 0;     // its counter at the last look
    std::uint64_t excuses = 0;     // orders in a row that it could not obey
    std::uint64_t moves_seen = 0;  // moves_ when its request came
    std::uint64_t stored = 0;      // host memory that it has taken for what was moved out
  };

  void read(Entry& entry, std::uint64_t now);
  static void read_figures(Entry& entry, std::uint64_t now);
  void read_order(Entry& entry, std::uint64_t now);
  static void say(GatePage& page);
  static void tighten(Entry& entry);
  void apply(const ResidencePlan& plan, std::uint64_t now);
  [[nodiscard]] std::vector<Tenant> tenants() const;
  void look_later(std::uint64_t after_ns);
  void tell_host_bytes();

  EventLoop& loop_;
  const ResidenceOptions options_;
  std::uint64_t device_bytes_ = 0;
  std::uint64_t context_bytes_ = 0;
  std::function<unsigned()> workers_;
  std::map<ClientId, Entry> entries_;
  std::uint64_t moves_ = 0;
  std::function<void()> host_changed_;
  std::uint64_t host_told_ = 0;
  bool open_ = false;
  EventLoop::TimerId timer_ = 0;
};

}  // namespace vgpu::daemon
