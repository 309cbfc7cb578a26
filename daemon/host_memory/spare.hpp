// How much memory this process may take without pressing anybody. Reads /proc and /sys.
#pragma once

#include <cstdint>
#include <string>

namespace vgpu::host_memory {

/// Bytes that the machine has available, and that each limit (memory.max, memory.high) of this process's
/// cgroups leaves, less a 16th of the machine or of the limit, which stays free; 0 when the system does not
/// say. `root` stands before all paths, in tests. Any thread.
[[nodiscard]] std::uint64_t spare_bytes(const std::string& root = "");

}  // namespace vgpu::host_memory
