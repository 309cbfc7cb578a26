// wmma of elements smaller than a byte: 4-bit integers (m8n8k32) and single bits (m8n8k128). A line of either
// input, a row of A or a column of B, is 16 bytes; an input's fragment holds its lines one after the other in
// one register, an accumulator's its matrix row by row in two.
#pragma once

#include "softgpu/exec/machine.hpp"
#include "softgpu/exec/types.hpp"

namespace softgpu::exec::SOFTGPU_ISA {

/// What wmma products may be told; in Op::aux.
enum : u16 { wide_result = 1, wide_sum = 2, a_unsigned = 4, b_unsigned = 8, saturate = 16, single_bits = 32 };

/// How a fragment of small elements lies in memory; packed into Op::aux.
struct SmallForm {
  bool input = false;   ///< A or B; else an accumulator
  u8 element_bits = 4;  ///< of an input
  bool column = false, shared = false, narrow = false;

  u16 packed() const {
    return static_cast<u16>((input ? 1 : 0) | (element_bits == 1 ? 2 : 0) | (column ? 4 : 0) |
                            (shared ? 8 : 0) | (narrow ? 16 : 0));
  }
  static SmallForm unpacked(u16 v) {
    return {(v & 1) != 0, static_cast<u8>((v & 2) != 0 ? 1 : 4), (v & 4) != 0, (v & 8) != 0, (v & 16) != 0};
  }
};

/// r0.. the fragment, r8 the address, r9 the stride in elements.
const Op* load_small(Context& c, const Op* op);
const Op* store_small(Context& c, const Op* op);
/// Four ops in a row: d, a, b, c. Single bits: how many differ.
const Op* multiply_small(Context& c, const Op* op);

}  // namespace softgpu::exec::SOFTGPU_ISA
