// One client as the broker holds it, from its hello to its end. Plain state; session_manager.hpp acts on it.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "daemon/base/event_loop.hpp"
#include "daemon/devices/device.hpp"
#include "daemon/handover/state_memory.hpp"
#include "daemon/policy/peer.hpp"
#include "daemon/policy/policy.hpp"

namespace vgpu::daemon {

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
};

struct Session {
  std::uint64_t id = 0;
  SessionState state = SessionState::waiting;
  UniqueFd socket;  // to the client
  Peer peer;
  std::optional<GuestPlace> guest;  // of a process in a VM; then `socket` leads to the VM's own object
  pid_t guest_pid = 0;              // in its VM
  ClassConfig client_class;         // a copy: a reload may drop the class
  bool paused = false;              // gets no device time: its queue waits
  bool quarantined = false;         // the same, because of what its program did or the operator said
  bool fault_counted = false;
  Device* device = nullptr;
  Worker* worker = nullptr;           // null unless running
  std::shared_ptr<GateMapping> gate;  // outlives the worker, for the last figures
  UniqueFd channel;                   // memfd shared by client and worker
  EventLoop::Clock::time_point since;
  EventLoop::TimerId wait_timer = 0;
  std::string failure;  // how its worker ended
  std::optional<StateMemory>
      record;  // what the next vgpud must know of it (session_record.hpp), while it is kept

  // For the share of device time.
  std::uint64_t sampled_ns = 0;
  double share = 0;
};

// Under which name a session's descriptors are kept for the next vgpud.
[[nodiscard]] inline std::string store_owner(std::uint64_t session) {
  return "session-" + std::to_string(session);
}

}  // namespace vgpu::daemon
