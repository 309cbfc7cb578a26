// The instruction groups of every ISA level, and which level this machine runs.
#pragma once

#include "softgpu/exec/builder.hpp"

namespace softgpu::exec {

using DecodeFunction = bool (*)(Builder&, const Instruction&);

/// Decode functions of an ISA level (0 baseline, 1 x86-64-v3, 2 x86-64-v4), nullptr-terminated.
const DecodeFunction* groups(unsigned isa);
/// The best level this CPU has; SOFTGPU_ISA_LEVEL in the environment lowers it (0, 1, 2).
unsigned isa_level();

#define SOFTGPU_DECLARE_GROUPS(level)                    \
  namespace level {                                      \
  bool decode_integer(Builder& b, const Instruction& i); \
  bool decode_bits(Builder& b, const Instruction& i);    \
  bool decode_float(Builder& b, const Instruction& i);   \
  bool decode_half(Builder& b, const Instruction& i);    \
  bool decode_compare(Builder& b, const Instruction& i); \
  bool decode_convert(Builder& b, const Instruction& i); \
  bool decode_move(Builder& b, const Instruction& i);    \
  bool decode_memory(Builder& b, const Instruction& i);  \
  bool decode_atomic(Builder& b, const Instruction& i);  \
  bool decode_warp(Builder& b, const Instruction& i);    \
  bool decode_mma(Builder& b, const Instruction& i);     \
  bool decode_wmma(Builder& b, const Instruction& i);    \
  bool decode_video(Builder& b, const Instruction& i);   \
  }

SOFTGPU_DECLARE_GROUPS(isa_base)
SOFTGPU_DECLARE_GROUPS(isa_v3)
SOFTGPU_DECLARE_GROUPS(isa_v4)

/// Control flow and barriers: the same code for every level.
bool decode_control(Builder& b, const Instruction& i);

}  // namespace softgpu::exec
