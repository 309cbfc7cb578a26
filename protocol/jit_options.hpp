// JIT options and their outputs on the way between client and worker: plain numbers only. Buffers stay on
// their side; the worker makes its own, no larger than the client's, and sends back what was written.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vgpu {

/// One CUjit_option or CUlibraryOption with its value; in the tails of the jit_ and cuLink records.
struct JitOption {
  std::uint32_t option = 0;
  std::uint32_t reserved = 0;
  std::uint64_t value = 0;
};
static_assert(sizeof(JitOption) == 16);

inline constexpr std::size_t max_jit_options = 64;
inline constexpr std::size_t max_jit_log_bytes = 256 << 10;  ///< of each log

/// What the worker writes at the start of a `logs` span; the info log and the error log follow it.
struct JitOutputs {
  std::uint32_t info_bytes = 0;   ///< without a NUL
  std::uint32_t error_bytes = 0;  ///< without a NUL
  std::uint32_t threads_per_block = 0;
  float wall_time = 0;  ///< milliseconds
};

}  // namespace vgpu
