#include "daemon/worker_pool/worker_pool.hpp"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstring>

#include "daemon/base/log.hpp"
#include "protocol/message_socket.hpp"

namespace vgpu::daemon {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFirstPause{100};
constexpr milliseconds kLongestPause{10000};
constexpr const char* kOrderly = "exit status 0";  // as describe() says it

std::string describe(const siginfo_t& info) {
  if (info.si_code == CLD_EXITED) return fmt::format("exit status {}", info.si_status);
  return fmt::format("signal {} ({})", info.si_status, strsignal(info.si_status));
}

// How the worker of an earlier vgpud ended; init has its exit status. Empty while it still runs.
std::string end_of_adopted(const Worker& worker) {
  pollfd entry{worker.fds.pidfd.get(), POLLIN, 0};
  if (poll(&entry, 1, 0) <= 0) return {};
  return worker.gate->page().left_in_order.load(std::memory_order_acquire) != 0 ? kOrderly : "no exit status";
}

// Collects the process behind a pidfd; empty while it still runs.
std::string reap(const Worker& worker) {
  if (worker.adopted) return end_of_adopted(worker);
  siginfo_t info{};
  const auto pidfd = static_cast<id_t>(worker.fds.pidfd.get());
  if (waitid(P_PIDFD, pidfd, &info, WEXITED | WNOHANG) != 0) return "lost";
  return info.si_pid == 0 ? std::string() : describe(info);
}

}  // namespace

WorkerPool::WorkerPool(EventLoop& loop, Options options, Callbacks callbacks)
    : loop_(loop), options_(std::move(options)), callbacks_(std::move(callbacks)) {}

WorkerPool::~WorkerPool() {
  stop();
  reap_all(milliseconds(5000));
  for (auto& [id, worker] : workers_) forget(*worker);
}

unsigned WorkerPool::count(WorkerState state) const {
  return static_cast<unsigned>(std::count_if(
      workers_.begin(), workers_.end(), [&](const auto& entry) { return entry.second->state == state; }));
}

void WorkerPool::fill() {
  const unsigned wanted = std::max(options_.prestart, waiting_);
  while (!stopping_ && !paused_ && retry_ == 0 && !full() &&
         count(WorkerState::starting) + count(WorkerState::ready) < wanted) {
    start_one();
  }
}

void WorkerPool::set_limits(unsigned prestart, unsigned max_workers) {
  options_.prestart = prestart;
  options_.max_workers = max_workers;
  fill();
}

void WorkerPool::set_waiting(unsigned clients) {
  waiting_ = clients;
  fill();
}

void WorkerPool::start_one() {
  auto spawned = spawn_worker(options_.command);
  if (!spawned) {
    start_failed(spawned.error());
    return;
  }
  Worker& started = watch(std::move(*spawned));
  started.start_timer = loop_.after(options_.start_timeout, [&started] {
    started.problem = "it was not ready in time";
    started.kill();
  });
  log::debug("worker starts worker={} pid={} driver={}", started.id, started.pid, options_.command.driver);
}

Worker& WorkerPool::watch(std::unique_ptr<Worker> worker) {
  worker->id = next_id_++;
  const std::uint64_t id = worker->id;
  Worker& watched = *worker;
  workers_.emplace(id, std::move(worker));
  loop_.watch(watched.fds.pidfd.get(), EPOLLIN, [this, id](std::uint32_t) { on_exit(id); });
  loop_.watch(watched.fds.socket.get(), EPOLLIN, [this, &watched](std::uint32_t) { on_message(watched); });
  return watched;
}

Worker* WorkerPool::adopt(std::unique_ptr<Worker> worker) {
  return &watch(std::move(worker));
}

void WorkerPool::start_failed(const std::string& why) {
  failures_ = std::min(failures_ + 1, 10U);
  const milliseconds pause = std::min(kFirstPause * (1U << (failures_ - 1)), kLongestPause);
  log::error("worker did not start reason={} retry_ms={}", log::quoted(why), pause.count());
  if (retry_ == 0 && !stopping_) {
    retry_ = loop_.after(pause, [this] {
      retry_ = 0;
      fill();
    });
  }
  callbacks_.on_start_failed(why);  // may destroy nothing of ours, but may stop() us
}

void WorkerPool::on_message(Worker& worker) {
  const auto message = receive_message(worker.fds.socket.get(), 0);
  if (message && message->none) return;
  if (!message || message->closed) {
    loop_.forget(worker.fds.socket.get());  // its end is reported by the pidfd
    return;
  }
  if (worker.state == WorkerState::attached && worker.on_message) worker.on_message(*message);
  if (worker.state != WorkerState::starting) return;
  if (const auto* failed = message->as<WorkerFailed>()) {
    worker.problem.assign(failed->text, strnlen(failed->text, sizeof failed->text));
    return;
  }
  const auto* report = message->as<DeviceReport>();
  if (report == nullptr) {
    worker.problem = "it sent something that is not a device report (another version of vgpud-worker?)";
    worker.kill();
    return;
  }
  loop_.cancel(worker.start_timer);
  worker.report = *report;
  worker.report.name[sizeof worker.report.name - 1] = '\0';
  worker.report.pci_bus_id[sizeof worker.report.pci_bus_id - 1] = '\0';
  worker.state = WorkerState::ready;
  failures_ = 0;
  callbacks_.on_ready(worker.report);
}

void WorkerPool::forget(Worker& worker) {
  loop_.forget(worker.fds.pidfd.get());
  loop_.forget(worker.fds.socket.get());
  loop_.cancel(worker.start_timer);
}

void WorkerPool::on_exit(std::uint64_t id) {
  const auto found = workers_.find(id);
  if (found == workers_.end()) return;
  const std::string how = reap(*found->second);
  if (how.empty()) return;
  // A failure report may still lie unread in the socket.
  if (found->second->state == WorkerState::starting) on_message(*found->second);
  const std::unique_ptr<Worker> worker = std::move(found->second);
  workers_.erase(found);
  forget(*worker);
  const WorkerState state = worker->state;
  worker->state = WorkerState::dying;
  log::debug("worker ended worker={} pid={} how={}", id, worker->pid, log::quoted(how));
  if (state == WorkerState::starting) {
    start_failed(worker->problem.empty() ? "the worker ended with " + how : worker->problem);
  } else if (state == WorkerState::attached) {
    const bool orderly = how == kOrderly;
    if (!orderly) ++crashes_;
    if (worker->on_end) worker->on_end(how, orderly);
  } else if (state == WorkerState::ready) {
    log::warning("idle worker ended worker={} pid={} how={}", id, worker->pid, log::quoted(how));
  }
  fill();
}

Worker* WorkerPool::take() {
  for (auto& [id, worker] : workers_) {
    if (worker->state != WorkerState::ready) continue;
    worker->state = WorkerState::attached;
    if (waiting_ > 0) --waiting_;
    fill();
    return worker.get();
  }
  return nullptr;
}

void WorkerPool::end(Worker* worker) {
  if (worker == nullptr) return;
  worker->on_end = nullptr;
  worker->on_message = nullptr;
  worker->kill();
  worker->state = WorkerState::dying;
}

void WorkerPool::renew() {
  for (auto& [id, worker] : workers_) {
    if (worker->state == WorkerState::ready || worker->state == WorkerState::starting) end(worker.get());
  }
  fill();
}

void WorkerPool::hand_over(Worker* worker) {
  if (worker == nullptr) return;
  forget(*worker);
  worker->state = WorkerState::dying;  // so that its destructor leaves it alone
  workers_.erase(worker->id);
}

void WorkerPool::pause() {
  paused_ = true;
  loop_.cancel(retry_);
  retry_ = 0;
}

void WorkerPool::resume() {
  paused_ = false;
  failures_ = 0;
  loop_.cancel(retry_);
  retry_ = 0;
  fill();
}

void WorkerPool::stop() {
  stopping_ = true;
  loop_.cancel(retry_);
  retry_ = 0;
  for (auto& [id, worker] : workers_) end(worker.get());
}

void WorkerPool::reap_all(milliseconds longest) {
  const auto deadline = EventLoop::Clock::now() + longest;
  while (!workers_.empty() && EventLoop::Clock::now() < deadline) {
    for (auto entry = workers_.begin(); entry != workers_.end();) {
      if (reap(*entry->second).empty()) {
        ++entry;
      } else {
        forget(*entry->second);
        entry = workers_.erase(entry);
      }
    }
    if (!workers_.empty()) {
      const timespec pause{0, 2'000'000};
      nanosleep(&pause, nullptr);
    }
  }
}

}  // namespace vgpu::daemon
