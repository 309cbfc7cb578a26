// The gate and statistics pages: one memfd for each worker, made by the broker, mapped by both, with a page
// for each device that its client may have. The broker says how much time of the device the worker may use;
// the worker says what it used and what it did there. The client never sees it.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <tl/expected.hpp>

#include "protocol/handshake.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu {

inline constexpr std::uint64_t no_limit_ns = UINT64_MAX;
inline constexpr std::uint32_t gate_window = 128;  ///< commands in flight at most when others may compete
inline constexpr std::size_t latency_buckets = 160;
inline constexpr std::size_t gate_call_slots = 640;  ///< at least as many as there are call ids

/// Shared by broker and worker. All counters only grow and start at 0 unless said otherwise.
// NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding): grouped by who writes, a cache line apart
struct GatePage {
  // Written by the broker.
  alignas(64) std::atomic<std::uint64_t> allowance_ns;  ///< submit while consumed_ns < allowance_ns;
                                                        ///< no_limit_ns: alone
  std::atomic<std::uint32_t> refill;                    ///< futex word: bumped after allowance_ns changed
  std::atomic<std::uint64_t> memory_quota;              ///< bytes, 0 = none
  std::atomic<std::uint64_t> window_ns;    ///< predicted device time that may be in flight; 0 = no bound
  std::atomic<std::uint64_t> watchdog_ns;  ///< device time that one command may take; 0 = no limit
  std::atomic<std::uint64_t> launch_rate_micro;  ///< launches in 1,000,000 s; 0 = no limit
  std::atomic<std::uint64_t> byte_rate;          ///< bytes copied from or to the host a second; 0 = no limit
  std::atomic<std::uint32_t> queue_limit;        ///< commands in flight; 0 = the worker's own bound
  std::atomic<std::uint32_t> level;        ///< of the client's priority, for its streams: 0 is the highest
  std::atomic<std::uint32_t> others_busy;  ///< 1: tell the broker when there is work again
  std::atomic<std::uint32_t> others_wait;  ///< 1: tell the broker when nothing is in flight any more

  // Written by the worker; scheduling.
  alignas(64) std::atomic<std::uint64_t> consumed_ns;  ///< device time used so far
  std::atomic<std::uint64_t> measured_ns;  ///< CLOCK_MONOTONIC at which consumed_ns was right, while it grows
                                           ///< by the clock; 0: it does not
  std::atomic<std::uint32_t> metered;  ///< 1: consumed_ns is what the device measured, not time on the clock
  std::atomic<std::uint32_t> backlogged;        ///< 1 while it has work to submit or in flight
  std::atomic<std::uint32_t> blocked;           ///< 1 while it waits for a refill
  std::atomic<std::uint32_t> in_flight;         ///< commands submitted and not known to be complete
  std::atomic<std::uint64_t> last_activity_ns;  ///< CLOCK_MONOTONIC of the latest record
  std::atomic<std::uint64_t> predicted_ns;      ///< expected device time of what is in flight
  std::atomic<std::uint64_t> progress;  ///< grows whenever something in flight is known to be complete
  std::atomic<std::uint64_t> beats;  ///< grows several times a second while the dispatcher is alive and not
                                     ///< held up in the driver
  std::atomic<std::uint64_t> gate_wait_ns;  ///< for how long its commands waited for their turn
  std::atomic<std::uint64_t> throttled_ns;  ///< for how long a rate limit held its calls up
  std::atomic<std::uint64_t> came_ns;   ///< CLOCK_MONOTONIC when backlogged became 1 last; 0: it does not say
  std::atomic<std::uint64_t> ended_ns;  ///< when work of its last ended before backlogged became 0

  // Written by the worker; statistics. What belongs to no device (records, calls, latencies, errors,
  // doorbells, the end) stands in the page of the client's first device.
  alignas(64) std::atomic<std::uint64_t> launches;
  std::atomic<std::uint64_t> graph_launches;
  std::atomic<std::uint64_t> kernel_ns;  ///< device time in kernels, as far as it is measured
  std::atomic<std::uint64_t> bytes_to_device;
  std::atomic<std::uint64_t> bytes_from_device;
  std::atomic<std::uint64_t> bytes_on_device;
  std::atomic<std::uint64_t> records;  ///< records taken from the ring
  std::atomic<std::uint64_t> waited_calls;
  std::atomic<std::uint64_t> errors;       ///< calls that failed in the driver or in validation
  std::atomic<std::uint64_t> unsupported;  ///< calls answered CUDA_ERROR_NOT_SUPPORTED
  std::atomic<std::uint64_t> modules;      ///< modules and libraries loaded
  std::atomic<std::uint64_t> allocations;
  std::atomic<std::uint64_t> memory_used;   ///< bytes now
  std::atomic<std::uint64_t> memory_peak;   ///< bytes
  std::atomic<std::uint64_t> queue_depth;   ///< ring units waiting, now
  std::atomic<std::uint64_t> doorbells;     ///< how often the client had to wake the worker
  std::atomic<std::uint64_t> preempted;     ///< how often its thread that takes records lost its CPU
  std::atomic<std::uint64_t> sticky_error;  ///< CUresult that ended the client's context, or 0
  /// 1 once the worker has ended as it should, its client having left: for a broker that cannot have its exit
  /// status.
  std::atomic<std::uint32_t> left_in_order;
  // Of a link to the host (vgpud-link), else 0.
  std::atomic<std::uint64_t> link_doorbells;  ///< how often the host was rung
  std::atomic<std::uint64_t> link_records;    ///< records sent to the host
  std::atomic<std::uint64_t> link_bytes_out;  ///< bytes written into BAR2: records and bulk data
  std::atomic<std::uint64_t> link_bytes_in;   ///< bulk data read from BAR2

  // Memory that can be moved out to the host's, on a device whose clients may hold more than it has. Requests
  // and orders are numbered from 1; whoever answers writes the number. Written by the broker.
  alignas(64) std::atomic<std::uint32_t> memory_movable;  ///< 1 from before the client comes: allocations are
                                                          ///< made so that they can be moved
  std::atomic<std::uint32_t> memory_turn;        ///< futex word: bumped after one of the next four changed
  std::atomic<std::uint64_t> memory_granted;     ///< bytes that may lie on the device; lowered by the
                                                 ///< worker, too, when it has moved out
  std::atomic<std::uint64_t> memory_answered;    ///< the latest request that was granted
  std::atomic<std::uint64_t> memory_refused;     ///< the latest request that cannot be granted
  std::atomic<std::uint64_t> memory_order;       ///< the latest order to move out
  std::atomic<std::uint64_t> memory_most;        ///< bytes that could be granted if all others made room
  std::atomic<std::uint64_t> memory_fixed_most;  ///< of that, what may be such as cannot be moved; beyond it
                                                 ///< the worker asks
  std::atomic<std::uint32_t> memory_keep;        ///< 1: host memory may be kept for the next move
  std::atomic<std::uint32_t> memory_contended;   ///< 1: somebody waits for memory: keep little work in flight
  // Written by the worker.
  alignas(64) std::atomic<std::uint64_t> memory_claim;  ///< bytes that lie on the device or are about to
  std::atomic<std::uint64_t> memory_fixed;              ///< of these, what cannot be moved
  std::atomic<std::uint32_t> memory_out;                ///< 1: what can be moved lies in the host's memory
  std::atomic<std::uint64_t> memory_moved;              ///< so many bytes of it
  std::atomic<std::uint64_t> memory_wanted;             ///< to be granted, in all; 0: nothing is waited for
  std::atomic<std::uint64_t> memory_wanted_fixed;       ///< of these, what could not be moved
  std::atomic<std::uint32_t> memory_short;              ///< 1: what was granted, the device did not have
  std::atomic<std::uint64_t> memory_request;            ///< number of the request; written last
  std::atomic<std::uint64_t> memory_obeyed;             ///< the latest order that was carried out
  std::atomic<std::uint64_t> memory_excused;            ///< the latest order that cannot be carried out now
  std::atomic<std::uint64_t> moves_out, moves_in;
  std::atomic<std::uint64_t> bytes_moved_out, bytes_moved_in;
  std::atomic<std::uint64_t> move_out_ns, move_in_ns;            ///< what all of them took
  std::atomic<std::uint64_t> last_move_out_ns, last_move_in_ns;  ///< what the latest took
  std::atomic<std::uint64_t> memory_wait_ns;  ///< for how long calls waited for room on the device

  /// Time from taking a waited call's record to its reply: bucket i counts [2^(i/4), 2^((i+1)/4)) ns.
  alignas(64) std::atomic<std::uint64_t> latency[latency_buckets];
  std::atomic<std::uint64_t> latency_sum_ns;  ///< of all that `latency` counts
  /// How long each command waited for its turn, of those sent while what is in flight was bounded; in the
  /// same buckets. Their sum is gate_wait_ns.
  std::atomic<std::uint64_t> gate_wait[latency_buckets];
  /// Records by CallId.
  alignas(64) std::atomic<std::uint64_t> calls[gate_call_slots];
};

/// Adds to a counter that only the calling thread writes, without a locked instruction.
inline void count_alone(std::atomic<std::uint64_t>& counter, std::uint64_t more = 1) {
  counter.store(counter.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
}

/// The latency bucket for `ns`.
constexpr std::size_t latency_bucket(std::uint64_t ns) {
  if (ns < 4) return 0;
  const unsigned log2 = 63u - static_cast<unsigned>(std::countl_zero(ns));
  const std::size_t bucket = std::size_t{log2} * 4 + (ns >> (log2 - 2) & 3);
  return bucket < latency_buckets ? bucket : latency_buckets - 1;
}

/// A latency inside bucket `index`, in ns: the lower bound of the next.
constexpr std::uint64_t latency_bucket_end_ns(std::size_t index) {
  const std::size_t next = index + 1;
  return next < 8 ? next : (std::uint64_t{4} + next % 4) << (next / 4 - 2);
}

/// Counts by latency_bucket().
using LatencyCounts = std::array<std::uint64_t, latency_buckets>;

/// A copy of a page's `latency` or `gate_wait`.
LatencyCounts read_counts(const std::atomic<std::uint64_t> (&counters)[latency_buckets]);

/// The value below which `fraction` (0..1) of what was counted lies, in ns: the end of its bucket, 0 for the
/// first bucket and where nothing was counted.
std::uint64_t percentile_ns(const LatencyCounts& counts, double fraction);

/// Mapped gate pages; unmapped at the end of its life.
class GateMapping {
 public:
  /// New sealed, zeroed pages with allowance no_limit_ns, most_client_devices of them; the descriptor is put
  /// into `fd` to be passed to the worker.
  static tl::expected<std::unique_ptr<GateMapping>, std::string> create(UniqueFd& fd);
  /// Maps pages received from the broker; does not take `fd`.
  static tl::expected<std::unique_ptr<GateMapping>, std::string> attach(int fd);
  ~GateMapping();
  GateMapping(const GateMapping&) = delete;
  GateMapping& operator=(const GateMapping&) = delete;
  /// The page of the client's device at `place`, below most_client_devices.
  GatePage& page(std::size_t place = 0) const { return *pages_[place]; }
  /// The same, kept mapped by whoever holds the pointer.
  static std::shared_ptr<GatePage> page_of(const std::shared_ptr<GateMapping>& mapping,
                                           std::size_t place = 0) {
    return {mapping, &mapping->page(place)};
  }

 private:
  struct Region;
  GateMapping();
  std::unique_ptr<Region> region_;
  std::array<GatePage*, most_client_devices> pages_{};
};

}  // namespace vgpu
