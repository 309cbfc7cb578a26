// Starts a program with vgpud's environment and waits for its end. Knows nothing of what the program does.
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <utility>
#include <vector>

namespace vgpu::cli {

// Variables to set over the present environment.
using Environment = std::vector<std::pair<std::string, std::string>>;

// The environment in which a CUDA program finds vgpud: `library_folders` first on LD_LIBRARY_PATH, the client
// socket. An empty `socket` leaves the library's own choice.
[[nodiscard]] Environment client_environment(const std::vector<std::string>& library_folders,
                                             const std::string& socket);

// How a program ended.
struct Ending {
  bool started = true;
  int status = 0;  // exit status, when signal is 0
  int signal = 0;
  std::string problem;  // why it could not be started

  // As a shell reports it: 0-255, 128 + signal, 127 when it could not be started.
  [[nodiscard]] int shell_status() const;
  // "ended with exit status 0"
  [[nodiscard]] std::string text() const;
};

// Replaces this process by the program; returns, with the reason, only if that fails.
[[nodiscard]] std::string become(const std::vector<std::string>& command, const Environment& environment);

// Runs the program as a child and waits. An interrupt at the terminal is the program's, SIGTERM and SIGHUP
// are passed on to it. Adopts its orphans, so that their parents lead here.
[[nodiscard]] Ending run_and_wait(const std::vector<std::string>& command, const Environment& environment);

}  // namespace vgpu::cli
