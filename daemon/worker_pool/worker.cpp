#include "daemon/worker_pool/worker.hpp"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>

#include "daemon/worker_pool/child.hpp"
#include "daemon/worker_pool/environment.hpp"
#include "protocol/errno_text.hpp"
#include "protocol/message_socket.hpp"

namespace vgpu::daemon {
namespace {

constexpr int kSocketFd = 3;
constexpr int kGateFd = 4;
constexpr int kAttentionFd = 5;
constexpr int kLifelineFd = 6;
constexpr int kFirstUnused = 7;
constexpr int kExecFailed = 127;

// Has the kernel kill this process when the last write end of the pipe is closed (pipe(7), F_SETSIG in
// fcntl(2)). Unlike PR_SET_PDEATHSIG this follows a descriptor, which a service manager can hold while vgpud
// restarts.
void hang_on_lifeline(int read_end) {
  fcntl(read_end, F_SETOWN, getpid());
  fcntl(read_end, F_SETSIG, SIGKILL);
  fcntl(read_end, F_SETFL, fcntl(read_end, F_GETFL) | O_ASYNC);
  pollfd entry{read_end, 0, 0};
  if (poll(&entry, 1, 0) != 0) _exit(kExecFailed);  // it was closed before the line above
}

// Runs in the child between fork and exec: only async-signal-safe calls.
[[noreturn]] void become_worker(const std::array<int, 4>& fds, const char* program, char* const* arguments,
                                char* const* environment) {
  leave_broker();
  std::array<int, 4> high{};
  for (std::size_t i = 0; i < fds.size(); ++i) high[i] = fcntl(fds[i], F_DUPFD, 64);
  for (std::size_t i = 0; i < fds.size(); ++i) dup2(high[i], kSocketFd + static_cast<int>(i));
  const int null = open("/dev/null", O_RDWR);
  dup2(null, 0);
  dup2(2, 1);
  syscall(SYS_close_range, kFirstUnused, ~0U, 0);  // the broker's end of the lifeline among them
  hang_on_lifeline(kLifelineFd);
  execve(program, arguments, environment);
  _exit(kExecFailed);
}

}  // namespace

Worker::~Worker() {
  if (state != WorkerState::dying) kill();
}

void Worker::kill() const {
  if (fds.pidfd) syscall(SYS_pidfd_send_signal, fds.pidfd.get(), SIGKILL, nullptr, 0);
}

tl::expected<std::unique_ptr<Worker>, std::string> spawn_worker(const WorkerCommand& command) {
  auto worker = std::make_unique<Worker>();
  auto sockets = message_socket_pair();
  if (!sockets) return tl::unexpected(sockets.error());
  WorkerDescriptors& ours = worker->fds;
  auto gate = GateMapping::create(ours.gate);
  if (!gate) return tl::unexpected(gate.error());
  ours.attention.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!ours.attention) return tl::unexpected(errno_text("eventfd"));
  std::array<int, 2> pipe_ends{};
  if (pipe2(pipe_ends.data(), O_CLOEXEC) != 0) return tl::unexpected(errno_text("pipe"));
  const UniqueFd lifeline(pipe_ends[0]);
  ours.lifeline.reset(pipe_ends[1]);

  std::array<std::string, 11> words{command.program,
                                    "--driver",
                                    command.driver,
                                    "--device",
                                    std::to_string(command.ordinal),
                                    "--socket",
                                    std::to_string(kSocketFd),
                                    "--gate",
                                    std::to_string(kGateFd),
                                    "--attention",
                                    std::to_string(kAttentionFd)};
  std::array<char*, words.size() + 1> arguments{};
  for (std::size_t i = 0; i < words.size(); ++i) arguments[i] = words[i].data();

  const std::array<int, 4> fds{sockets->second.get(), ours.gate.get(), ours.attention.get(), lifeline.get()};
  const EnvironmentBlock environment(command.environment);
  const pid_t pid = fork();
  if (pid < 0) return tl::unexpected(errno_text("fork"));
  if (pid == 0) become_worker(fds, command.program.c_str(), arguments.data(), environment.data());

  worker->pid = pid;
  // A child's pid cannot be reused yet.
  ours.pidfd.reset(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  ours.socket = std::move(sockets->first);
  worker->gate = std::move(*gate);
  return worker;
}

tl::expected<std::unique_ptr<Worker>, std::string> adopt_worker(WorkerDescriptors descriptors,
                                                                const DeviceReport& report) {
  auto worker = std::make_unique<Worker>();
  worker->state = WorkerState::dying;  // its lifeline ends it unless all is well
  worker->adopted = true;
  worker->fds = std::move(descriptors);
  worker->report = report;
  worker->pid = pid_of(worker->fds.pidfd.get());
  auto gate = GateMapping::attach(worker->fds.gate.get());
  if (!gate) return tl::unexpected(gate.error());
  worker->gate = std::move(*gate);
  worker->state = WorkerState::attached;
  return worker;
}

pid_t pid_of(int pidfd) {
  std::ifstream info("/proc/self/fdinfo/" + std::to_string(pidfd));
  std::string word;
  pid_t pid = 0;
  while (info >> word) {
    if (word == "Pid:" && info >> pid) return std::max(pid, 0);  // -1: it has ended
  }
  return 0;
}

}  // namespace vgpu::daemon
