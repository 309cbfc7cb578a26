// What each request of the control protocol (schema.hpp) means. Reads the broker's state; what
// changes it is changes.hpp.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "daemon/base/event_loop.hpp"
#include "daemon/control/live_config.hpp"
#include "daemon/control/server.hpp"
#include "daemon/devices/device.hpp"
#include "daemon/host_memory/reserve_process.hpp"
#include "daemon/metrics/client_stats.hpp"
#include "daemon/session/greeter.hpp"
#include "daemon/session/session_manager.hpp"
#include "daemon/stub/host/vms.hpp"

namespace vgpu::daemon {

// What the requests are answered from.
struct BrokerState {
  SessionManager& sessions;
  const Greeter& greeter;
  stub_host::Vms& vms;
  const std::vector<std::unique_ptr<Device>>& devices;
  const ReserveProcess* reserve;  // null: none is configured
  std::string config_file;
  EventLoop::Clock::time_point since;
  LiveConfig& live;
  // The configuration that holds.
  std::function<const Config&()> config;
  // Makes a configuration hold.
  std::function<void(Config)> apply;
  // Reloads the configuration: what of it has to wait for a restart, or a sentence when it is wrong.
  std::function<tl::expected<std::vector<std::string>, std::string>()> reload;
};

// Answers one request line. Any bytes are answered, none throws.
[[nodiscard]] std::string answer_request(const BrokerState& state, const std::string& line,
                                         const Requester& who);

// A client's figures as one line of JSON, as in "clients".
[[nodiscard]] std::string client_json(const ClientStats& stats);

}  // namespace vgpu::daemon
