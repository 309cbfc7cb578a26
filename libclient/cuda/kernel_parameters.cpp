#include "libclient/cuda/kernel_parameters.hpp"

#include <algorithm>
#include <utility>

namespace vgpu::client {

ParameterLayout::ParameterLayout(std::vector<KernelParameter> parameters)
    : parameters_(std::move(parameters)) {
  for (const KernelParameter& parameter : parameters_)
    total_ = std::max(total_, parameter.offset + parameter.size);
}

CUresult read_extra(void* const* extra, ExtraBuffer& out) {
  const void* data = nullptr;
  const std::size_t* bytes = nullptr;
  for (std::size_t i = 0;; i += 2) {
    const void* key = extra[i];
    if (key == CU_LAUNCH_PARAM_END) break;
    if (key == CU_LAUNCH_PARAM_BUFFER_POINTER) {
      data = extra[i + 1];
    } else if (key == CU_LAUNCH_PARAM_BUFFER_SIZE) {
      bytes = static_cast<const std::size_t*>(extra[i + 1]);
    } else {
      return CUDA_ERROR_INVALID_VALUE;
    }
  }
  if (bytes == nullptr || (data == nullptr && *bytes != 0)) return CUDA_ERROR_INVALID_VALUE;
  out = {data, *bytes};
  return CUDA_SUCCESS;
}

}  // namespace vgpu::client
