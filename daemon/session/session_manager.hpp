// Admits clients, gives each a worker and a channel, and clears up when either ends. The one place that knows
// both clients and devices; it never touches what goes through a channel.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/base/event_loop.hpp"
#include "daemon/base/log.hpp"
#include "daemon/config/config.hpp"
#include "daemon/devices/device.hpp"
#include "daemon/metrics/client_stats.hpp"
#include "daemon/session/session.hpp"

namespace vgpu::daemon {

// What happened since the start, for `vgpud-cli stats`.
struct SessionCounters {
  std::uint64_t admitted = 0;
  std::uint64_t refused = 0;
  std::uint64_t worker_failures = 0;
};

// Belongs to the loop's thread.
class SessionManager {
 public:
  SessionManager(EventLoop& loop, std::shared_ptr<const Config> config);
  ~SessionManager();
  SessionManager(const SessionManager&) = delete;
  SessionManager& operator=(const SessionManager&) = delete;

  // A device that clients may be placed on; the first is the default. Devices outlive the manager.
  void add_device(Device& device);

  // A connection that has said hello. Decides about it now or when a worker is ready.
  void admit(UniqueFd socket);
  // A process in a VM asks for a session of a class on a device ("": the default). What a client would be
  // told over its connection comes through `socket`, whose far end the VM holds; closing that ends the
  // session. Returns the session's id, or 0 when it was refused (the refusal lies in the socket).
  std::uint64_t admit_guest(UniqueFd socket, GuestPlace place, const ClassConfig& client_class,
                            const std::string& device);
  // Who it is for, as the guest says; for display only.
  void name_guest(std::uint64_t id, pid_t pid, const std::string& program);
  // Sets a guest process's part of its VM's weight and memory quota (0: none).
  void share_guest(std::uint64_t id, std::uint32_t weight, std::uint64_t memory_quota);
  // The figures of a session's worker, or null.
  [[nodiscard]] const GatePage* page_of(std::uint64_t id) const;

  // A connection that asks for the state of its device: answers and closes.
  void answer_status(UniqueFd socket);

  // From Device: a worker can be taken; no worker can be started.
  void worker_ready(Device& device);
  void device_problem(Device& device, const std::string& why);

  // A new configuration: for new clients whole, for present ones the weight and quota of their class.
  void apply(std::shared_ptr<const Config> config);

  // Ends every session, as at shutdown.
  void end_all(const std::string& why);

  // Figures of those present, oldest first; with `calls` also each call by name.
  [[nodiscard]] std::vector<ClientStats> stats(bool calls) const;
  [[nodiscard]] const EndedClients& ended() const { return ended_; }
  [[nodiscard]] const SessionCounters& counters() const { return counters_; }
  // Part of the last second in which `device` was busy, 0..1.
  [[nodiscard]] double utilisation(const Device& device) const;

 private:
  using Sessions = std::map<std::uint64_t, std::unique_ptr<Session>>;

  void refuse(int socket, const Identity& who, RefusalCode code, const std::string& text);
  [[nodiscard]] std::string over_limit(const Identity& who, const ClassConfig& client_class) const;
  Device* find_device(const std::string& name) const;
  [[nodiscard]] Device* usable_device(const std::string& name, int socket, const Identity& who);
  std::uint64_t start(std::unique_ptr<Session> session);
  void serve(Session& session);
  bool attach(Session& session, Worker& worker);
  void worker_ended(std::uint64_t id, const std::string& how, bool orderly);
  void release_worker(Session& session);
  void end(std::uint64_t id, const std::string& why);
  void count_waiting(Device& device);
  void watch(Session& session);
  void on_client_socket(std::uint64_t id);
  void sample();
  void look_for_shared_faults();
  void share_fault(Device& device, std::uint64_t error);
  [[nodiscard]] ClientStats describe(const Session& session, bool calls) const;

  EventLoop& loop_;
  std::shared_ptr<const Config> config_;
  std::vector<Device*> devices_;
  Sessions sessions_;
  EndedClients ended_;
  SessionCounters counters_;
  log::Limiter refusals_{20, std::chrono::seconds(10)};
  std::map<const Device*, double> utilisation_;
  std::uint64_t next_id_ = 1;
  EventLoop::TimerId sampler_ = 0;
  EventLoop::TimerId fault_watch_ = 0;
};

}  // namespace vgpu::daemon
