// The thread that runs host functions (cuLaunchHostFunc, cuStreamAddCallback) when the worker's stream
// reaches them. It is started with the first of them and runs to the end of the process. Never: runs anything
// the program did not hand in.
#pragma once

#include "libclient/cuda/process.hpp"

namespace vgpu::client {

/// Starts the thread unless it runs already; false if there can be none. Thread-safe.
bool start_upcalls(Process& process);

}  // namespace vgpu::client
