#include "cli/launcher.hpp"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "protocol/errno_text.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu::cli {
namespace {

constexpr int kNotFound = 127;
constexpr int kSignalBase = 128;

volatile std::sig_atomic_t g_child = 0;

void pass_on(int number) {
  if (g_child > 0) kill(static_cast<pid_t>(g_child), number);
}

void set_handler(int number, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  sigaction(number, &action, nullptr);
}

Ending ending_of(int status) {
  Ending ending;
  if (WIFSIGNALED(status)) {
    ending.signal = WTERMSIG(status);
  } else {
    ending.status = WEXITSTATUS(status);
  }
  return ending;
}

}  // namespace

int Ending::shell_status() const {
  if (!started) return kNotFound;
  return signal != 0 ? kSignalBase + signal : status;
}

std::string Ending::text() const {
  if (!started) return "could not be started: " + problem;
  if (signal != 0)
    return std::string("was ended by signal ") + std::to_string(signal) + " (" + strsignal(signal) + ")";
  return "ended with exit status " + std::to_string(status);
}

Environment client_environment(const std::vector<std::string>& library_folders, const std::string& socket) {
  const char* present = std::getenv("LD_LIBRARY_PATH");
  std::string path;
  for (const std::string& folder : library_folders) path.append(path.empty() ? "" : ":").append(folder);
  if (present != nullptr && *present != '\0') path.append(":").append(present);
  Environment environment{{"LD_LIBRARY_PATH", path}};
  if (!socket.empty()) environment.emplace_back("VGPUD_SOCKET", socket);
  return environment;
}

std::string become(const std::vector<std::string>& command, const Environment& environment) {
  for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
  std::vector<std::string> words = command;
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  execvp(arguments.front(), arguments.data());
  return errno_text(command.front());
}

Ending run_and_wait(const std::vector<std::string>& command, const Environment& environment) {
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  Ending failed;
  failed.started = false;
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) {
    failed.problem = std::strerror(errno);
    return failed;
  }
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  const pid_t child = fork();
  if (child < 0) {
    failed.problem = std::strerror(errno);
    return failed;
  }
  if (child == 0) {
    const std::string problem = become(command, environment);
    if (write(write_end.get(), problem.data(), problem.size()) < 0) _exit(kNotFound);
    _exit(kNotFound);
  }
  write_end.reset();
  g_child = child;
  set_handler(SIGINT, SIG_IGN);
  set_handler(SIGQUIT, SIG_IGN);
  set_handler(SIGTERM, pass_on);
  set_handler(SIGHUP, pass_on);

  std::array<char, 512> problem{};
  ssize_t size = 0;
  do {
    size = read(read_end.get(), problem.data(), problem.size());
  } while (size < 0 && errno == EINTR);

  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  g_child = 0;
  if (size > 0) {
    failed.problem.assign(problem.data(), static_cast<std::size_t>(size));
    return failed;
  }
  return ending_of(status);
}

}  // namespace vgpu::cli
