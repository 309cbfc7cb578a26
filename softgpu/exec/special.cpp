// Special registers.
#include <x86intrin.h>

#include <algorithm>
#include <bit>
#include <ctime>

#include "softgpu/exec/machine.hpp"

namespace softgpu::exec {

namespace {

template <class T>
void fill(Context& c, const Op* op, T value) {
  T* d = reg<T>(c, op->r[0]);
  if (c.mask == all_lanes) {
    std::fill_n(d, lanes, value);
  } else {
    for (unsigned i = 0; i < lanes; ++i) d[i] = (c.mask >> i & 1) != 0 ? value : d[i];
  }
}

template <class F>
void each_lane(Context& c, const Op* op, F f) {
  auto* d = reg<std::uint32_t>(c, op->r[0]);
  for (unsigned i = 0; i < lanes; ++i) d[i] = (c.mask >> i & 1) != 0 ? f(i) : d[i];
}

std::uint32_t part(const Dim3& d, std::uint64_t k) {
  return k == 0 ? d.x : k == 1 ? d.y : d.z;
}

const Op* sr_tid(Context& c, const Op* op) {
  const auto& t = op->imm == 0 ? c.warp->tid_x : op->imm == 1 ? c.warp->tid_y : c.warp->tid_z;
  each_lane(c, op, [&](unsigned i) { return t[i]; });
  return op + 1;
}
const Op* sr_ntid(Context& c, const Op* op) {
  return fill(c, op, part(c.grid->block, op->imm)), op + 1;
}
const Op* sr_ctaid(Context& c, const Op* op) {
  return fill(c, op, part(c.block->id, op->imm)), op + 1;
}
const Op* sr_nctaid(Context& c, const Op* op) {
  return fill(c, op, part(c.grid->grid, op->imm)), op + 1;
}
const Op* sr_constant(Context& c, const Op* op) {
  return fill(c, op, static_cast<std::uint32_t>(op->imm)), op + 1;
}
const Op* sr_laneid(Context& c, const Op* op) {
  return each_lane(c, op, [](unsigned i) { return i; }), op + 1;
}
const Op* sr_warpid(Context& c, const Op* op) {
  return fill(c, op, c.warp->index), op + 1;
}
const Op* sr_nwarpid(Context& c, const Op* op) {
  return fill(c, op, static_cast<std::uint32_t>(c.block->warps.size())), op + 1;
}
const Op* sr_lanemask(Context& c, const Op* op) {
  each_lane(c, op, [op](unsigned i) -> std::uint32_t {
    const std::uint32_t own = 1U << i;
    switch (op->imm) {
      case 0:
        return own;
      case 1:
        return own - 1;
      case 2:
        return own | (own - 1);
      case 3:
        return ~(own | (own - 1));
      default:
        return ~(own - 1);
    }
  });
  return op + 1;
}
const Op* sr_clock(Context& c, const Op* op) {
  return fill(c, op, static_cast<std::uint32_t>(__rdtsc())), op + 1;
}
const Op* sr_clock_hi(Context& c, const Op* op) {
  return fill(c, op, static_cast<std::uint32_t>(__rdtsc() >> 32)), op + 1;
}
const Op* sr_clock64(Context& c, const Op* op) {
  return fill(c, op, static_cast<std::uint64_t>(__rdtsc())), op + 1;
}
const Op* sr_globaltimer(Context& c, const Op* op) {
  timespec t{};
  clock_gettime(CLOCK_REALTIME, &t);
  const auto ns =
      static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000U + static_cast<std::uint64_t>(t.tv_nsec);
  if (op->imm == 0) {
    fill(c, op, ns);
  } else {
    fill(c, op, static_cast<std::uint32_t>(op->imm == 1 ? ns : ns >> 32));
  }
  return op + 1;
}
const Op* sr_gridid(Context& c, const Op* op) {
  return fill(c, op, c.grid->id), op + 1;
}
const Op* sr_shared(Context& c, const Op* op) {
  const std::uint32_t fixed = c.grid->code->static_shared;
  return fill(c, op, op->imm == 0 ? c.grid->dynamic_shared : fixed + c.grid->dynamic_shared), op + 1;
}
// cooperative_groups finds its grid barrier through %envreg1 (high half) and %envreg2 (low half); an ordinary
// grid reads zeros there.
const Op* sr_envreg(Context& c, const Op* op) {
  const std::uint64_t w = c.grid->cooperative ? reinterpret_cast<std::uint64_t>(&c.grid->workspace[0]) : 0;
  const std::uint64_t value = op->imm == 1 ? w >> 32 : op->imm == 2 ? w & 0xffffffffU : 0;
  return fill(c, op, static_cast<std::uint32_t>(value)), op + 1;
}

}  // namespace

SpecialRegister special_register(std::string_view name, std::string_view element) {
  // The parser may leave the element in the name.
  if (const auto dot = name.find('.'); dot != std::string_view::npos) {
    element = name.substr(dot + 1);
    name = name.substr(0, dot);
  }
  const std::uint64_t e = element == "y" ? 1 : element == "z" ? 2 : element == "w" ? 3 : 0;
  if (name == "%tid") return e == 3 ? SpecialRegister{sr_constant, 4, 0} : SpecialRegister{sr_tid, 4, e};
  if (name == "%ntid") return e == 3 ? SpecialRegister{sr_constant, 4, 0} : SpecialRegister{sr_ntid, 4, e};
  if (name == "%ctaid") return e == 3 ? SpecialRegister{sr_constant, 4, 0} : SpecialRegister{sr_ctaid, 4, e};
  if (name == "%nctaid")
    return e == 3 ? SpecialRegister{sr_constant, 4, 0} : SpecialRegister{sr_nctaid, 4, e};
  if (name == "%laneid") return {sr_laneid, 4, 0};
  if (name == "%warpid") return {sr_warpid, 4, 0};
  if (name == "%nwarpid") return {sr_nwarpid, 4, 0};
  if (name == "%lanemask_eq") return {sr_lanemask, 4, 0};
  if (name == "%lanemask_lt") return {sr_lanemask, 4, 1};
  if (name == "%lanemask_le") return {sr_lanemask, 4, 2};
  if (name == "%lanemask_gt") return {sr_lanemask, 4, 3};
  if (name == "%lanemask_ge") return {sr_lanemask, 4, 4};
  if (name == "%clock") return {sr_clock, 4, 0};
  if (name == "%clock_hi") return {sr_clock_hi, 4, 0};
  if (name == "%clock64") return {sr_clock64, 8, 0};
  if (name == "%globaltimer") return {sr_globaltimer, 8, 0};
  if (name == "%globaltimer_lo") return {sr_globaltimer, 4, 1};
  if (name == "%globaltimer_hi") return {sr_globaltimer, 4, 2};
  if (name == "%gridid") return {sr_gridid, 8, 0};
  if (name == "%smid") return {sr_constant, 4, 0};
  if (name == "%nsmid") return {sr_constant, 4, 1};
  if (name == "%dynamic_smem_size") return {sr_shared, 4, 0};
  if (name == "%total_smem_size" || name == "%aggr_smem_size") return {sr_shared, 4, 1};
  if (name.starts_with("%envreg")) {
    std::uint64_t k = 0;
    for (const char ch : name.substr(7)) k = k * 10 + static_cast<std::uint64_t>(ch - '0');
    return {sr_envreg, 4, k};
  }
  if (name == "%pm0" || name == "%reserved_smem_offset_begin" || name == "%reserved_smem_offset_end")
    return {sr_constant, 4, 0};
  return {};
}

}  // namespace softgpu::exec
