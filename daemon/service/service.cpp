#include "daemon/service/service.hpp"

#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "daemon/base/log.hpp"
#include "daemon/config/restart.hpp"
#include "daemon/service/systemd.hpp"
#include "protocol/errno_text.hpp"
#include "protocol/futex.hpp"

namespace vgpu::daemon {
namespace {

// A client costs the broker about ten descriptors.
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

std::string all_texts(const ConfigErrors& errors) {
  std::string all;
  for (const ConfigError& error : errors) all += (all.empty() ? "" : "; ") + error.text();
  return all;
}

}  // namespace

void Overrides::apply(Config& config) const {
  if (!socket.empty()) config.socket = socket;
  if (!control.empty()) config.control = control;
  if (!sysfs_root.empty()) config.sysfs_root = sysfs_root;
}

Service::Service(Config config, std::vector<ConfigDocument> documents, Overrides overrides)
    : live_(config.file, std::move(documents)), overrides_(std::move(overrides)) {
  overrides_.apply(config);
  config_ = std::make_shared<const Config>(std::move(config));
  started_ = config_;
}

Service::~Service() {
  control_.reset();
  reserve_.reset();
  greeter_.reset();
  vms_.reset();
  // Whether vgpud is stopped or restarted it does not know: the service manager closes what it keeps, or does
  // not.
  if (sessions_ && store_->enabled()) sessions_->hand_over();
  sessions_.reset();
  devices_.clear();  // kills and reaps the workers
  if (signals_) {
    loop_.forget(signals_.get());
    sigprocmask(SIG_SETMASK, &old_signals_, nullptr);
  }
}

tl::expected<UniqueFd, std::string> Service::listener(const std::string& path, int type,
                                                      ListeningPath& keeper) {
  UniqueFd passed = systemd::take_socket(type);
  if (passed) {
    log::info("listening on a socket of systemd type={}", type == SOCK_STREAM ? "control" : "clients");
    return passed;
  }
  auto made = ListeningPath::create(path, type, config_->group);
  if (!made) return tl::unexpected(made.error());
  UniqueFd socket = made->take_socket();
  keeper = std::move(*made);
  log::info("listening path={}", path);
  return socket;
}

tl::expected<void, std::string> Service::watch_signals() {
  sigset_t wanted;
  sigemptyset(&wanted);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&wanted, number);
  sigprocmask(SIG_BLOCK, &wanted, &old_signals_);
  signal(SIGPIPE, SIG_IGN);
  signals_.reset(signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) return tl::unexpected(errno_text("signalfd"));
  loop_.watch(signals_.get(), EPOLLIN, [this](std::uint32_t) { on_signal(); });
  return {};
}

void Service::on_signal() {
  signalfd_siginfo info{};
  if (read(signals_.get(), &info, sizeof info) != static_cast<ssize_t>(sizeof info)) return;
  if (info.ssi_signo != SIGHUP) {
    log::info("ending on a signal signal={}", info.ssi_signo);
    systemd::notify("STOPPING=1");
    loop_.stop();
    return;
  }
  // MONOTONIC_USEC: systemd.service(5), Type=notify-reload; harmless for Type=notify.
  systemd::notify("RELOADING=1\nMONOTONIC_USEC=" + std::to_string(now_ns() / 1000));
  const bool good = reload().has_value();
  systemd::notify(
      "READY=1\nSTATUS=" +
      std::string(good ? "configuration reloaded" : "the new configuration is wrong, the old one holds"));
}

tl::expected<std::vector<std::string>, std::string> Service::reload() {
  auto fresh = live_.reload();
  if (!fresh) {
    std::string text = all_texts(fresh.error());
    log::error("new configuration is wrong, the old one holds errors={}", log::quoted(text));
    return tl::unexpected(std::move(text));
  }
  apply(std::move(*fresh));
  log::info("configuration reloaded file={} classes={} rules={}", config_->file, config_->classes.size(),
            config_->rules.size());
  std::vector<std::string> notes;
  if (const auto later = needs_restart(*started_, *config_); !later.empty()) {
    notes.push_back("these keep the values of vgpud's start until a restart: " + listed(later));
    log::warning("some of the configuration holds after a restart keys={}", log::quoted(listed(later)));
  }
  return notes;
}

void Service::apply(Config config) {
  overrides_.apply(config);
  config_ = std::make_shared<const Config>(std::move(config));
  log::configure(config_->log);
  greeter_->set_limits(config_->limits);
  for (const auto& device : devices_) {
    for (const DeviceConfig& wanted : config_->devices) {
      if (wanted.name == device->config().name) device->set_workers(wanted.prestart, wanted.max_workers);
    }
  }
  sessions_->apply(config_);
  vms_->apply(config_);
}

void Service::start_watchdog() {
  const auto interval = systemd::watchdog_interval();
  if (!interval) return;
  loop_.every(*interval, [] { systemd::notify("WATCHDOG=1"); });
}

void Service::start_reserve(const std::string& program) {
  std::uint64_t bytes = 0;
  for (const auto& device : devices_) {
    bytes += device->config().oversubscribe.reserve.value_or(0);
    device->residence().on_host_bytes([this] { aim_reserve(); });
  }
  if (bytes == 0) return;
  reserve_ = std::make_unique<ReserveProcess>(loop_, program, bytes);
  aim_reserve();
}

void Service::aim_reserve() {
  if (!reserve_) return;
  std::uint64_t bytes = 0;
  for (const auto& device : devices_) {
    const std::uint64_t part = device->config().oversubscribe.reserve.value_or(0);
    bytes += part - std::min(part, device->residence().host_bytes());
  }
  reserve_->aim(bytes);
}

tl::expected<void, std::string> Service::start() {
  log::configure(config_->log);
  raise_descriptor_limit();
  if (auto watched = watch_signals(); !watched) return watched;

  auto clients = listener(config_->socket, SOCK_SEQPACKET, socket_path_);
  if (!clients) return tl::unexpected(clients.error());
  auto control = listener(config_->control, SOCK_STREAM, control_path_);
  if (!control) return tl::unexpected(control.error());

  Locations locations = find_locations();
  if (!config_->worker.empty()) locations.worker = config_->worker;
  // systemd.exec(5), RuntimeDirectory=; elsewhere beside the sockets.
  const char* runtime = std::getenv("RUNTIME_DIRECTORY");
  locations.runtime_folder =
      runtime != nullptr ? runtime : std::filesystem::path(config_->control).parent_path().string();
  locations.sysfs_root = config_->sysfs_root;
  for (const DeviceConfig& wanted : config_->devices) {
    if (wanted.kind != DeviceKind::software && wanted.kind != DeviceKind::automatic) continue;
    locations.software_devices = std::max(locations.software_devices, wanted.ordinal + 1);
  }
  store_ = std::make_unique<DescriptorStore>();
  sessions_ = std::make_unique<SessionManager>(loop_, config_, *store_);
  for (const DeviceConfig& wanted : config_->devices) {
    const std::size_t index = devices_.size();
    Device::Callbacks callbacks;
    callbacks.on_worker_ready = [this, index] { sessions_->worker_ready(*devices_[index]); };
    callbacks.on_problem = [this, index](const std::string& why) {
      sessions_->device_problem(*devices_[index], why);
    };
    callbacks.on_stuck = [this](ClientId client) { sessions_->command_too_long(client); };
    const auto alike = std::count_if(
        devices_.begin(), devices_.end(),
        [&](const std::unique_ptr<Device>& before) { return before->config().ordinal == wanted.ordinal; });
    devices_.push_back(std::make_unique<Device>(loop_, wanted, static_cast<unsigned>(alike),
                                                config_->scheduler, locations, std::move(callbacks)));
    sessions_->add_device(*devices_.back());
  }
  sessions_->adopt();
  for (const auto& device : devices_) device->start();
  vms_ = std::make_unique<stub_host::Vms>(loop_, *sessions_, *store_);
  vms_->apply(config_);
  if (auto started = vms_->start(); !started) return started;

  greeter_ = std::make_unique<Greeter>(
      loop_, std::move(*clients), config_->limits,
      Greeter::Callbacks{
          [this](UniqueFd socket, const DeviceWish& wish) { sessions_->admit(std::move(socket), wish); },
          [this](UniqueFd socket, const StatusQuery& query) {
            sessions_->answer_status(std::move(socket), query);
          },
          [this](uid_t uid, RejectionReason reason, const std::string& why) {
            sessions_->count_rejection(uid, reason, why);
          }});
  start_reserve(locations.reserve);
  state_ = std::make_unique<BrokerState>(
      BrokerState{*sessions_, *greeter_, *vms_, devices_, reserve_.get(), config_->file, since_, live_,
                  [this]() -> const Config& { return *config_; },
                  [this](Config config) { apply(std::move(config)); }, [this] { return reload(); }});
  control_ = std::make_unique<ControlServer>(
      loop_, std::move(*control), config_->limits.control_connections,
      [this](const std::string& line, const Requester& who) { return answer_request(*state_, line, who); });
  start_watchdog();
  return {};
}

void Service::run() {
  log::info("vgpud serves version={} pid={} devices={}", VGPU_VERSION, getpid(), devices_.size());
  systemd::notify("READY=1\nSTATUS=serving " + std::to_string(devices_.size()) + " device(s)");
  prctl(PR_SET_TIMERSLACK, 10'000UL);  // turns on a device end on time: 50 us late is the default
  loop_.run();
  log::info("vgpud ends");
}

}  // namespace vgpu::daemon
