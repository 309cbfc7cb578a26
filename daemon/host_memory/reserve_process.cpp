#include "daemon/host_memory/reserve_process.hpp"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <string_view>

#include "daemon/base/log.hpp"
#include "daemon/worker_pool/child.hpp"
#include "protocol/errno_text.hpp"

namespace vgpu::daemon {
namespace {

constexpr int kFirstUnused = 3;
constexpr int kExecFailed = 127;

double gib(std::uint64_t bytes) {
  return static_cast<double>(bytes) / (1ULL << 30U);
}

struct Pipe {
  UniqueFd read_end;
  UniqueFd write_end;
};

bool make_pipe(Pipe& pipe) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return false;
  pipe.read_end.reset(ends[0]);
  pipe.write_end.reset(ends[1]);
  return true;
}

void do_not_wait_for(const UniqueFd& fd) {
  fcntl(fd.get(), F_SETFL, fcntl(fd.get(), F_GETFL) | O_NONBLOCK);
}

// Runs in the child between fork and exec: only async-signal-safe calls.
[[noreturn]] void become_reserve(pid_t broker, int input, int output, const char* program,
                                 char* const* arguments) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != broker) _exit(kExecFailed);  // it ended before the line above
  leave_broker();
  dup2(input, 0);
  dup2(output, 1);
  syscall(SYS_close_range, kFirstUnused, ~0U, 0);
  execv(program, arguments);
  _exit(kExecFailed);
}

}  // namespace

ReserveProcess::ReserveProcess(EventLoop& loop, const std::string& program, std::uint64_t bytes,
                               std::chrono::milliseconds calm)
    : loop_(loop), wanted_(bytes), calm_(calm), aim_(bytes) {
  if (const std::string problem = start(program); !problem.empty()) {
    log::error("no host memory is kept ready reason={}", log::quoted(problem));
    return;
  }
  log::info("host memory is being taken to be kept ready gib={:.2f} pid={}", gib(bytes), pid_);
  say();
}

ReserveProcess::~ReserveProcess() {
  loop_.cancel(timer_);
  if (!running()) return;
  kill(pid_, SIGKILL);  // not reaped yet, so the pid is its own
  loop_.forget(output_.get());
  if (pidfd_) loop_.forget(pidfd_.get());
  waitpid(pid_, nullptr, 0);
}

std::string ReserveProcess::start(const std::string& program) {
  if (program.empty()) return "vgpud-reserve is not installed beside vgpud";
  Pipe in;
  Pipe out;
  if (!make_pipe(in) || !make_pipe(out)) return errno_text("pipe");
  std::string name = program;
  std::string amount = std::to_string(wanted_);
  const std::array<char*, 3> arguments{name.data(), amount.data(), nullptr};
  const pid_t broker = getpid();
  const pid_t pid = fork();
  if (pid < 0) return errno_text("fork");
  if (pid == 0) {
    become_reserve(broker, in.read_end.get(), out.write_end.get(), program.c_str(), arguments.data());
  }
  pid_ = pid;
  input_ = std::move(in.write_end);
  output_ = std::move(out.read_end);
  do_not_wait_for(input_);
  do_not_wait_for(output_);
  loop_.watch(output_.get(), EPOLLIN, [this](std::uint32_t) { on_output(); });
  pidfd_.reset(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  loop_.watch(pidfd_.get(), EPOLLIN, [this](std::uint32_t) { on_exit(); });
  return {};
}

void ReserveProcess::aim(std::uint64_t bytes) {
  const std::uint64_t aim = std::min(bytes, wanted_);
  if (aim == aim_ || !running()) return;
  const bool more = aim > aim_;
  aim_ = aim;
  loop_.cancel(timer_);
  timer_ = 0;
  if (!more) return say();
  // Whoever is moved out now needs CPUs and memory; and what was given back for nothing is there a little
  // later.
  timer_ = loop_.after(calm_, [this] {
    timer_ = 0;
    say();
  });
}

void ReserveProcess::say() {
  busy_ = true;
  const std::string line = std::to_string(aim_) + "\n";
  // Far less than a pipe holds; a process that reads nothing is about to end.
  if (write(input_.get(), line.data(), line.size()) < 0) {
    log::warning("vgpud-reserve does not listen reason={}", log::quoted(errno_text("write")));
  }
}

void ReserveProcess::on_output() {
  std::array<char, 256> buffer{};
  const ssize_t size = read(output_.get(), buffer.data(), buffer.size());
  if (size == 0) return loop_.forget(output_.get());
  if (size < 0) return;
  // Lines come one at a time, whole.
  std::string_view text(buffer.data(), static_cast<std::size_t>(size));
  if (text.ends_with('\n')) text.remove_suffix(1);
  if (const auto before = text.rfind('\n'); before != std::string_view::npos) text.remove_prefix(before + 1);
  std::from_chars(text.data(), text.data() + text.size(), held_);
  busy_ = false;
  if (first_took_ != std::chrono::nanoseconds(0)) return;
  first_took_ = EventLoop::Clock::now() - began_;
  const double seconds = std::chrono::duration<double>(first_took_).count();
  if (held_ < aim_) {
    log::warning(
        "less host memory is kept ready than is wanted: no more is to spare gib={:.2f} "
        "wanted_gib={:.2f} seconds={:.2f}",
        gib(held_), gib(aim_), seconds);
    return;
  }
  log::info("host memory is kept ready gib={:.2f} seconds={:.2f}", gib(held_), seconds);
}

void ReserveProcess::on_exit() {
  loop_.forget(pidfd_.get());
  loop_.forget(output_.get());
  loop_.cancel(timer_);
  timer_ = 0;
  int status = 0;
  waitpid(pid_, &status, 0);
  pid_ = 0;
  held_ = 0;
  log::error(
      "host memory is kept ready no more reason={}",
      log::quoted(WIFSIGNALED(status) ? fmt::format("vgpud-reserve was ended by signal {}", WTERMSIG(status))
                                      : fmt::format("vgpud-reserve ended with {}", WEXITSTATUS(status))));
}

}  // namespace vgpu::daemon
