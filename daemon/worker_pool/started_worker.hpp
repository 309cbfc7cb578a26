// worker.hpp's other end: what a program that vgpud starts for a client (vgpud-worker, vgpud-link) is told,
// and how it says why it cannot serve one.
#pragma once

#include <string>

namespace vgpu::daemon {

struct StartedWorker {
  const char* program;  // its name, before what it says
  std::string driver{};
  int device = 0;
  int socket = -1;
  int gate = -1;
  int attention = -1;  // none: nobody is told when it waits for device time

  // False when an option is unknown, or one that it cannot do without is missing.
  [[nodiscard]] bool parse(int argc, char** argv);
  // A line on standard error.
  void log(const std::string& text) const;
  // The same, and tells vgpud. Returns the exit status.
  [[nodiscard]] int fail(const std::string& text) const;
};

}  // namespace vgpu::daemon
