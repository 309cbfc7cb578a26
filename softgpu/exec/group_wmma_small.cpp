#include <bit>
#include <cstring>

#include "softgpu/exec/matrix.hpp"
#include "softgpu/exec/wmma_small.hpp"

namespace softgpu::exec::SOFTGPU_ISA {

namespace {

constexpr u32 size = 8;        // rows and columns
constexpr u32 line_words = 4;  // of an input's line
constexpr u32 most_registers = 2;

// Calls f(address, number) for every line in memory.
template <class F>
void each_line(Context& c, const Op* op, SmallForm form, F f) {
  const auto lane = static_cast<unsigned>(std::countr_zero(c.mask));
  const u64 base = (form.narrow ? reg<u32>(c, op->r[8])[lane] : reg<u64>(c, op->r[8])[lane]) + op->imm;
  const u64 stride = u64{reg<u32>(c, op->r[9])[lane]} * (form.input ? form.element_bits : 32) / 8;
  const u32 bytes = (form.input ? line_words : size) * sizeof(u32);
  for (u32 i = 0; i < size; ++i) {
    const u64 address = base + i * stride;
    if (address % sizeof(u32) != 0) raise_fault(c, op, Fault::misaligned_address, address);
    if (!form.shared) {
      f(reinterpret_cast<u32*>(resolve_generic(c, op, lane, address, bytes)), i);
      continue;
    }
    if (address > c.shared_size || c.shared_size - address < bytes)
      raise_fault(c, op, Fault::illegal_address, address);
    f(reinterpret_cast<u32*>(c.shared + address), i);
  }
}

// Where the k-th word of an accumulator's line stands among its registers.
u32 place(SmallForm form, u32 line, u32 k) {
  return form.column ? size * k + line : size * line + k;
}

s32 nibble(u32 word, unsigned k, bool is_unsigned) {
  const u32 bits = word >> (4 * k) & 15;
  return is_unsigned || bits < 8 ? static_cast<s32>(bits) : static_cast<s32>(bits) - 16;
}

s32 product(const u32* a, const u32* b, u16 flags) {
  s32 sum = 0;
  for (u32 w = 0; w < line_words; ++w) {
    if ((flags & single_bits) != 0) {
      sum += std::popcount(a[w] ^ b[w]);
      continue;
    }
    for (unsigned k = 0; k < 8; ++k)
      sum += nibble(a[w], k, (flags & a_unsigned) != 0) * nibble(b[w], k, (flags & b_unsigned) != 0);
  }
  return sum;
}

}  // namespace

const Op* load_small(Context& c, const Op* op) {
  const Op* other = nullptr;
  if (wait_for_lanes(c, op, all_lanes, other)) return other;
  c.op = op;
  const auto form = SmallForm::unpacked(op->aux);
  alignas(64) u32 registers[most_registers * lanes];
  each_line(c, op, form, [&](const u32* at, u32 line) {
    if (form.input) {
      std::memcpy(registers + line_words * line, at, line_words * sizeof(u32));
    } else {
      for (u32 k = 0; k < size; ++k) registers[place(form, line, k)] = at[k];
    }
  });
  for (u32 k = 0; k < (form.input ? 1U : 2U); ++k)
    store_register(c, reg<u32>(c, op->r[k]), registers + lanes * k);
  return op + 1;
}

const Op* store_small(Context& c, const Op* op) {
  const Op* other = nullptr;
  if (wait_for_lanes(c, op, all_lanes, other)) return other;
  c.op = op;
  const auto form = SmallForm::unpacked(op->aux);
  alignas(64) u32 registers[most_registers * lanes];
  for (u32 k = 0; k < 2; ++k) std::memcpy(registers + lanes * k, reg<u32>(c, op->r[k]), lanes * sizeof(u32));
  each_line(c, op, form, [&](u32* at, u32 line) {
    for (u32 k = 0; k < size; ++k) at[k] = registers[place(form, line, k)];
  });
  return op + 1;
}

const Op* multiply_small(Context& c, const Op* op) {
  const Op* other = nullptr;
  if (wait_for_lanes(c, op, all_lanes, other)) return other;
  alignas(64) u32 a[lanes], b[lanes], sum[most_registers * lanes];
  std::memcpy(a, reg<u32>(c, op[1].r[0]), sizeof a);
  std::memcpy(b, reg<u32>(c, op[2].r[0]), sizeof b);
  for (u32 k = 0; k < 2; ++k) std::memcpy(sum + lanes * k, reg<u32>(c, op[3].r[k]), lanes * sizeof(u32));
  for (u32 m = 0; m < size; ++m) {
    for (u32 n = 0; n < size; ++n) {
      u32& into = sum[size * m + n];
      const s64 wide = s64{static_cast<s32>(into)} + product(a + line_words * m, b + line_words * n, op->aux);
      const bool limited = (op->aux & saturate) != 0;
      into = limited && wide > INT32_MAX   ? static_cast<u32>(INT32_MAX)
             : limited && wide < INT32_MIN ? static_cast<u32>(INT32_MIN)
                                           : static_cast<u32>(wide);
    }
  }
  for (u32 k = 0; k < 2; ++k) store_register(c, reg<u32>(c, op->r[k]), sum + lanes * k);
  return op + 4;
}

}  // namespace softgpu::exec::SOFTGPU_ISA
