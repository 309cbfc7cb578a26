// The policies by name, put together from what the operator says.
#pragma once

#include <chrono>
#include <memory>

#include "daemon/scheduler/policy.hpp"

namespace vgpu::daemon {

// Order among the clients of one priority.
enum class PolicyKind { fair, fifo, deadline, time_slice, turns };

// The words of the configuration file: "fair", "fifo", "deadline", "time_slice", "turns".
[[nodiscard]] const char* to_string(PolicyKind kind);

// See docs/configuration.md, `scheduler`.
struct PolicyOptions {
  // How far one busy client may get ahead of another, at weight 100.
  std::chrono::microseconds quantum{4000};
  // A client that pauses for less keeps its turn; measured: 2 ms made 3:1 weights 2.6:1 on a loaded machine,
  // where client processes are often kept from the CPU for longer.
  std::chrono::microseconds idle_after{20'000};
  // For that long a pause keeps the device from those whose turn it is not.
  std::chrono::microseconds linger{400};
  // Who has waited so long gets a turn in spite of higher priorities; 0: never.
  std::chrono::microseconds aging{1'000'000};
  // An exclusive window at weight 100.
  std::chrono::microseconds slice{8000};
  // A turn at weight 100: a change of contexts costs an H100 0.2 to 0.3 ms.
  std::chrono::microseconds turn{20'000};
  // The device is kept free for a client of higher priority that is about to come, for as long as `linger`.
  bool anticipate = false;
  // How much of a turn's end its work in flight fills.
  std::chrono::microseconds lead{200};
};

// Strict priorities over policies of `kind`.
[[nodiscard]] std::unique_ptr<SchedulingPolicy> make_policy(PolicyKind kind, const PolicyOptions& options);

}  // namespace vgpu::daemon
