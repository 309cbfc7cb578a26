// The commands of vgpud-cli. Each prints and returns the process's exit status.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace vgpu::cli {

// Exit statuses of vgpud-cli's own; `run` returns the program's.
inline constexpr int kGood = 0;
inline constexpr int kNotVerified = 1;
inline constexpr int kFailed = 1;
inline constexpr int kNoBroker = 3;

struct StatsOptions {
  std::string control;  // empty: the usual socket
  bool json = false;
  bool ended = false;
  bool calls = false;
  double watch_seconds = 0;  // 0: once
};

struct RunOptions {
  std::string control;
  std::string socket;  // for clients; empty: the library's own choice
  bool standalone = false;
  bool verbose = false;
  std::string device = "auto";
  std::vector<std::string> command;
};

struct VmOptions {
  std::string control;
  std::string name;
  std::uint64_t bytes = 0;  // 0: vgpud's default, as for the others
  unsigned slots = 0;
  std::string class_name;
  std::string device;
  std::string socket;
};

int add_vm(const VmOptions& options);
int remove_vm(const VmOptions& options);
int list_vms(const std::string& control, bool json);
int show_stats(const StatsOptions& options);
int show_processes(const std::string& control, bool json);
int show_devices(const std::string& control, bool json);
int reload(const std::string& control);
int run_program(const RunOptions& options);
int verify_program(const RunOptions& options);

}  // namespace vgpu::cli
