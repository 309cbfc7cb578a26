// From the image that a program hands over to the PTX text that the engine loads.
#pragma once

#include <string>
#include <tl/expected.hpp>

#include "softgpu/driver/module.hpp"

namespace softgpu {

/// PTX of a fatbin (or its wrapper) or of plain text; CUDA_ERROR_NO_BINARY_FOR_GPU for machine code alone.
tl::expected<std::string, ModuleError> ptx_of_image(const void* image);

}  // namespace softgpu
