// One client as the broker holds it, from its hello to its end. Plain state; session_manager.hpp acts on it.
#pragma once

#include <memory>
#include <string>

#include "daemon/base/event_loop.hpp"
#include "daemon/devices/device.hpp"
#include "daemon/policy/peer.hpp"
#include "daemon/policy/policy.hpp"

namespace vgpu::daemon {

enum class SessionState {
  waiting,  // admitted by policy, no worker is ready yet
  running,
  failed,  // its worker has ended; the client has not noticed or not left yet
};

// What was changed of one client while it runs, over what the policy gives it.
struct Adjustments {
  std::string class_name;     // by an administrator; empty: the policy's
  Settings by_administrator;  // over the class
  Settings by_owner;          // over that, as far as it asks for less
  bool paused_by_administrator = false;
  bool paused_by_owner = false;
};

struct Session {
  std::uint64_t id = 0;
  SessionState state = SessionState::waiting;
  UniqueFd socket;  // to the client
  Peer peer;
  ClassConfig client_class;  // what holds for this client: class, rule and adjustments together
  Adjustments adjustments;
  bool paused = false;  // gets no device time: its queue waits
  Device* device = nullptr;
  Worker* worker = nullptr;           // null unless running
  std::shared_ptr<GateMapping> gate;  // outlives the worker, for the last figures
  UniqueFd channel;                   // memfd shared by client and worker
  EventLoop::Clock::time_point since;
  EventLoop::TimerId wait_timer = 0;
  std::string failure;  // how its worker ended

  // For the share of device time.
  std::uint64_t sampled_ns = 0;
  double share = 0;
};

}  // namespace vgpu::daemon
