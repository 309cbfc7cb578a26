// What the client sent to its streams and how much of that it has seen end, so that a synchronisation that
// has nothing to wait for is answered without the worker. Never: knows whether the device has finished what
// no synchronisation was asked about.
#pragma once

#include <atomic>
#include <cstdint>

namespace vgpu::client {

/// A count that grows with every call that may have added work. Thread-safe.
///
/// A call counts after its record has been reserved in the ring, and before it returns to the program. Who
/// synchronises reads value() before it reserves its own record: so whatever the value it read counts, the
/// synchronisation covers. Each call changes the value, also when several count at once: a value that had
/// been there before would say that what came in between has ended.
///
/// What is quiet is counted apart: copies of pageable memory to the device, of which the program cannot tell
/// when they happen as long as whatever it sends later finds them done.
class WorkCount {
 public:
  WorkCount() = default;
  WorkCount(const WorkCount& other) : value_(other.value()) {}
  WorkCount& operator=(const WorkCount& other) {
    set(other.value());
    return *this;
  }
  void count(bool quiet) { value_.fetch_add(quiet ? kQuiet : 1, std::memory_order_acq_rel); }
  std::uint64_t value() const { return value_.load(std::memory_order_acquire); }
  void set(std::uint64_t value) { value_.store(value, std::memory_order_release); }

  /// True when nothing but quiet work lies between two values of one count.
  static bool quiet_between(std::uint64_t one, std::uint64_t other) { return (one ^ other) % kQuiet == 0; }

 private:
  static constexpr std::uint64_t kQuiet = std::uint64_t{1} << 32;

  std::atomic<std::uint64_t> value_{0};
};

/// The work of all streams together. The legacy stream waits for every blocking stream and they for it. The
/// counts that end in `_ended` hold the values that a successful synchronisation of the context, or of the
/// legacy stream, had read.
struct AllWork {
  WorkCount blocking;  ///< of the legacy stream and the streams that wait for it
  WorkCount apart;     ///< of the others
  WorkCount legacy;    ///< of the legacy stream
  WorkCount orphaned;  ///< streams destroyed with work of which no end is known
  WorkCount blocking_ended;
  WorkCount apart_ended;
  WorkCount legacy_ended;
  WorkCount orphaned_ended;
  // The values at which all that is not quiet was last found to have ended.
  WorkCount blocking_quiet;
  WorkCount apart_quiet;
  // Values of `legacy` at which it was looked at, and at which the worker was asked about it.
  WorkCount legacy_seen;
  WorkCount legacy_asked;
};

}  // namespace vgpu::client
