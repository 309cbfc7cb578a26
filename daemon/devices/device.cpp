#include "daemon/devices/device.hpp"

#include "daemon/base/log.hpp"
#include "daemon/scheduler/fair_queue.hpp"

namespace vgpu::daemon {
namespace {

std::unique_ptr<SchedulingPolicy> make_policy(const SchedulerConfig& config) {
  using std::chrono::nanoseconds;
  return std::make_unique<FairQueue>(static_cast<std::uint64_t>(nanoseconds(config.quantum).count()),
                                     static_cast<std::uint64_t>(nanoseconds(config.idle_after).count()));
}

}  // namespace

Device::Device(EventLoop& loop, DeviceConfig config, const SchedulerConfig& scheduler,
               const Locations& locations, Callbacks callbacks)
    : loop_(loop),
      config_(std::move(config)),
      locations_(locations),
      callbacks_(std::move(callbacks)),
      gates_(loop, make_policy(scheduler)) {
  choose(config_.kind);
}

void Device::choose(DeviceKind kind) {
  DeviceConfig wanted = config_;
  wanted.kind = kind;
  auto choice = choose_driver(wanted, locations_);
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

void Device::make_pool() {
  WorkerPool::Options options;
  options.command = {locations_.worker, driver_->path, config_.ordinal, sharing_environment()};
  options.prestart = config_.prestart;
  options.max_workers = config_.max_workers;
  WorkerPool::Callbacks callbacks;
  callbacks.on_ready = [this](const DeviceReport& report) {
    if (!report_) {
      log::info("device ready device={} name={} memory_mib={} driver_version={}", config_.name,
                log::quoted(report.name), report.total_memory >> 20U, report.driver_version);
    }
    report_ = report;
    problem_.clear();
    callbacks_.on_worker_ready();
  };
  callbacks.on_start_failed = [this](const std::string& why) { on_start_failed(why); };
  pool_ = std::make_unique<WorkerPool>(loop_, std::move(options), std::move(callbacks));
}

void Device::set_workers(unsigned prestart, unsigned max_workers) {
  config_.prestart = prestart;
  config_.max_workers = max_workers;
  if (pool_) pool_->set_limits(prestart, max_workers);
}

void Device::start() {
  if (pool_) pool_->fill();
}

void Device::on_start_failed(const std::string& why) {
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
