// shfl, vote, match, activemask, redux, bar.warp.sync. A member mask that names lanes which run elsewhere
// makes the split wait for them (wait_for_lanes).
#include <algorithm>

#include "softgpu/exec/machine.hpp"
#include "softgpu/exec/types.hpp"

namespace softgpu::exec::SOFTGPU_ISA {

namespace {

u32 united(Context& c, const u32* masks) {
  u32 need = 0;
  each_active(c.mask, [&](unsigned i) { need |= masks[i]; });
  return need;
}

// True when members that run elsewhere must come first; `out` is what runs meanwhile. Asks a diverged warp
// only: in any other all lanes are here.
bool must_wait(Context& c, const Op* op, const u32* masks, const Op*& out) {
  return c.warp->used > 1 && wait_for_lanes(c, op, united(c, masks), out);
}

enum class Mode : u16 { up, down, bfly, idx };

// r0 d, r1 predicate (when aux bit 4), r2 value, r3 lane or delta, r4 clamp and segment, r5 members (when aux
// bit 5).
template <Mode M>
const Op* shuffle(Context& c, const Op* op) {
  if ((op->aux & 32) != 0) {
    const Op* out = nullptr;
    if (must_wait(c, op, reg<u32>(c, op->r[5]), out)) return out;
  }
  const u32* delta = reg<u32>(c, op->r[3]);
  const u32* clamp = reg<u32>(c, op->r[4]);
  alignas(64) u32 from[lanes];
  alignas(64) u32 valid[lanes];
  SOFTGPU_LANES {
    const u32 b = delta[i] & 31, cv = clamp[i] & 31, segment = clamp[i] >> 8 & 31;
    const u32 least = i & segment, most = least | (cv & ~segment);
    const u32 j = M == Mode::up     ? i - b
                  : M == Mode::down ? i + b
                  : M == Mode::bfly ? i ^ b
                                    : least | (b & ~segment);
    const bool ok = M == Mode::up ? static_cast<s32>(j) >= static_cast<s32>(most) : j <= most;
    from[i] = ok ? j & 31 : i;
    valid[i] = ok ? lane_bit[i] : 0;
  }
  // The destination may be the value's register.
  alignas(64) u32 t[lanes];
  permute(t, reg<u32>(c, op->r[2]), from);
  if ((op->aux & 16) != 0) {
    u32 bits = 0;
    SOFTGPU_LANES bits |= valid[i];
    set_predicate(c, op->r[1], bits);
  }
  merge(c.mask, reg<u32>(c, op->r[0]), t);
  return op + 1;
}

// r0 d, r1 predicate, r5 members; aux: 0 all, 1 any, 2 uni, 3 ballot; bit 5: members given.
const Op* vote(Context& c, const Op* op) {
  const u32* members = reg<u32>(c, op->r[5]);
  if ((op->aux & 32) != 0) {
    const Op* out = nullptr;
    if (must_wait(c, op, members, out)) return out;
  }
  const u32 p = *reg<u32>(c, op->r[1]);
  const u32 active = c.mask;
  const u32 what = op->aux & 15;
  auto group = [&](unsigned i) { return (op->aux & 32) != 0 ? members[i] & active : active; };
  if (what == 3) {
    each(c, reg<u32>(c, op->r[0]), [&](unsigned i) -> u32 { return p & group(i); });
    return op + 1;
  }
  set_predicate(c, op->r[0], bits_of([&](unsigned i) {
                  const u32 g = group(i), v = p & g;
                  return what == 0 ? v == g : what == 1 ? v != 0 : v == g || v == 0;
                }));
  return op + 1;
}

// r0 d, r1 predicate (all), r2 value, r5 members.
template <class T, bool All>
const Op* match(Context& c, const Op* op) {
  const u32* members = reg<u32>(c, op->r[5]);
  const Op* out = nullptr;
  if (must_wait(c, op, members, out)) return out;
  const T* a = reg<T>(c, op->r[2]);
  alignas(64) u32 t[lanes] = {};
  u32 all = 0;
  each_active(c.mask, [&](unsigned i) {
    const u32 group = members[i] & c.mask;
    u32 same = 0;
    each_active(group, [&](unsigned k) { same |= a[k] == a[i] ? lane_bit[k] : 0U; });
    if (All) {
      t[i] = same == group ? group : 0;
      if (same == group) all |= lane_bit[i];
    } else {
      t[i] = same;
    }
  });
  merge(c.mask, reg<u32>(c, op->r[0]), t);
  if (All) set_predicate(c, op->r[1], all);
  return op + 1;
}

const Op* active_mask(Context& c, const Op* op) {
  const u32 m = c.mask;
  each(c, reg<u32>(c, op->r[0]), [=](unsigned) -> u32 { return m; });
  return op + 1;
}

const Op* warp_barrier(Context& c, const Op* op) {
  const Op* out = nullptr;
  if (must_wait(c, op, reg<u32>(c, op->r[5]), out)) return out;
  return op + 1;
}

// aux: 0 add, 1 min, 2 max, 3 and, 4 or, 5 xor.
template <class T>
const Op* reduce(Context& c, const Op* op) {
  const u32* members = reg<u32>(c, op->r[5]);
  const Op* out = nullptr;
  if (must_wait(c, op, members, out)) return out;
  const T* a = reg<T>(c, op->r[2]);
  alignas(64) T t[lanes] = {};
  each_active(c.mask, [&](unsigned i) {
    T r = a[i];
    each_active(members[i] & c.mask & ~lane_bit[i], [&](unsigned k) {
      const T v = a[k];
      switch (op->aux) {
        case 0:
          r = static_cast<T>(static_cast<u32>(r) + static_cast<u32>(v));
          break;
        case 1:
          r = std::min(r, v);
          break;
        case 2:
          r = std::max(r, v);
          break;
        case 3:
          r &= v;
          break;
        case 4:
          r |= v;
          break;
        default:
          r ^= v;
          break;
      }
    });
    t[i] = r;
  });
  merge(c.mask, reg<T>(c, op->r[0]), t);
  return op + 1;
}

}  // namespace

bool decode_warp(Builder& b, const Instruction& i) {
  const std::string_view name = i.name();
  const std::size_t n = i.operands();
  if (name == "activemask") {
    b.emit(&active_mask).def(0, b.out(i.operand(0), 4));
    return true;
  }
  if ((name == "bar" || name == "barrier") && i.part(1) == "warp") {
    const Vreg m = b.in(i.operand(0), 4);
    b.emit(&warp_barrier).use(5, m);
    return true;
  }
  const bool sync = i.has("sync");
  if (name == "shfl") {
    const Handler fn = i.has("up")     ? &shuffle<Mode::up>
                       : i.has("down") ? &shuffle<Mode::down>
                       : i.has("bfly") ? &shuffle<Mode::bfly>
                                       : &shuffle<Mode::idx>;
    if (n != (sync ? 5U : 4U)) return b.fail("shfl operands");
    const Vreg a = b.in(i.operand(1), 4), lane = b.in(i.operand(2), 4), clamp = b.in(i.operand(3), 4);
    const Vreg m = sync ? b.in(i.operand(4), 4) : a;
    const auto* two = std::get_if<ptx::PairOperand>(&i.operand(0).value);
    const Vreg d = two != nullptr ? b.out(ptx::Operand{two->first}, 4) : b.out(i.operand(0), 4);
    const Vreg p = two != nullptr ? b.out(ptx::Operand{two->second}, 0) : 0;
    Draft& draft = b.emit(fn).def(0, d).use(2, a).use(3, lane).use(4, clamp).use(5, m);
    if (two != nullptr) draft.def(1, p);
    draft.aux(static_cast<u16>((two != nullptr ? 16 : 0) | (sync ? 32 : 0)));
    return true;
  }
  if (name == "vote") {
    const u16 what = i.has("ballot") ? 3 : i.has("uni") ? 2 : i.has("any") ? 1 : 0;
    const Vreg p = b.in(i.operand(1), 0), m = sync ? b.in(i.operand(2), 4) : b.constant(4, all_lanes);
    const Vreg d = b.out(i.operand(0), what == 3 ? 4 : 0);
    b.emit(&vote).def(0, d).use(1, p).use(5, m).aux(static_cast<u16>(what | (sync ? 32 : 0)));
    return true;
  }
  if (name == "match") {
    const bool all = i.has("all"), wide = i.type() == ptx::Type::b64;
    const Vreg a = b.in(i.operand(1), wide ? 8 : 4), m = b.in(i.operand(2), 4);
    const auto* two = std::get_if<ptx::PairOperand>(&i.operand(0).value);
    const Vreg d = two != nullptr ? b.out(ptx::Operand{two->first}, 4) : b.out(i.operand(0), 4);
    const Vreg p = two != nullptr ? b.out(ptx::Operand{two->second}, 0) : b.temp(0);
    const Handler fn = all ? (wide ? &match<u64, true> : &match<u32, true>)
                           : (wide ? &match<u64, false> : &match<u32, false>);
    Draft& draft = b.emit(fn).def(0, d).use(2, a).use(5, m);
    if (all) draft.def(1, p);
    return true;
  }
  if (name == "redux") {
    static constexpr std::string_view names[] = {"add", "min", "max", "and", "or", "xor"};
    for (u16 k = 0; k < 6; ++k) {
      if (!i.has(names[k])) continue;
      const Vreg a = b.in(i.operand(1), 4), m = b.in(i.operand(2), 4);
      if (i.type() == ptx::Type::f32) return b.fail("redux of f32");
      b.emit(i.type() == ptx::Type::s32 ? &reduce<s32> : &reduce<u32>)
          .def(0, b.out(i.operand(0), 4))
          .use(2, a)
          .use(5, m)
          .aux(k);
      return true;
    }
    return b.fail("redux form");
  }
  return false;
}

}  // namespace softgpu::exec::SOFTGPU_ISA
