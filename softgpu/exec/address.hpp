// From an instruction's addresses to host addresses, lane by lane. For files of an ISA level.
#pragma once

#include "softgpu/exec/machine.hpp"
#include "softgpu/exec/types.hpp"
#include "softgpu/memory/address_space.hpp"

namespace softgpu::exec::SOFTGPU_ISA {

enum class Where : u16 { generic, shared, local };
inline constexpr u16 address_32 = 8;  ///< aux flag: the address register has 32 bits

struct Hosts {
  alignas(64) u64 at[lanes];
};

[[noreturn]] inline void fault_lane(Context& c, const Op* op, Fault fault, const u64* a, u32 mask) {
  raise_fault(c, op, fault, a[std::countr_zero(mask)]);
}

/// Fills h.at with host addresses of `bytes` for every active lane (others get an active lane's), or faults.
/// r0 is the address register, imm the offset, aux the place. All of memory but shared and local is one
/// space: a device address is a host address.
inline __attribute__((always_inline)) void hosts_of(Context& c, const Op* op, u32 bytes, Hosts& h) {
  c.op = op;
  u64* at = h.at;
  const u64 offset = op->imm;
  if ((op->aux & address_32) != 0) {
    const u32* a = reg<u32>(c, op->r[0]);
    SOFTGPU_LANES at[i] = a[i] + offset;
  } else {
    const u64* a = reg<u64>(c, op->r[0]);
    SOFTGPU_LANES at[i] = a[i] + offset;
  }
  if (c.mask != all_lanes) {
    const u64 some = at[std::countr_zero(c.mask)];
    const u32 mask = c.mask;
    SOFTGPU_LANES at[i] = (mask & lane_bit[i]) != 0 ? at[i] : some;
  }
  u64 low = 0;
  SOFTGPU_LANES low |= at[i];
  if ((low & (bytes - 1)) != 0) [[unlikely]]
    fault_lane(c, op, Fault::misaligned_address, at,
               bits_of([=](unsigned i) { return (at[i] & (bytes - 1)) != 0; }));
  switch (static_cast<Where>(op->aux & 7)) {
    case Where::generic: {
      u64 outside = 0;
      constexpr u64 base = device_window_base;
      static_assert((device_window_base & (device_window_size - 1)) == 0, "the window check is one mask");
      // Aligned accesses of at most 16 bytes never straddle the window's end.
      SOFTGPU_LANES outside |= (at[i] ^ base) & ~(device_window_size - 1);
      if (outside != 0) [[unlikely]] {
        for (unsigned i = 0; i < lanes; ++i)
          if ((c.mask & lane_bit[i]) != 0)
            at[i] = reinterpret_cast<u64>(resolve_generic(c, op, i, at[i], bytes));
        const u64 some = at[std::countr_zero(c.mask)];
        for (unsigned i = 0; i < lanes; ++i)
          if ((c.mask & lane_bit[i]) == 0) at[i] = some;
      }
      break;
    }
    case Where::shared: {
      const u64 size = c.shared_size;
      const u32 bad = size < bytes ? all_lanes : bits_of([=](unsigned i) { return at[i] > size - bytes; });
      if (bad != 0) [[unlikely]]
        fault_lane(c, op, Fault::illegal_address, at, bad);
      const u64 base = reinterpret_cast<u64>(c.shared);
      SOFTGPU_LANES at[i] += base;
      break;
    }
    case Where::local: {
      const u64 size = c.grid->code->stack_bytes;
      const u32 bad = size < bytes ? all_lanes : bits_of([=](unsigned i) { return at[i] > size - bytes; });
      if (bad != 0) [[unlikely]]
        fault_lane(c, op, Fault::illegal_address, at, bad);
      const u64 base = reinterpret_cast<u64>(c.local), stride = c.local_stride;
      SOFTGPU_LANES at[i] += base + i * stride;
      if (c.mask != all_lanes) {
        const u64 some = at[std::countr_zero(c.mask)];
        const u32 mask = c.mask;
        SOFTGPU_LANES at[i] = (mask & lane_bit[i]) != 0 ? at[i] : some;
      }
      break;
    }
  }
}

/// True when lane i's address is lane 0's plus i * step.
inline bool contiguous(const Hosts& h, u64 step) {
  u64 off = 0;
  SOFTGPU_LANES off |= h.at[i] ^ (h.at[0] + i * step);
  return off == 0;
}

/// What a memory instruction's mnemonic says of its address space.
inline Where where_of(const Instruction& i) {
  if (i.has("shared") || i.has("shared::cta")) return Where::shared;
  if (i.has("local")) return Where::local;
  return Where::generic;
}

/// Puts an address operand into r0, imm and aux.
inline bool use_address(Builder& b, Draft& d, const Builder::Address& a, Where where) {
  if (a.bytes == 4 && where == Where::generic) return b.fail("32-bit address of global memory"), false;
  d.use(0, a.base).imm(static_cast<u64>(a.offset));
  d.aux(static_cast<u16>(static_cast<u16>(where) | (a.bytes == 4 ? address_32 : 0)));
  return true;
}

}  // namespace softgpu::exec::SOFTGPU_ISA
