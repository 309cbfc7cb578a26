// One client as the broker holds it, from its hello to its end. Plain state; session_manager.hpp acts on it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/base/event_loop.hpp"
#include "daemon/devices/device.hpp"
#include "daemon/handover/state_memory.hpp"
#include "daemon/policy/peer.hpp"
#include "daemon/policy/policy.hpp"
#include "daemon/policy/quarantine.hpp"

namespace vgpu::daemon {

// The uid of processes in VMs: nobody of this machine.
inline constexpr uid_t kNobody = static_cast<uid_t>(-1);

enum class SessionState {
  waiting,  // admitted by policy, no worker is ready yet
  running,
  failed,  // its worker has ended; the client has not noticed or not left yet
};

// Where the channel of a process in a VM lies (daemon/stub/host).
struct GuestPlace {
  std::string vm;                 // the VM's name
  int memory = -1;                // the VM's memory; used at admission only
  std::uint64_t slot_offset = 0;  // of the channel in it, bytes
  std::uint64_t arena_bytes = 0;
  std::uint64_t control_offset = 0;  // of the slot's stub::SlotControl
  int account = -1;                  // the VM's MemoryAccount; used at admission only
  std::uint32_t account_place = 0;   // its place there
};

// What was changed of one client while it runs, over what the policy gives it.
struct Adjustments {
  std::string class_name;     // by an administrator; empty: the policy's
  Settings by_administrator;  // over the class
  Settings by_owner;          // over that, as far as it asks for less
  bool paused_by_administrator = false;
  bool paused_by_owner = false;

  [[nodiscard]] bool paused() const { return paused_by_administrator || paused_by_owner; }
};

// What an administrator changes of a client.
struct ClientChange {
  std::optional<std::string> class_name;
  Settings settings;                  // over the class
  std::optional<std::string> device;  // moves a client that still waits for a worker
  bool device_may_wait = false;       // one that runs may stay where it is: its next start is meant
};

struct Session {
  std::uint64_t id = 0;
  SessionState state = SessionState::waiting;
  UniqueFd socket;  // to the client
  Peer peer;
  std::optional<GuestPlace> guest;  // of a process in a VM; then `socket` leads to the VM's own object
  pid_t guest_pid = 0;              // in its VM
  std::optional<uid_t> guest_uid;   // in its VM, as that says; empty: not said yet
  ClassConfig client_class;  // what holds for this client: class, rule and adjustments together; its VM's
  unsigned parts = 1;        // among how many processes the VM's weight and rates are divided
  Adjustments adjustments;
  bool quarantined = false;  // gets no device time, because of what its program did or the operator said
  bool fault_counted = false;
  DeviceWish wish;                    // which devices it asked for
  bool settled = true;                // false: `device` may be one of them, which it must tell first
  Device* device = nullptr;           // its first, whose worker serves it
  std::vector<Device*> further;       // those that it has besides
  Worker* worker = nullptr;           // null unless running
  std::shared_ptr<GateMapping> gate;  // a page a device; outlives the worker, for the last figures
  UniqueFd channel;                   // memfd shared by client and worker
  UniqueFd account;                   // of a process in a VM: the VM's MemoryAccount, for its worker
  bool welcomed = false;              // its client knows of it
  EventLoop::Clock::time_point since;
  EventLoop::TimerId wait_timer = 0;
  std::string failure;  // how its worker ended
  std::optional<StateMemory>
      record;  // what the next vgpud must know of it (session_record.hpp), while it is kept

  // For the share of device time, a value a device.
  std::array<std::uint64_t, most_client_devices> sampled_ns{};
  std::array<double, most_client_devices> share{};

  [[nodiscard]] double weight() const { return static_cast<double>(client_class.weight) / parts; }
  [[nodiscard]] std::size_t device_count() const { return 1 + further.size(); }
  [[nodiscard]] Device& device_at(std::size_t place) const {
    return place == 0 ? *device : *further[place - 1];
  }
  // The place of a device among its own; none: it does not have it.
  [[nodiscard]] std::optional<std::size_t> place_of(const Device& wanted) const {
    for (std::size_t i = 0; i < device_count(); ++i) {
      if (&device_at(i) == &wanted) return i;
    }
    return std::nullopt;
  }
  // "gpu0", or "gpu0,gpu1" of a client with several.
  [[nodiscard]] std::string device_names() const {
    std::string names = device->config().name;
    for (const Device* other : further) names += "," + other->config().name;
    return names;
  }
};

// What is quarantined when this client's work is to blame.
[[nodiscard]] inline Subject subject_of(const Session& session) {
  return {session.peer.identity.uid, session.peer.identity.executable};
}

// What happened to all sessions since the start, for `vgpud-cli stats`.
struct SessionCounters {
  std::uint64_t admitted = 0;
  std::uint64_t refused = 0;
  std::uint64_t worker_failures = 0;
  std::uint64_t faults = 0;               // sessions that ended with a fault of the device or of the worker
  std::uint64_t watchdog_kills = 0;       // commands that took longer than their class allows
  std::uint64_t quarantines = 0;          // put in quarantine, by faults or by hand
  std::uint64_t refused_quarantined = 0;  // clients refused because of it
  std::uint64_t refused_limits = 0;       // clients refused because there were too many

  bool operator==(const SessionCounters&) const = default;
};

// Under which name a session's descriptors are kept for the next vgpud.
[[nodiscard]] inline std::string store_owner(std::uint64_t session) {
  return "session-" + std::to_string(session);
}

}  // namespace vgpu::daemon
