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
#include "daemon/handover/descriptor_store.hpp"
#include "daemon/metrics/client_stats.hpp"
#include "daemon/metrics/rejections.hpp"
#include "daemon/policy/placing.hpp"
#include "daemon/policy/promises.hpp"
#include "daemon/policy/quarantine.hpp"
#include "daemon/session/ipc_registry.hpp"
#include "daemon/session/session.hpp"

namespace vgpu::daemon {

// Belongs to the loop's thread.
class SessionManager {
 public:
  // What is in `store` outlives this process; it outlives the manager, too.
  SessionManager(EventLoop& loop, std::shared_ptr<const Config> config, DescriptorStore& store);
  ~SessionManager();
  SessionManager(const SessionManager&) = delete;
  SessionManager& operator=(const SessionManager&) = delete;

  // A device that clients may be placed on; the first is the default. Devices outlive the manager.
  void add_device(Device& device);

  // A connection that has said hello and which devices it wishes for. Decides about it now or when a worker
  // is ready.
  void admit(UniqueFd socket, const DeviceWish& wish);
  // A process in a VM asks for a session of a class on a device ("": the least loaded of the default pool).
  // What a client would be told over its connection comes through `socket`, whose far end the VM holds;
  // closing that ends the session. Returns the session's id, or 0 when it was refused (the refusal lies in
  // the socket).
  std::uint64_t admit_guest(UniqueFd socket, GuestPlace guest, const ClassConfig& client_class,
                            const std::string& device);
  // Who it is for, as the guest says: for display, and to tell the users of one VM apart.
  void name_guest(std::uint64_t id, pid_t pid, uid_t uid, const std::string& program);
  // What a guest process's VM may have, and among how many processes weight and rates are divided now.
  void share_guest(std::uint64_t id, const ClassConfig& whole, unsigned parts);
  // The figures of a session's worker, or null.
  [[nodiscard]] const GatePage* page_of(std::uint64_t id) const;
  // A connection that asks for the state of a device of its own: answers and closes.
  void answer_status(UniqueFd socket, const StatusQuery& query);

  // From Greeter: a connection was refused before it was a client's.
  void count_rejection(uid_t uid, RejectionReason reason, const std::string& why);

  // From Device: a worker can be taken; no worker can be started.
  void worker_ready(Device& device);
  void device_problem(Device& device, const std::string& why);

  // From GateKeeper: a command of this session has taken longer than its class allows. The client gets
  // CUDA_ERROR_LAUNCH_TIMEOUT, its worker is replaced.
  void command_too_long(std::uint64_t id);

  // Keeps a user's program from the device for `how_long` (0: until it is released): new clients of it are
  // refused, those present wait.
  void quarantine(const Subject& subject, std::chrono::microseconds how_long, const std::string& why);
  // False when it was not in quarantine.
  bool release(const Subject& subject);
  [[nodiscard]] std::vector<QuarantineEntry> quarantined();

  // A new configuration: for new clients whole, for present ones what the class has that they belong to now.
  void apply(std::shared_ptr<const Config> config);

  // Live control (session_control.cpp). Changes hold from the next look at the gate page on. The error is a
  // sentence.
  [[nodiscard]] const Session* find(std::uint64_t id) const;
  [[nodiscard]] std::vector<std::uint64_t> of_process(pid_t pid) const;
  // Whether adjust() can be done as a whole; changes nothing.
  [[nodiscard]] tl::expected<void, std::string> try_adjust(std::uint64_t id,
                                                           const ClientChange& change) const;
  // What an administrator says of a client, after try_adjust() found it good.
  void adjust(std::uint64_t id, const ClientChange& change);
  // Whether its owner may say this: not where it asks for more than the client has been given.
  [[nodiscard]] tl::expected<void, std::string> try_lower(std::uint64_t id, const Settings& settings) const;
  // What its owner says, after try_lower() found it good.
  void lower(std::uint64_t id, const Settings& settings);
  // Its queue waits, never an error. What an administrator paused, only an administrator resumes.
  [[nodiscard]] tl::expected<void, std::string> pause(std::uint64_t id, bool paused, bool by_administrator);
  // Its worker ends, its calls fail from now on.
  void kill(std::uint64_t id, const std::string& why) { end(id, why); }

  // Ends every session, as at shutdown.
  void end_all(const std::string& why);

  // Goes on with the sessions that an earlier vgpud left in the store: once, after all devices have been
  // added and before anybody is admitted. What cannot go on is ended.
  void adopt();
  // Leaves every running session to the next vgpud and forgets it; the others end.
  void hand_over();

  // Figures of those present, oldest first.
  [[nodiscard]] std::vector<ClientStats> stats(StatsDetail detail) const;
  [[nodiscard]] const EndedClients& ended() const { return ended_; }
  [[nodiscard]] const SessionCounters& counters() const { return counters_; }
  // Of who was refused, since the start.
  [[nodiscard]] std::vector<Rejection> rejections() const { return rejections_.all(); }
  [[nodiscard]] const std::deque<RefusedClient>& recently_refused() const { return rejections_.recent(); }
  // Of all clients that `device` has had.
  [[nodiscard]] DeviceFigures figures(const Device& device) const;
  // Part of the last second in which `device` was busy, 0..1.
  [[nodiscard]] double utilisation(const Device& device) const;

 private:
  static constexpr std::chrono::seconds sample_period{1};

  using Sessions = std::map<std::uint64_t, std::unique_ptr<Session>>;

  // Why a client is refused: what it is told, and what is counted.
  struct Refusal {
    RefusalCode code;
    RejectionReason reason;
    std::string text;
  };
  void refuse(int socket, const Identity& who, const std::string& class_name, const Refusal& refusal);
  // One that is admitted to no device: counted for the one on which it would have been placed, if any.
  void refuse_before_placing(int socket, const Identity& who, const Placement& placement,
                             const DeviceWish& wish, const Refusal& refusal);
  // One that has been placed on a device.
  void refuse(const Session& session, const Refusal& refusal);
  // Why one more client is too many, or empty (session_limits.cpp). A VM counts as a user of its own.
  [[nodiscard]] std::string over_limit(const Identity& who, const ClassConfig& client_class) const;
  // The same for one more process of a VM on a device: some of its workers are left to everybody else.
  [[nodiscard]] std::string over_vms_share(const std::string& vm, const Device& device) const;
  Device* find_device(const std::string& name) const;
  std::uint64_t start(std::unique_ptr<Session> session);
  // session_limits.cpp
  struct Place {
    Device* device = nullptr;
    bool settled = true;  // see Choice
    std::vector<Device*> further;
    std::vector<std::string> left_out;
  };
  [[nodiscard]] std::vector<PlacingDevice> placing_devices() const;
  // choose_devices, with what the process was told before where it has no wish (pid 0: of no process here).
  [[nodiscard]] tl::expected<Choice, std::string> choose(const std::vector<PlacingDevice>& all,
                                                         const std::vector<std::size_t>& usable,
                                                         const DeviceWish& wish, unsigned most,
                                                         pid_t pid) const;
  [[nodiscard]] tl::expected<Place, std::string> place(const Placement& placement, const DeviceWish& wish,
                                                       pid_t pid) const;
  // Chooses anew for a client that waits on a device which has told its UUID, or cannot serve. True when it
  // stays there for good; otherwise it is where it belongs now, waits for another device's UUID, or has
  // ended.
  bool settle(Session& session);
  // session_status.cpp
  // The oldest of a process; null: it has none.
  [[nodiscard]] const Session* session_of(pid_t pid) const;
  // The devices that libnvidia-ml lists for a process that has this session (or null) and would be placed so,
  // which is promised its own.
  [[nodiscard]] tl::expected<std::vector<const Device*>, Refused> listed_for(
      pid_t pid, const Session* session, const tl::expected<Placement, std::string>& placement,
      const DeviceWish& wish);
  [[nodiscard]] GateTerms gate_terms(const Session& session) const;
  // Whose memory may be moved out, or counts beside such memory.
  static void watch_residence(const Session& session);
  // Puts a client's worker under the policies of all of its devices.
  void watch_gates(Session& session);
  // Makes what the session's class says hold for its worker.
  void push(Session& session);
  // Paused and quarantined clients get no device time.
  [[nodiscard]] static bool held(const Session& session);
  void hold_if_needed(Session& session);
  // A session ended with a fault: counts it, once, and may put its program in quarantine.
  void count_fault(Session& session, const std::string& how);
  void look_at_quarantine();
  void serve(Session& session);
  bool attach(Session& session, Worker& worker);
  void worker_ended(std::uint64_t id, const std::string& how, bool orderly);
  // Its worker is no more or must be no more: the client's calls fail from now on.
  void fail(Session& session, const std::string& how);
  void release_worker(Session& session);
  // session_control.cpp
  // What policy and administrators give a client, without its owner's changes.
  [[nodiscard]] ClassConfig granted(const Session& session) const;
  [[nodiscard]] tl::expected<void, std::string> try_move(const Session& session, const std::string& name,
                                                         bool may_wait) const;
  // Only a client that waits for a worker.
  void move(Session& session, Device& device);
  // Computes what holds for a client anew, and makes it hold, also for the next vgpud.
  void refresh(Session& session);
  void end(std::uint64_t id, const std::string& why);
  void count_waiting(Device& device);
  [[nodiscard]] std::vector<std::uint64_t> waiting_on(const Device& device) const;
  /// Sessions with ids below `before` that wait for a worker of the device.
  unsigned waiting(const Device& device, std::uint64_t before) const;
  void watch(Session& session);
  void on_client_socket(std::uint64_t id);
  void sample();
  void look_for_shared_faults();
  void share_fault(Device& device, std::uint64_t error);

  // session_ipc.cpp: what the worker of a session says of memory and events shared with others.
  void listen_to(Worker& worker, std::uint64_t id);
  void on_ipc(std::uint64_t id, const IpcRequest& request, int fd);
  IpcAnswer resolve_ipc(const Session& asker, const IpcRequest& request, int& fd) const;

  // handover.cpp
  void keep(Session& session);
  void write_record(Session& session);
  void keep_broker();
  void adopt_broker();
  void adopt_one(const std::string& owner, KeptParts parts);
  tl::expected<std::unique_ptr<Session>, std::string> restore(KeptParts& parts);
  [[nodiscard]] ClientStats describe(const Session& session, StatsDetail detail) const;

  EventLoop& loop_;
  std::shared_ptr<const Config> config_;
  DescriptorStore& store_;
  std::optional<StateMemory> broker_record_;  // none without a service manager
  std::vector<Device*> devices_;
  Sessions sessions_;
  EndedClients ended_;
  SessionCounters counters_;
  Rejections rejections_;
  Quarantine quarantine_;
  Promises promises_;
  IpcRegistry ipc_;
  EventLoop::Clock::time_point adopted_{};  // when sessions of an earlier vgpud were taken over
  log::Limiter refusals_{20, std::chrono::seconds(10)};
  std::map<const Device*, double> utilisation_;
  std::map<const Device*, DeviceFigures> past_;  // of clients that have ended; counts of all
  std::uint64_t next_id_ = 1;
  EventLoop::TimerId sampler_ = 0;
  EventLoop::TimerId fault_watch_ = 0;
};

}  // namespace vgpu::daemon
