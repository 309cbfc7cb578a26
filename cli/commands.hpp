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
inline constexpr int kUsage = 2;  // the command line is wrong, nothing was asked
inline constexpr int kNoBroker = 3;

struct StatsOptions {
  std::string control;  // empty: the usual socket
  bool json = false;
  bool ended = false;
  bool calls = false;
  double watch_seconds = 0;  // 0: once
};

// One user's program: that of a client, or said by user and path.
struct ProgramChoice {
  std::string client;      // a pid or #SESSION
  std::string user;        // a name or a uid
  std::string executable;  // full path
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
// A full-screen view that looks every `period` seconds.
int show_top(const std::string& control, double period);
int show_devices(const std::string& control, bool json);
// `words`: "client" PID, "class" NAME, "rule" NAME, "device" NAME, "limits" or "scheduler", then KEY=VALUE...
int set_values(const std::string& control, const std::vector<std::string>& words, bool save);
// Sends "pause", "resume" or "kill" for each client.
int act_on_clients(const std::string& control, const std::string& request,
                   const std::vector<std::string>& clients);
// Without a program: lists those in quarantine. `how_long` is a time such as "10min"; empty: until released.
int quarantine(const std::string& control, const ProgramChoice& program, const std::string& how_long,
               const std::string& why, bool json);
int release(const std::string& control, const ProgramChoice& program);
int show_policy(const std::string& control);
// What is wrong with a file, or with those that vgpud uses if `file` is empty.
int check_policy(const std::string& control, const std::string& file);
int reload(const std::string& control);
int run_program(const RunOptions& options);
int verify_program(const RunOptions& options);

}  // namespace vgpu::cli
