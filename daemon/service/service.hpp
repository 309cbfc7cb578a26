// Puts the broker together from a configuration and runs it: sockets, devices, sessions, control, signals,
// systemd.
#pragma once

#include <csignal>
#include <memory>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "daemon/base/event_loop.hpp"
#include "daemon/config/config.hpp"
#include "daemon/config/load.hpp"
#include "daemon/control/live_config.hpp"
#include "daemon/control/requests.hpp"
#include "daemon/control/server.hpp"
#include "daemon/devices/device.hpp"
#include "daemon/host_memory/reserve_process.hpp"
#include "daemon/session/greeter.hpp"
#include "daemon/session/listen.hpp"
#include "daemon/session/session_manager.hpp"
#include "daemon/stub/host/vms.hpp"

namespace vgpu::daemon {

// What the command line says over the file.
struct Overrides {
  std::string socket;
  std::string control;
  std::string sysfs_root;

  void apply(Config& config) const;
};

// The whole broker. Start it once, run it once. SIGTERM and SIGINT end it, SIGHUP reloads the file it came
// from. Under a service manager its clients go on with the vgpud that is started next; else they end with it.
class Service {
 public:
  // `documents`: what `config` was read from.
  Service(Config config, std::vector<ConfigDocument> documents, Overrides overrides);
  ~Service();
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  // Opens the sockets and starts the workers. The error is a sentence.
  [[nodiscard]] tl::expected<void, std::string> start();
  // Serves until a signal or stop().
  void run();
  void stop() { loop_.stop(); }

  // Reads the configuration again; keeps the present one and returns a sentence when the new one is wrong.
  // Sockets, devices and whatever else config/restart.hpp names keep their present values until a restart;
  // sentences say which of them the new configuration changes.
  tl::expected<std::vector<std::string>, std::string> reload();

  [[nodiscard]] EventLoop& loop() { return loop_; }

 private:
  tl::expected<UniqueFd, std::string> listener(const std::string& path, int type, ListeningPath& keeper);
  tl::expected<void, std::string> watch_signals();
  // Makes a configuration hold, as far as that is possible without a restart.
  void apply(Config config);
  void on_signal();
  void start_watchdog();
  // One for all devices: each has its part of it, less what its clients have taken of the host's memory.
  void start_reserve(const std::string& program);
  void aim_reserve();

  EventLoop loop_;
  std::shared_ptr<const Config> config_;
  std::shared_ptr<const Config> started_;  // what it was started with
  LiveConfig live_;
  Overrides overrides_;
  EventLoop::Clock::time_point since_ = EventLoop::Clock::now();
  UniqueFd signals_;
  sigset_t old_signals_{};
  ListeningPath socket_path_;
  ListeningPath control_path_;
  std::unique_ptr<DescriptorStore> store_;
  std::vector<std::unique_ptr<Device>> devices_;
  std::unique_ptr<SessionManager> sessions_;  // after the devices: it is destroyed first
  std::unique_ptr<stub_host::Vms> vms_;
  std::unique_ptr<Greeter> greeter_;
  std::unique_ptr<ReserveProcess> reserve_;  // none: not configured
  std::unique_ptr<BrokerState> state_;
  std::unique_ptr<ControlServer> control_;
};

}  // namespace vgpu::daemon
