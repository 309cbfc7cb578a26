// One device that vgpud serves: its driver, its workers, its gate keeper, and what is known of it. Admits
// nobody.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "daemon/config/config.hpp"
#include "daemon/devices/driver.hpp"
#include "daemon/devices/mps.hpp"
#include "daemon/scheduler/gate_keeper.hpp"
#include "daemon/scheduler/residence_keeper.hpp"
#include "daemon/stub/guest/guest_link.hpp"
#include "daemon/worker_pool/worker_pool.hpp"

namespace vgpu::daemon {

// Belongs to the loop's thread. A device chosen as `auto` whose NVIDIA driver turns out to be unusable
// becomes a software device; a configured one never changes its kind.
class Device {
 public:
  // Called when a worker may be taken, and with a sentence when none could be started.
  struct Callbacks {
    std::function<void()> on_worker_ready;
    std::function<void(const std::string&)> on_problem;
    std::function<void(ClientId)> on_stuck;  // see GateKeeper
  };

  // `index`: how many devices of its ordinal stand before it in the configuration.
  Device(EventLoop& loop, DeviceConfig config, unsigned index, const SchedulerConfig& scheduler,
         const Locations& locations, Callbacks callbacks);
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // Changes how many workers are kept ready, and how many there may be at a time.
  void set_workers(unsigned prestart, unsigned max_workers);
  // Pre-starts workers.
  void start();

  // Takes over an attached worker of an earlier vgpud. Only where there is a pool(); the pointer is the
  // pool's.
  Worker* adopt(std::unique_ptr<Worker> worker);
  // What its workers share stays when this object ends, for those that the next vgpud adopts.
  void keep_sharing();

  [[nodiscard]] const DeviceConfig& config() const { return config_; }
  // What the driver library was chosen to be; none: problem() says why.
  [[nodiscard]] const std::optional<DriverChoice>& driver() const { return driver_; }
  // What the first worker reported; none: no worker was ready yet.
  [[nodiscard]] const std::optional<DeviceReport>& report() const { return report_; }
  // Why the device cannot serve now; empty: it can.
  [[nodiscard]] const std::string& problem() const { return problem_; }
  // Why a client that has it has no other device; empty: it may.
  [[nodiscard]] std::string why_alone() const;
  // True when its workers run under NVIDIA's multi-process service.
  [[nodiscard]] bool under_mps() const { return mps_ != nullptr; }
  // Null when there is no driver.
  [[nodiscard]] WorkerPool* pool() const { return pool_.get(); }
  [[nodiscard]] GateKeeper& gates() { return gates_; }
  [[nodiscard]] const GateKeeper& gates() const { return gates_; }
  // Whose memory lies on the device, where clients may hold more than it has.
  [[nodiscard]] ResidenceKeeper& residence() { return residence_; }
  [[nodiscard]] const ResidenceKeeper& residence() const { return residence_; }
  // True while it is not known whether the device can serve: a client waits, for 100 ms at most.
  [[nodiscard]] bool in_doubt() { return link_ && link_->in_doubt(); }
  // The largest arena that a client's channel can have here.
  [[nodiscard]] std::uint64_t most_arena_bytes() const {
    return link_ ? link_->most_arena_bytes() : max_arena_bytes;
  }
  // The way to the host's vgpud; null unless this is a guest's device.
  [[nodiscard]] const GuestLink* link() const { return link_.get(); }
  // The policy in force: the configured one or, where none is, what suits the device.
  [[nodiscard]] PolicyKind policy() const;

 private:
  void choose(DeviceKind kind);
  std::vector<std::string> sharing_environment();
  // What its workers are told besides.
  std::vector<std::string> worker_environment();
  void choose_link();
  void link_up();
  void link_down(const std::string& why);
  void make_pool();
  // What the residence keeper must know of the device.
  void know_memory(const DeviceReport& report);
  void on_start_failed(const std::string& why);
  void learn(const DeviceReport& report);

  EventLoop& loop_;
  DeviceConfig config_;
  Locations locations_;
  Callbacks callbacks_;
  std::optional<DriverChoice> driver_;
  std::optional<DeviceReport> report_;
  std::string problem_;
  PolicyOptions policy_options_;
  unsigned index_;
  GateKeeper gates_;
  ResidenceKeeper residence_;
  std::unique_ptr<MpsControl> mps_;  // before the pool: workers end first
  std::unique_ptr<GuestLink> link_;
  std::unique_ptr<WorkerPool> pool_;
};

}  // namespace vgpu::daemon
