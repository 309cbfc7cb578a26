#include "daemon/devices/device.hpp"

#include <algorithm>
#include <cstdlib>

#include "daemon/base/log.hpp"
#include "daemon/scheduler/policies.hpp"

namespace vgpu::daemon {
namespace {

// A context of NVIDIA's driver took about 500 MiB of an H100.
constexpr std::uint64_t kContextBytes = 640ULL << 20U;

// The software GPU's own variable: how many devices it has.
constexpr const char* kSoftwareDevices = "SOFTGPU_DEVICES";

std::uint64_t ns(std::chrono::nanoseconds time) {
  return static_cast<std::uint64_t>(time.count());
}

ResidenceOptions residence_options(const OversubscribeConfig& config) {
  ResidenceOptions options;
  options.host_limit = config.host_limit.value_or(0);
  options.minimum_residence_ns = ns(config.minimum_residence);
  options.idle_after_ns = ns(config.idle_after);
  return options;
}

}  // namespace

Device::Device(EventLoop& loop, DeviceConfig config, unsigned index, const SchedulerConfig& scheduler,
               const Locations& locations, Callbacks callbacks)
    : loop_(loop),
      config_(std::move(config)),
      locations_(locations),
      callbacks_(std::move(callbacks)),
      policy_options_(scheduler.policy),
      index_(index),
      gates_(loop, make_policy(PolicyKind::fair, scheduler.policy)),
      residence_(loop, residence_options(config_.oversubscribe)) {
  gates_.on_stuck(callbacks_.on_stuck);
  gates_.on_look([this] { residence_.look(); });
  choose(config_.kind);
}

PolicyKind Device::policy() const {
  // A GPU executes one context at a time, and says of nobody's work what it took.
  const bool contexts_alternate = driver_ && driver_->kind == DeviceKind::cuda && !mps_;
  return config_.policy.value_or(contexts_alternate ? PolicyKind::turns : PolicyKind::fair);
}

std::string Device::why_alone() const {
  if (link_) return "is a host's";
  if (mps_) return "shares through NVIDIA MPS";
  return residence_.enabled() ? "is oversubscribed" : "";
}

// The device of a guest: its driver is the link, which may come and go.
void Device::choose_link() {
  link_ = std::make_unique<GuestLink>(
      loop_, locations_.sysfs_root, config_.function, config_.ids,
      GuestLink::Callbacks{[this] { link_up(); }, [this](const std::string& why) { link_down(why); }});
}

void Device::link_up() {
  driver_ = DriverChoice{DeviceKind::stub, link_->folder(), "a VGPU-STUB function is present"};
  problem_.clear();
  if (!pool_) make_pool();
  pool_->resume();
  // For clients that have waited while the host was in doubt.
  for (unsigned ready = pool_->count(WorkerState::ready); ready != 0; --ready) callbacks_.on_worker_ready();
}

void Device::link_down(const std::string& why) {
  problem_ = why;
  if (pool_) pool_->pause();
  callbacks_.on_problem(why);
}

void Device::choose(DeviceKind kind) {
  if (kind == DeviceKind::stub && locations_.link.empty()) {
    problem_ = "vgpud-link is not installed beside vgpud";
    return;
  }
  if (kind == DeviceKind::stub) return choose_link();
  DeviceConfig wanted = config_;
  wanted.kind = kind;
  auto choice = choose_driver(wanted, locations_);
  // In a guest without a GPU of its own, the host's is meant, whether or not the software GPU is installed.
  if (kind == DeviceKind::automatic && (!choice || choice->kind != DeviceKind::cuda) &&
      !locations_.link.empty()) {
    const auto function = stub_guest::find_function(locations_.sysfs_root, config_.function, config_.ids);
    if (function && stub_guest::PciFunction::open(*function)) return choose_link();
  }
  if (choice && locations_.worker.empty()) {
    choice = tl::unexpected(
        std::string("vgpud-worker is not installed beside vgpud (see 'worker' in the configuration)"));
  }
  if (!choice) {
    problem_ = choice.error();
    log::error("device cannot serve device={} reason={}", config_.name, log::quoted(problem_));
    return;
  }
  driver_ = *choice;
  problem_.clear();
  log::info("device chosen device={} kind={} driver={} ordinal={} because={}", config_.name,
            to_string(driver_->kind), driver_->path, config_.ordinal, log::quoted(driver_->why));
  make_pool();
}

// Empty where the workers run in contexts of their own.
std::vector<std::string> Device::sharing_environment() {
  mps_.reset();
  if (config_.sharing != Sharing::mps || driver_->kind != DeviceKind::cuda) return {};
  const std::string program = find_mps_control();
  if (program.empty()) {
    log::error("device shares by time slices: nvidia-cuda-mps-control is not installed device={}",
               config_.name);
    return {};
  }
  auto control = MpsControl::start(program, locations_.runtime_folder + "/mps-" + config_.name);
  if (!control) {
    log::error("device shares by time slices device={} reason={}", config_.name,
               log::quoted(control.error()));
    return {};
  }
  mps_ = std::move(*control);
  log::info("device shares through NVIDIA MPS: its clients share faults too device={}", config_.name);
  return mps_->environment();
}

std::vector<std::string> Device::worker_environment() {
  if (driver_->kind == DeviceKind::software && std::getenv(kSoftwareDevices) == nullptr) {
    return {fmt::format("{}={}", kSoftwareDevices, locations_.software_devices)};
  }
  return sharing_environment();
}

void Device::make_pool() {
  WorkerPool::Options options;
  options.command = {link_ ? locations_.link : locations_.worker, driver_->path, config_.ordinal,
                     worker_environment()};
  options.prestart = config_.prestart;
  options.max_workers = link_ ? std::min(config_.max_workers, link_->stats().slots) : config_.max_workers;
  WorkerPool::Callbacks callbacks;
  callbacks.on_ready = [this](const DeviceReport& report) {
    if (!report_) {
      log::info("device ready device={} name={} memory_mib={} driver_version={}", config_.name,
                log::quoted(report.name), report.total_memory >> 20U, report.driver_version);
    }
    learn(report);
    problem_ = link_ ? link_->problem() : std::string();
    callbacks_.on_worker_ready();
  };
  callbacks.on_start_failed = [this](const std::string& why) { on_start_failed(why); };
  pool_ = std::make_unique<WorkerPool>(loop_, std::move(options), std::move(callbacks));
  gates_.use(make_policy(policy(), policy_options_));
}

void Device::learn(const DeviceReport& report) {
  report_ = report;
  // Two that stand for one software GPU are told apart by their place only.
  if (report.software != 0) report_->uuid[15] = static_cast<std::uint8_t>(report.uuid[15] + index_);
  know_memory(report);
}

void Device::know_memory(const DeviceReport& report) {
  const std::uint64_t context =
      config_.oversubscribe.context_memory.value_or(report.software != 0 ? 0 : kContextBytes);
  residence_.set_device(report.total_memory, context, [this] {
    return pool_ == nullptr ? 0
                            : pool_->count(WorkerState::starting) + pool_->count(WorkerState::ready) +
                                  pool_->count(WorkerState::attached) + pool_->count(WorkerState::dying);
  });
}

void Device::set_workers(unsigned prestart, unsigned max_workers) {
  config_.prestart = prestart;
  config_.max_workers = max_workers;
  if (pool_) pool_->set_limits(prestart, max_workers);
}

void Device::start() {
  if (link_) link_->start();
  if (pool_) pool_->fill();
}

Worker* Device::adopt(std::unique_ptr<Worker> worker) {
  if (!report_) learn(worker->report);
  return pool_->adopt(std::move(worker));
}

void Device::keep_sharing() {
  if (mps_) mps_->keep();
}

void Device::on_start_failed(const std::string& why) {
  // What the link itself says of the host is the reason; this is what comes of it.
  if (link_ && !link_->problem().empty()) return;
  problem_ = why;
  const bool may_fall_back =
      config_.kind == DeviceKind::automatic && driver_->kind == DeviceKind::cuda && !report_;
  if (!may_fall_back) {
    callbacks_.on_problem(why);
    return;
  }
  log::warning("NVIDIA driver is unusable, the software GPU serves instead device={} reason={}", config_.name,
               log::quoted(why));
  pool_->stop();
  // The pool is in the middle of calling us: replace it afterwards.
  loop_.after(std::chrono::nanoseconds(0), [this] {
    pool_.reset();
    choose(DeviceKind::software);
    start();
    if (!pool_) callbacks_.on_problem(problem_);
  });
}

}  // namespace vgpu::daemon
