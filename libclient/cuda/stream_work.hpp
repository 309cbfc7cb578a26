// What the client sent to its streams and how much of that it has seen end, so that a synchronisation that
// has nothing to wait for is answered without the worker. Never: knows whether the device has finished what
// no synchronisation was asked about.
#pragma once

#include <atomic>
#include <cstdint>

namespace vgpu::client {

/// The last of the calls that may have added work, by its record's position in the ring. Thread-safe, without
/// a locked instruction: each launch counts twice.
///
/// A call counts after its record has been reserved in the ring, and before it returns to the program. Who
/// synchronises reads value() before it reserves its own record, which therefore comes behind all that had
/// counted by then. A position is counted once. So a value that a successful synchronisation had read, found
/// again, says that all work has ended: whatever counted after it was read put another position there.
/// Of two calls that count at once the earlier may come out on top; the next synchronisation then waits for
/// nothing, once.
///
/// What is quiet is told apart: copies of pageable memory to the device, of which the program cannot tell
/// when they happen as long as whatever it sends later finds them done.
class WorkCount {
 public:
  /// One above a record's position; 0: none yet.
  struct Value {
    std::uint64_t last = 0;
    std::uint64_t last_loud = 0;  ///< of what is not quiet
    bool operator==(const Value&) const = default;
    /// True when nothing but quiet work lies between this value and another of the same count.
    bool quiet_until(const Value& other) const { return last_loud == other.last_loud; }
  };

  WorkCount() = default;
  WorkCount(const WorkCount& other) { set(other.value()); }
  WorkCount& operator=(const WorkCount& other) {
    set(other.value());
    return *this;
  }
  /// `position`: of the record's reservation.
  void count(std::uint64_t position, bool quiet) {
    last_.store(position + 1, std::memory_order_release);
    if (!quiet) last_loud_.store(position + 1, std::memory_order_release);
  }
  Value value() const {
    return {last_.load(std::memory_order_acquire), last_loud_.load(std::memory_order_acquire)};
  }
  void set(const Value& value) {
    last_.store(value.last, std::memory_order_release);
    last_loud_.store(value.last_loud, std::memory_order_release);
  }

 private:
  std::atomic<std::uint64_t> last_{0};
  std::atomic<std::uint64_t> last_loud_{0};
};

/// The work of all streams together. The legacy stream waits for every blocking stream and they for it. The
/// counts that end in `_ended` hold the values that a successful synchronisation of the context, or of the
/// legacy stream, had read.
struct AllWork {
  WorkCount blocking;  ///< of the legacy stream and the streams that wait for it
  WorkCount apart;     ///< of the others
  WorkCount legacy;    ///< of the legacy stream
  WorkCount blocking_ended;
  WorkCount apart_ended;
  WorkCount legacy_ended;
  // How many streams were destroyed with work of which no end is known.
  std::atomic<std::uint64_t> orphaned{0};
  std::atomic<std::uint64_t> orphaned_ended{0};
  // The values at which all that is not quiet was last found to have ended.
  WorkCount blocking_quiet;
  WorkCount apart_quiet;
  // Values of `legacy` at which it was looked at, and at which the worker was asked about it.
  WorkCount legacy_seen;
  WorkCount legacy_asked;
};

}  // namespace vgpu::client
