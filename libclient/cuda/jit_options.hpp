// JIT options of cuModuleLoadDataEx, cuLibraryLoadData and cuLink*: those that are numbers go to the worker,
// log buffers are filled from what comes back. Never: compiles.
#pragma once

#include <cuda.h>

#include <span>
#include <vector>

#include "protocol/jit_options.hpp"

namespace vgpu::client {

/// The options of one call as the program passed them. The arrays must outlive the object: outputs are
/// written through them.
class JitOptions {
 public:
  JitOptions() = default;
  JitOptions(unsigned count, CUjit_option* options, void** values);

  /// CUDA_ERROR_INVALID_VALUE for missing arrays, CUDA_ERROR_NOT_SUPPORTED for an option that names the
  /// program's memory or is not known.
  CUresult problem() const { return problem_; }
  bool empty() const { return count_ == 0; }
  /// What the record carries.
  std::span<const JitOption> wire() const { return wire_; }
  /// Room that the outputs of these options may need, in bytes.
  std::size_t output_bytes() const { return sizeof(JitOutputs) + info_room_ + error_room_; }
  /// Writes logs, times and sizes to where the program wants them; `data` is the logs span.
  void write_back(std::span<const std::byte> data) const;

 private:
  unsigned count_ = 0;
  CUjit_option* options_ = nullptr;
  void** values_ = nullptr;
  std::size_t info_room_ = 0, error_room_ = 0;
  std::vector<JitOption> wire_;
  CUresult problem_ = CUDA_SUCCESS;
};

}  // namespace vgpu::client
