#include "daemon/devices/mps.hpp"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>

#include "daemon/worker_pool/environment.hpp"
#include "protocol/errno_text.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu::daemon {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::seconds kStart{10};
constexpr std::chrono::seconds kStop{5};

struct Outcome {
  int status = -1;   // exit status; -1: it did not end in time or by itself
  std::string said;  // the end of its output
};

class FileActions {
 public:
  FileActions() { posix_spawn_file_actions_init(&actions_); }
  ~FileActions() { posix_spawn_file_actions_destroy(&actions_); }
  FileActions(const FileActions&) = delete;
  FileActions& operator=(const FileActions&) = delete;
  void use(int descriptor, int as) { posix_spawn_file_actions_adddup2(&actions_, descriptor, as); }
  posix_spawn_file_actions_t* get() { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_{};
};

std::string contents(int file) {
  std::array<char, 512> text{};
  const ssize_t size = pread(file, text.data(), text.size(), 0);
  std::string said(text.data(), size > 0 ? static_cast<std::size_t>(size) : 0);
  while (!said.empty() && said.back() == '\n') said.pop_back();
  return said;
}

// Runs the control program with `input` as its standard input, in files: a daemon that it leaves behind keeps
// its standard output open, so a pipe would never end.
Outcome run_control(const std::string& program, const char* option, const std::string& input,
                    const std::vector<std::string>& environment, std::chrono::seconds longest) {
  UniqueFd in(memfd_create("vgpud-mps-input", MFD_CLOEXEC));
  UniqueFd out(memfd_create("vgpud-mps-output", MFD_CLOEXEC));
  if (!in || !out || pwrite(in.get(), input.data(), input.size(), 0) != static_cast<ssize_t>(input.size())) {
    return {-1, errno_text("memfd")};
  }
  FileActions actions;
  actions.use(in.get(), STDIN_FILENO);
  actions.use(out.get(), STDOUT_FILENO);
  actions.use(out.get(), STDERR_FILENO);
  std::string name = program;
  std::string word = option;
  const std::array<char*, 3> arguments{name.data(), word.empty() ? nullptr : word.data(), nullptr};
  EnvironmentBlock block(environment);
  pid_t pid = 0;
  const int error =
      posix_spawn(&pid, program.c_str(), actions.get(), nullptr, arguments.data(), block.data());
  if (error != 0) return {-1, std::strerror(error)};
  const auto deadline = steady_clock::now() + longest;
  for (;;) {
    int status = 0;
    const pid_t ended = waitpid(pid, &status, WNOHANG);
    if (ended == pid) return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, contents(out.get())};
    if (ended < 0 || steady_clock::now() > deadline) break;
    const timespec pause{0, 5'000'000};
    nanosleep(&pause, nullptr);
  }
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  return {-1, "it did not end in time"};
}

}  // namespace

MpsControl::MpsControl(std::string program, const std::string& folder)
    : program_(std::move(program)),
      environment_{"CUDA_MPS_PIPE_DIRECTORY=" + folder, "CUDA_MPS_LOG_DIRECTORY=" + folder} {}

tl::expected<std::unique_ptr<MpsControl>, std::string> MpsControl::start(const std::string& program,
                                                                         const std::string& folder) {
  if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return tl::unexpected(errno_text("cannot make " + folder));
  }
  std::unique_ptr<MpsControl> control(new MpsControl(program, folder));
  const auto answers = [&] {
    return run_control(program, "", "get_server_list\n", control->environment_, kStop).status == 0;
  };
  // One that an earlier broker left: it answers, and a second one would refuse to start.
  if (std::filesystem::exists(folder + "/control") && answers()) return control;
  const Outcome started = run_control(program, "-d", "", control->environment_, kStart);
  if (started.status != 0) {
    control->keep();
    return tl::unexpected(program + " does not start: " + started.said);
  }
  const auto deadline = steady_clock::now() + kStart;
  while (!answers()) {
    if (steady_clock::now() > deadline) return tl::unexpected(program + " does not answer");
    const timespec pause{0, 50'000'000};
    nanosleep(&pause, nullptr);
  }
  return control;
}

MpsControl::~MpsControl() {
  if (!keep_) run_control(program_, "", "quit -t 1\n", environment_, kStop);
}

std::string find_mps_control(const std::string& root) {
  static constexpr std::array<const char*, 5> places{
      "/usr/bin/nvidia-cuda-mps-control", "/usr/local/nvidia/bin/nvidia-cuda-mps-control",
      "/usr/lib/wsl/lib/nvidia-cuda-mps-control", "/run/opengl-driver/bin/nvidia-cuda-mps-control",
      "/opt/bin/nvidia-cuda-mps-control"};
  for (const char* place : places) {
    if (access((root + place).c_str(), X_OK) == 0) return root + place;
  }
  return {};
}

}  // namespace vgpu::daemon
