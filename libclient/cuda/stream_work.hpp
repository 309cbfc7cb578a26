// What the client sent to its streams and how much of that it has seen end, so that a synchronisation that
// has nothing to wait for is answered without the worker. Never: knows whether the device has finished what
// no synchronisation was asked about.
#pragma once

#include <atomic>
#include <cstdint>

namespace vgpu::client {

/// A count that grows with every call that may have added work. Thread-safe.
///
/// count() comes after the call's record has been reserved in the ring, and before the call returns to the
/// program. Who synchronises reads value() before it reserves its own record: so whatever the value it read
/// counts, the synchronisation covers. Two calls that count at once may count as one; both were reserved
/// before a synchronisation that reads the result.
class WorkCount {
 public:
  WorkCount() = default;
  WorkCount(const WorkCount& other) : value_(other.value()) {}
  WorkCount& operator=(const WorkCount& other) {
    value_.store(other.value(), std::memory_order_release);
    return *this;
  }
  void count() { value_.store(value() + 1, std::memory_order_release); }
  std::uint64_t value() const { return value_.load(std::memory_order_acquire); }
  void set(std::uint64_t value) { value_.store(value, std::memory_order_release); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

/// The work of all streams together. The legacy stream waits for every blocking stream and they for it.
struct AllWork {
  WorkCount any;       ///< of any stream
  WorkCount blocking;  ///< of the legacy stream and the streams that wait for it
  WorkCount legacy;    ///< of the legacy stream
  // The values that a successful synchronisation of the context, and of the legacy stream, had read.
  WorkCount any_ended;
  WorkCount blocking_ended;
};

}  // namespace vgpu::client
