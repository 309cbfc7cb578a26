#include "daemon/worker/worker_harness.hpp"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <thread>

#include "protocol/message_socket.hpp"

namespace vgpu::worker {

tl::expected<std::unique_ptr<WorkerHarness>, std::string> WorkerHarness::start(
    const std::string& worker, const std::string& driver, std::uint64_t memory_quota, bool movable,
    const std::vector<std::uint32_t>& further) {
  std::unique_ptr<WorkerHarness> harness(new WorkerHarness);
  auto gate = GateMapping::create(harness->gate_fd_);
  if (!gate) return tl::unexpected(gate.error());
  harness->gate_ = std::move(*gate);
  harness->gate_->page().memory_movable.store(movable ? 1 : 0);
  auto broker = message_socket_pair();
  auto direct = message_socket_pair();
  auto channel_fd = create_channel_memory();
  if (!broker || !direct || !channel_fd) return tl::unexpected(std::string("no sockets or no memory"));
  const std::string socket_text = std::to_string(broker->second.get());
  const std::string gate_text = std::to_string(harness->gate_fd_.get());
  harness->pid_ = fork();
  if (harness->pid_ == 0) {
    fcntl(broker->second.get(), F_SETFD, 0);
    fcntl(harness->gate_fd_.get(), F_SETFD, 0);
    execl(worker.c_str(), worker.c_str(), "--driver", driver.c_str(), "--device", "0", "--socket",
          socket_text.c_str(), "--gate", gate_text.c_str(), nullptr);
    _exit(127);
  }
  broker->second.reset();
  auto message = receive_message(broker->first.get(), 30'000);
  if (!message) return tl::unexpected(message.error());
  if (const auto* const failed = message->as<WorkerFailed>())
    return tl::unexpected(std::string(failed->text));
  const auto* const report = message->as<DeviceReport>();
  if (report == nullptr) return tl::unexpected(std::string("the worker sent no report"));
  harness->report_ = *report;
  Attach attach;
  attach.session = 1;
  attach.memory_quota = memory_quota;
  for (const std::uint32_t ordinal : further) attach.further[attach.further_count++] = ordinal;
  const int fds[] = {channel_fd->get(), direct->second.get()};
  if (const auto sent = send_message(broker->first.get(), attach, fds); !sent)
    return tl::unexpected(sent.error());
  auto channel = Channel::attach(channel_fd->get());
  if (!channel) return tl::unexpected(channel.error());
  harness->channel_ = std::move(*channel);
  harness->arena_ = std::make_unique<Arena>(harness->channel_->arena());
  harness->broker_ = std::move(broker->first);
  harness->direct_ = std::move(direct->first);
  return harness;
}

WorkerHarness::~WorkerHarness() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
}

void WorkerHarness::hang_up() {
  direct_.reset();
}

int WorkerHarness::wait_for_end(int timeout_ms) {
  const std::uint64_t until = now_ns() + static_cast<std::uint64_t>(timeout_ms) * 1'000'000;
  int status = -1;
  while (now_ns() < until) {
    if (waitpid(pid_, &status, WNOHANG) == pid_) {
      pid_ = -1;
      return status;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return -1;
}

ArenaBlock* WorkerHarness::read_back(std::uint64_t from, std::uint64_t bytes, std::uint64_t stream) {
  ArenaBlock* const block = arena_->allocate(bytes);
  record::copy_from_device_block copy;
  copy.src = from;
  copy.stream = stream;
  copy.block = {arena_->offset(block), bytes};
  post(copy);
  for (int i = 0; i < 100 && !await_block(*block, 20'000, 100'000'000); ++i) {
  }
  return block;
}

}  // namespace vgpu::worker
