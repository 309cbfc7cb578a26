// What is known of one client in figures, copied from its gate page; and a ring of those that have ended.
// Knows nothing of sockets or of how figures are shown.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "protocol/gate.hpp"

namespace vgpu::daemon {

// Durations that were counted in the buckets of protocol/gate.hpp.
struct Histogram {
  std::uint64_t sum_ns = 0;
  std::vector<std::pair<std::uint64_t, std::uint64_t>>
      buckets;  // end of the bucket in ns, count; those not empty
};

// Where the middle and the upper end of durations lie.
struct Percentiles {
  std::uint64_t p50_ns = 0, p95_ns = 0, p99_ns = 0;
};

[[nodiscard]] Percentiles percentiles(const LatencyCounts& counts);
[[nodiscard]] Histogram histogram(const LatencyCounts& counts, std::uint64_t sum_ns);

// What a device's clients did and had done to them, those that have ended included.
struct DeviceFigures {
  std::uint64_t admitted = 0;
  std::uint64_t refused = 0;  // that were or would have been placed on it
  std::uint64_t faults = 0;
  std::uint64_t device_ns = 0;  // the sum of theirs, as the next ones
  std::uint64_t moves_out = 0, moves_in = 0, bytes_moved_out = 0, bytes_moved_in = 0;
  std::uint64_t move_out_ns = 0, move_in_ns = 0, memory_wait_ns = 0;
  std::uint64_t queue_depth = 0;  // now
  LatencyCounts latency{};        // of calls that were waited for
  LatencyCounts wait{};           // of commands, for their turn
  std::uint64_t latency_sum_ns = 0, wait_sum_ns = 0;

  // Adds one client's page to the counts.
  void add(const GatePage& page);
};

// A client's part of one of several devices.
struct ClientDeviceStats {
  std::string device;
  std::uint64_t turns = 0;
  double share = 0;  // as in ClientStats, as the rest
  std::uint64_t memory_used = 0, memory_peak = 0;
  std::uint64_t launches = 0, graph_launches = 0, device_ns = 0, gate_wait_ns = 0;
};

// A snapshot. Times in ns, sizes in bytes. Of a client with several devices the sums.
struct ClientStats {
  std::uint64_t session = 0;
  pid_t pid = 0;
  std::string vm;       // of a process in a VM: the VM's name
  pid_t guest_pid = 0;  // and its pid there, as the VM says
  uid_t uid = 0;
  pid_t worker_pid = 0;  // 0: none yet or any more
  std::string program;
  std::string executable;
  std::string unit;
  std::string class_name;
  std::string device;                      // "gpu0,gpu1" of one with several
  std::vector<ClientDeviceStats> devices;  // of one with several
  std::vector<pid_t> ancestors;
  std::string state;   // "waiting", "running", "paused", "quarantined", "failed", "ended"
  std::string ending;  // how it ended; empty while it runs
  std::uint64_t age_ns = 0;

  std::uint64_t memory_used = 0, memory_peak = 0, memory_quota = 0;
  bool movable = false;  // its memory may be moved out to the host's
  std::uint64_t memory_on_device = 0, memory_in_host = 0;
  std::uint64_t moves_out = 0, moves_in = 0, bytes_moved_out = 0, bytes_moved_in = 0;
  std::uint64_t move_out_ns = 0, move_in_ns = 0, last_move_out_ns = 0, last_move_in_ns = 0;
  std::uint64_t memory_wait_ns = 0;  // for how long its calls waited for room on the device
  std::uint64_t launches = 0, graph_launches = 0, kernel_ns = 0, device_ns = 0;
  double share = 0;  // of the device time used by all of its clients in the last second, 0..1 a device
  std::uint64_t bytes_to_device = 0, bytes_from_device = 0, bytes_on_device = 0;
  std::uint64_t queue_depth = 0, in_flight = 0;
  std::string priority;  // "high", "medium", "low"
  std::uint32_t weight = 0;
  std::uint64_t turns = 0;         // how often it was given the device after it had had to wait
  std::uint64_t gate_wait_ns = 0;  // for how long its commands waited for their turn
  std::uint64_t throttled_ns = 0;  // for how long rate limits held its calls up
  std::uint64_t predicted_ns = 0;  // expected device time of what is in flight
  std::uint64_t records = 0, waited_calls = 0, doorbells = 0;
  std::uint64_t preempted = 0;  // how often its worker's thread that takes records lost its CPU to another
  std::uint64_t modules = 0, allocations = 0;
  Percentiles latency;  // from taking a call that is waited for to its answer
  Percentiles wait;     // of commands, for their turn
  std::uint64_t errors = 0, unsupported = 0, sticky_error = 0;
  std::uint64_t link_doorbells = 0, link_records = 0, link_bytes_out = 0, link_bytes_in = 0;
  std::uint64_t faults = 0;  // 1: it ended with a fault of the device or of its worker
  std::vector<std::pair<std::string, std::uint64_t>> calls;    // by name, those made at all
  std::optional<Histogram> latency_histogram, wait_histogram;  // where they were asked for
};

// What is read besides the figures: it costs more.
struct StatsDetail {
  bool calls = false;       // each call by name
  bool histograms = false;  // of times
};

// Copies every figure of `page`. The page is shared with a worker: values are taken as they are, once each.
void read_page(const GatePage& page, ClientStats& stats);

// Adds what was done on a further device of the client's.
void add_page(const GatePage& page, ClientStats& stats);

// The figures of one device of several.
void read_part(const GatePage& page, ClientDeviceStats& part);

// Also fills the histograms.
void read_histograms(const GatePage& page, ClientStats& stats);

// Also fills stats.calls. Slower: 640 counters.
void read_calls(const GatePage& page, ClientStats& stats);

// The last clients that have ended, newest first.
class EndedClients {
 public:
  explicit EndedClients(std::size_t capacity) : capacity_(capacity) {}
  void set_capacity(std::size_t capacity);
  void add(ClientStats stats);
  [[nodiscard]] const std::deque<ClientStats>& all() const { return clients_; }
  // How many there was no more room for.
  [[nodiscard]] std::uint64_t forgotten() const { return forgotten_; }

 private:
  std::size_t capacity_;
  std::uint64_t forgotten_ = 0;
  std::deque<ClientStats> clients_;
};

}  // namespace vgpu::daemon
