// Texture and surface instructions: the same code for every ISA level.
#pragma once

#include "softgpu/exec/builder.hpp"

namespace softgpu::exec {

/// False for other instructions.
bool decode_texture(Builder& b, const Instruction& i);

}  // namespace softgpu::exec
