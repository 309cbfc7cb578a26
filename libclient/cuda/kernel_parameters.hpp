// The layout of a kernel's parameters and the packing of a launch's arguments into one buffer, as the worker
// passes them on with CU_LAUNCH_PARAM_BUFFER_POINTER. Never: looks into the arguments.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace vgpu::client {

/// One parameter's place in the buffer, in bytes.
struct KernelParameter {
  std::uint32_t offset = 0;
  std::uint32_t size = 0;
};

/// The parameters of one kernel, in order. Immutable once published.
class ParameterLayout {
 public:
  ParameterLayout() = default;
  explicit ParameterLayout(std::vector<KernelParameter> parameters);

  const std::vector<KernelParameter>& parameters() const { return parameters_; }
  /// Bytes of the packed buffer: the end of the last parameter.
  std::uint32_t total_bytes() const { return total_; }

  /// Copies the arguments that `kernel_params` points at into `out` (total_bytes() long). Gaps are left as
  /// they are.
  void pack(void* const* kernel_params, std::byte* out) const {
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const KernelParameter parameter = parameters_[i];
      const void* source = kernel_params[i];
      // The sizes of nearly every parameter there is, so that each becomes one move.
      if (parameter.size == 8) {
        std::memcpy(out + parameter.offset, source, 8);
      } else if (parameter.size == 4) {
        std::memcpy(out + parameter.offset, source, 4);
      } else {
        std::memcpy(out + parameter.offset, source, parameter.size);
      }
    }
  }

 private:
  std::vector<KernelParameter> parameters_;
  std::uint32_t total_ = 0;
};

/// The packed buffer a caller handed over in a launch's `extra` argument.
struct ExtraBuffer {
  const void* data = nullptr;
  std::size_t bytes = 0;
};

/// Reads a launch's `extra` list up to CU_LAUNCH_PARAM_END. CUDA_ERROR_INVALID_VALUE for an unknown key or a
/// missing size.
CUresult read_extra(void* const* extra, ExtraBuffer& out);

/// Largest packed buffer CUDA allows, in bytes (12.1 and newer).
inline constexpr std::uint32_t kMaxParameterBytes = 32764;

}  // namespace vgpu::client
