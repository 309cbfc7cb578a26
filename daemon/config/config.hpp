// What an operator may say to vgpud, as plain values: devices, classes, rules, limits. Reading them from YAML
// is load.hpp; deciding by them is daemon/policy. Never touches a socket, a process or a device.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/scheduler/policies.hpp"
#include "protocol/handshake.hpp"

namespace vgpu::daemon {

enum class DeviceKind { automatic, software, cuda, stub };
// How the clients of a GPU share it: each in a context of its own that the driver runs in turns, or side by
// side under NVIDIA's multi-process service, where they share faults too (daemon/devices/mps.hpp).
enum class Sharing { isolated, mps };
enum class Priority { high, medium, low };
enum class LogTarget { automatic, journal, stderr_stream };
enum class LogLevel { debug, info, warning, error };

// The words of the configuration file for these values ("auto", "software", ...).
[[nodiscard]] const char* to_string(DeviceKind kind);
[[nodiscard]] const char* to_string(Priority priority);

// Where something stands in a file of the configuration. Lines and columns count from 1; 0: the file as a
// whole.
struct Place {
  std::string file;
  int line = 0;
  int column = 0;
};

// Whether a device's clients may together hold more memory than it has (docs/configuration.md,
// `oversubscribe`).
struct OversubscribeConfig {
  std::optional<std::uint64_t> host_limit;  // bytes of host memory for what is moved out; none: off
  std::chrono::microseconds minimum_residence{5'000'000};
  std::chrono::microseconds idle_after{200'000};
  // What a worker takes of the device besides its client's memory; none: what suits the kind of device.
  std::optional<std::uint64_t> context_memory;
  // Bytes of host memory that are kept ready for what is moved out; none: nothing is.
  std::optional<std::uint64_t> reserve;
};

// One device that vgpud serves.
struct DeviceConfig {
  std::string name;
  DeviceKind kind = DeviceKind::automatic;
  unsigned ordinal = 0;  // of the driver library's devices
  std::string driver;    // path of libcuda.so.1; empty: found by daemon/devices
  Sharing sharing = Sharing::isolated;
  std::string function;  // kind stub: address of the PCI function; empty: found by scanning
  std::vector<std::string> ids{"1af4:1110"};  // kind stub: vendor:device of functions to look at
  unsigned prestart = 1;                      // workers kept ready for the next clients
  unsigned max_workers = 64;                  // workers at a time, ready ones included
  // Order among clients of one priority; none: fair.
  std::optional<PolicyKind> policy;
  std::string pool = "default";  // clients are placed on the least loaded device of their pool
  OversubscribeConfig oversubscribe;
};

// What a client of a class gets and may use.
struct ClassConfig {
  std::string name;
  std::uint32_t weight = kUnitWeight;          // share of device time, relative to other busy clients
  Priority priority = Priority::medium;        // lower ones run when no higher one has work
  std::chrono::microseconds deadline{50'000};  // policy deadline: from becoming busy to its turn
  std::optional<std::uint64_t> memory_quota;   // bytes of device memory a client; none: the device's
  unsigned max_clients = 0;                    // of this class at a time; 0: no limit of its own
  unsigned max_clients_per_user = 0;           // of this class and one user; 0: no limit of its own
  unsigned launch_rate = 0;                    // kernels and graphs a second; 0: no limit
  std::optional<std::uint64_t> bandwidth;      // bytes a second to and from the host; none: no limit
  unsigned queue_depth = 0;                    // commands in flight; 0: the worker's own bound
  std::chrono::microseconds window{0};         // as scheduler.window; 0: the scheduler's
  std::chrono::microseconds watchdog{0};       // longest device time of one command; 0: no limit
  unsigned quarantine_after = 0;               // faults of one user's program; 0: never
  std::chrono::microseconds quarantine_time{600'000'000};  // 0: until released by hand
  std::uint64_t arena_bytes = 32ULL << 20U;                // bulk arena of the client's channel
  unsigned devices = most_client_devices;                  // that a client may name for itself

  bool operator==(const ClassConfig&) const = default;
};

// Keys of a class with the values that differ from it, as written: {"weight", "50"}. Later ones win.
using Settings = std::vector<std::pair<std::string, std::string>>;

// A rule: every condition that is given must hold (each holds when any of its values does). The first rule
// that matches decides.
struct RuleConfig {
  std::string name;  // given, or made from its place: "rule2", "50-cli-rule1"
  std::vector<uid_t> uids;
  std::vector<gid_t> gids;               // primary or supplementary
  std::vector<std::string> executables;  // shell patterns on the full path
  std::vector<std::string> units;        // shell patterns on the systemd unit's name
  std::vector<std::string> cgroups;      // shell patterns on the cgroup path
  std::string class_name;
  std::string pool;    // empty: the first device's
  std::string device;  // empty: the least loaded of the pool
  Settings settings;   // what its clients have otherwise than the class says
  bool reject = false;
  bool named = false;  // the file gives its name, so that other files can refer to it
  Place place, class_place, device_place, pool_place;  // for messages
};

// A VM that this vgpud serves (docs/vgpu-stub.md).
struct VmConfig {
  std::string name;
  std::uint64_t bytes = 256ULL << 20U;  // shared memory; a power of two
  unsigned slots = 16;                  // processes of the guest at a time
  std::string class_name;               // of the VM as a whole; empty: the default class
  std::string device;                   // empty: the default device
  std::string socket;                   // for QEMU; empty: vm/NAME.sock beside the clients' socket
  std::string pci_tree;                 // instead of a socket: a folder that stands for the PCI function
  std::chrono::milliseconds guest_timeout{10000};  // a guest without a heartbeat for so long has gone
  Place place, class_place, device_place;          // for messages
};

// Bounds on what all clients together can cost the broker.
struct LimitsConfig {
  unsigned clients = 256;
  unsigned clients_per_user = 64;
  unsigned handshakes = 128;  // connections that have not said hello yet
  unsigned handshakes_per_user = 32;
  std::chrono::milliseconds handshake_timeout{2000};
  std::chrono::milliseconds worker_wait{15000};  // a client waits so long for a worker to be ready
  unsigned control_connections = 32;
};

struct SchedulerConfig {
  PolicyOptions policy;
  // Predicted device time that a client may have in flight while others may want the device.
  std::chrono::microseconds window{1000};
  // The same while somebody of a higher priority is expected.
  std::chrono::microseconds brief_window{100};
};

struct LogConfig {
  LogTarget target = LogTarget::automatic;
  LogLevel level = LogLevel::info;
};

struct Config {
  std::string file;  // the operator's file, without its drop-ins; empty: built-in defaults
  std::string socket = "/run/vgpud/vgpud.sock";
  std::string control = "/run/vgpud/control.sock";
  std::string group = "vgpu";
  std::string admin_group = "vgpu-admin";      // members may change what is not theirs
  std::optional<gid_t> admin_gid;              // of admin_group, where the system has it
  std::string monitor_group = "vgpu-monitor";  // members may see all clients' figures, and change nothing
  std::optional<gid_t> monitor_gid;
  std::string vm_group = "vgpu-vm";  // may connect to VMs' sockets, as a VM
  std::string worker;                // path of vgpud-worker; empty: found beside the binary
  LogConfig log;
  LimitsConfig limits;
  SchedulerConfig scheduler;
  std::string sysfs_root = "/sys";  // where a guest looks for VGPU-STUB
  std::vector<VmConfig> vms;
  unsigned ended_clients = 64;  // statistics kept of clients that have ended
  std::vector<DeviceConfig> devices;
  std::map<std::string, ClassConfig> classes;
  std::string default_class = "default";
  std::vector<RuleConfig> rules;
};

// The configuration that holds when no file is given: one automatic device, one class.
[[nodiscard]] Config default_config();

// Where a VM's QEMU connects: what it says, or vm/NAME.sock beside the clients' socket.
[[nodiscard]] std::string vm_socket(const Config& config, const VmConfig& vm);

}  // namespace vgpu::daemon
