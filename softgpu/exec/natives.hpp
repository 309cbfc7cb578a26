// The device functions that the engine provides itself.
#pragma once

#include <string_view>

#include "softgpu/exec/code.hpp"

namespace softgpu::exec {

/// The op that does the work of the function of that name; nullptr where a text must define it.
Handler native_function(std::string_view name);

}  // namespace softgpu::exec
