#include "daemon/worker_pool/worker.hpp"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "daemon/worker_pool/environment.hpp"
#include "protocol/message_socket.hpp"

namespace vgpu::daemon {
namespace {

constexpr int kSocketFd = 3;
constexpr int kGateFd = 4;
constexpr int kAttentionFd = 5;
constexpr int kFirstUnused = 6;
constexpr int kExecFailed = 127;

// Runs in the child between fork and exec: only async-signal-safe calls.
[[noreturn]] void become_worker(pid_t parent, const std::array<int, 3>& fds, const char* program,
                                char* const* arguments, char* const* environment) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(kExecFailed);  // the broker ended before the line above
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0,
        0);  // the unit's CAP_SYS_PTRACE is for the broker alone
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  setsid();  // a Ctrl-C at the broker's terminal is the broker's to handle
  std::array<int, 3> high{};
  for (std::size_t i = 0; i < fds.size(); ++i) high[i] = fcntl(fds[i], F_DUPFD, 64);
  for (std::size_t i = 0; i < fds.size(); ++i) dup2(high[i], kSocketFd + static_cast<int>(i));
  const int null = open("/dev/null", O_RDWR);
  dup2(null, 0);
  dup2(2, 1);
  syscall(SYS_close_range, kFirstUnused, ~0U, 0);
  execve(program, arguments, environment);
  _exit(kExecFailed);
}

}  // namespace

Worker::~Worker() {
  if (state != WorkerState::dying) kill();
}

void Worker::kill() const {
  if (pidfd) syscall(SYS_pidfd_send_signal, pidfd.get(), SIGKILL, nullptr, 0);
}

tl::expected<std::unique_ptr<Worker>, std::string> spawn_worker(const WorkerCommand& command) {
  auto worker = std::make_unique<Worker>();
  auto sockets = message_socket_pair();
  if (!sockets) return tl::unexpected(sockets.error());
  UniqueFd gate_fd;
  auto gate = GateMapping::create(gate_fd);
  if (!gate) return tl::unexpected(gate.error());
  worker->attention.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!worker->attention) return tl::unexpected(std::string("eventfd: ") + std::strerror(errno));

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

  const std::array<int, 3> fds{sockets->second.get(), gate_fd.get(), worker->attention.get()};
  const EnvironmentBlock environment(command.environment);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return tl::unexpected(std::string("fork: ") + std::strerror(errno));
  if (pid == 0) become_worker(parent, fds, command.program.c_str(), arguments.data(), environment.data());

  worker->pid = pid;
  worker->pidfd.reset(
      static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));  // a child's pid cannot be reused yet
  worker->socket = std::move(sockets->first);
  worker->gate = std::move(*gate);
  return worker;
}

}  // namespace vgpu::daemon
