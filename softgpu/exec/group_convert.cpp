// cvt in its forms: between integers, integers and floats, floats; rounding to integral values; saturation.
#include <limits>
#include <type_traits>

#include "softgpu/exec/floats.hpp"

namespace softgpu::exec::SOFTGPU_ISA {

namespace {

using ptx::Type;

bool is_float(Type t) {
  return t == Type::f16 || t == Type::bf16 || t == Type::f32 || t == Type::f64;
}
bool is_signed(Type t) {
  return t == Type::s8 || t == Type::s16 || t == Type::s32 || t == Type::s64;
}

// The low part of a register as E, extended to the destination.
template <class D, class S, class E>
const Op* extend(Context& c, const Op* op) {
  const S* a = reg<S>(c, op->r[1]);
  each(c, reg<D>(c, op->r[0]), [=](unsigned i) -> D { return static_cast<D>(static_cast<E>(a[i])); });
  return op + 1;
}
// From type S (in a register of its width or wider, already extended) to D with clamping.
template <class D, class R, class S>
const Op* saturate(Context& c, const Op* op) {
  using W = std::conditional_t<std::is_signed_v<S>, s64, u64>;
  const S* a = reg<S>(c, op->r[1]);
  each(c, reg<R>(c, op->r[0]), [=](unsigned i) -> R {
    const W v = a[i];
    constexpr D low = std::numeric_limits<D>::min(), high = std::numeric_limits<D>::max();
    D r = static_cast<D>(v);
    if (std::cmp_less(v, low)) r = low;
    if (std::cmp_greater(v, high)) r = high;
    return static_cast<R>(r);
  });
  return op + 1;
}

template <class D, class S>
const Op* number(Context& c, const Op* op) {
  use_csr(c, op->csr);
  const S* a = reg<S>(c, op->r[1]);
  each(c, reg<D>(c, op->r[0]), [=](unsigned i) -> D { return static_cast<D>(a[i]); });
  return op + 1;
}

// Rounds by MXCSR, clamps to D's range. NaN becomes 0, or the top bit when either side has 64 bits.
template <class D, class R, class S>
const Op* to_integer(Context& c, const Op* op) {
  use_csr(c, op->csr);
  const S* a = reg<S>(c, op->r[1]);
  constexpr bool wide = sizeof(S) == 8 || sizeof(D) == 8;
  constexpr D nan = wide ? static_cast<D>(std::make_unsigned_t<D>{1} << (8 * sizeof(D) - 1)) : D{0};
  constexpr D low = std::numeric_limits<D>::min(), high = std::numeric_limits<D>::max();
  // Both bounds are powers of two and exact: values v with low <= v < above convert.
  constexpr S bottom = static_cast<S>(low);
  constexpr S above =
      std::is_signed_v<D> ? -bottom : static_cast<S>(2) * static_cast<S>(u64{1} << (8 * sizeof(D) - 1));
  each(c, reg<R>(c, op->r[0]), [=](unsigned i) -> R {
    S v = 0;
    if constexpr (sizeof(S) == 4) v = __builtin_rintf(a[i]);
    if constexpr (sizeof(S) == 8) v = __builtin_rint(a[i]);
    const bool under = v < bottom, over = v >= above, bad = v != v;
    const S safe = under || over || bad ? S{0} : v;
    D r = static_cast<D>(safe);
    r = under ? low : r;
    r = over ? high : r;
    r = bad ? nan : r;
    return static_cast<R>(r);
  });
  return op + 1;
}

// aux bit 0: round to an integral value, 1: saturate, 2: flush.
template <class T>
const Op* same(Context& c, const Op* op) {
  use_csr(c, op->csr);
  const T* a = reg<T>(c, op->r[1]);
  const bool integral = (op->aux & 1) != 0, sat = (op->aux & 2) != 0, ftz = (op->aux & 4) != 0;
  each(c, reg<T>(c, op->r[0]), [=](unsigned i) -> T {
    T v = a[i];
    if constexpr (sizeof(T) == 4) {
      if (ftz) v = flushed(v);
      if (integral) v = canonical(__builtin_rintf(v));
    } else if (integral) {
      v = __builtin_rint(v);
    }
    return sat ? saturated(v) : v;
  });
  return op + 1;
}
template <class D, class S>
const Op* resize(Context& c, const Op* op) {
  use_csr(c, op->csr);
  const S* a = reg<S>(c, op->r[1]);
  const bool sat = (op->aux & 2) != 0;
  each(c, reg<D>(c, op->r[0]), [=](unsigned i) -> D {
    const D v = canonical(static_cast<D>(a[i]));
    return sat ? saturated(v) : v;
  });
  return op + 1;
}

const Op* half_to_float(Context& c, const Op* op) {
  alignas(64) float t[lanes];
  halves_to_floats(reg<u16>(c, op->r[1]), t);
  const bool sat = (op->aux & 2) != 0;
  each(c, reg<float>(c, op->r[0]), [&](unsigned i) -> float {
    const float v = canonical(t[i]);
    return sat ? saturated(v) : v;
  });
  return op + 1;
}
const Op* bfloat_to_float(Context& c, const Op* op) {
  const u16* a = reg<u16>(c, op->r[1]);
  each(c, reg<u32>(c, op->r[0]), [=](unsigned i) -> u32 { return static_cast<u32>(a[i]) << 16; });
  return op + 1;
}
const Op* float_to_half(Context& c, const Op* op) {
  use_csr(c, csr_rn);
  alignas(64) u16 t[lanes];
  const float* a = reg<float>(c, op->r[1]);
  floats_to_halves(a, t);
  if (op->aux != 0) {
    const bool sat = (op->aux & 2) != 0, relu = (op->aux & 8) != 0;
    for (unsigned i = 0; i < lanes; ++i) {
      if (sat)
        t[i] = (t[i] & 0x7fff) > 0x7c00 || (t[i] & 0x8000) != 0 ? u16{0} : t[i] > 0x3c00 ? u16{0x3c00} : t[i];
      if (relu && (t[i] & 0x7fff) <= 0x7c00 && (t[i] & 0x8000) != 0) t[i] = 0;
    }
  }
  merge(c.mask, reg<u16>(c, op->r[0]), t);
  return op + 1;
}
// imm: the rounding.
template <class S>
const Op* any_to_half(Context& c, const Op* op) {
  const S* a = reg<S>(c, op->r[1]);
  u16* d = reg<u16>(c, op->r[0]);
  const bool sat = (op->aux & 2) != 0;
  each_active(c.mask, [&](unsigned i) {
    double v = static_cast<double>(a[i]);
    if (sat) v = saturated(v);
    d[i] = double_to_half_one(v, static_cast<Round>(op->imm));
  });
  return op + 1;
}
const Op* float_to_bfloat(Context& c, const Op* op) {
  const u32* a = reg<u32>(c, op->r[1]);
  const bool truncate = op->imm == static_cast<u64>(Round::zero), relu = (op->aux & 8) != 0;
  each(c, reg<u16>(c, op->r[0]), [=](unsigned i) -> u16 {
    const u32 u = a[i];
    const bool nan = (u & 0x7fffffffU) > 0x7f800000U;
    u32 r = truncate ? u >> 16 : (u + 0x7fff + (u >> 16 & 1)) >> 16;
    r = relu && (u >> 31) != 0 ? 0 : r;
    return nan ? u16{0x7fff} : static_cast<u16>(r);
  });
  return op + 1;
}
const Op* pack_halves(Context& c, const Op* op) {
  const u16* high = reg<u16>(c, op->r[1]);
  const u16* low = reg<u16>(c, op->r[2]);
  each(c, reg<u32>(c, op->r[0]), [=](unsigned i) -> u32 { return static_cast<u32>(high[i]) << 16 | low[i]; });
  return op + 1;
}

Round round_of(const Instruction& i) {
  if (i.has("rz") || i.has("rzi")) return Round::zero;
  if (i.has("rm") || i.has("rmi")) return Round::down;
  if (i.has("rp") || i.has("rpi")) return Round::up;
  return Round::nearest;
}
u32 csr_for(Round r, bool ftz) {
  const u32 v = r == Round::zero ? csr_rz : r == Round::down ? csr_rm : r == Round::up ? csr_rp : csr_rn;
  return v | (ftz ? csr_ftz : 0U);
}

// The source as an integer register of at least 32 bits, or as it is.
Vreg widened(Builder& b, const ptx::Operand& o, Type type, u32& bytes, Type& wide) {
  const u32 want = ptx::size_of(type) == 8 ? 8 : 4;
  const u32 have = b.width_of(o, want);
  wide = want == 8 ? (is_signed(type) ? Type::s64 : Type::u64) : (is_signed(type) ? Type::s32 : Type::u32);
  bytes = want;
  const Vreg a = b.in(o, have);
  if (have == want && ptx::size_of(type) == want) return a;
  const Vreg t = b.temp(want);
  Handler fn = nullptr;
  with_any_integer(type, [&](auto e) {
    using E = typename decltype(e)::type;
    with_bytes(have, [&](auto s) {
      using S = typename decltype(s)::type;
      if constexpr (sizeof(E) <= sizeof(S)) {
        if (want == 8) {
          fn = &extend<u64, S, E>;
        } else {
          fn = &extend<u32, S, E>;
        }
      }
    });
  });
  if (fn == nullptr) {
    b.fail("cvt reads a register narrower than its type");
    return t;
  }
  b.emit(fn).def(0, t).use(1, a);
  return t;
}

bool integer_to_integer(Builder& b, const Instruction& i, Type to, Type from) {
  const u32 to_bytes = ptx::size_of(to), from_bytes = ptx::size_of(from);
  const u32 dw = b.width_of(i.operand(0), to_bytes < 2 ? 2 : to_bytes);
  Handler fn = nullptr;
  if (i.has("sat")) {
    u32 bytes = 0;
    Type wide{};
    const Vreg a = widened(b, i.operand(1), from, bytes, wide);
    with_any_integer(to, [&](auto d) {
      using D = typename decltype(d)::type;
      with_bytes(dw, [&](auto r) {
        using R = typename decltype(r)::type;
        if constexpr (sizeof(R) >= sizeof(D)) {
          fn = wide == Type::s64   ? &saturate<D, R, s64>
               : wide == Type::u64 ? &saturate<D, R, u64>
               : wide == Type::s32 ? &saturate<D, R, s32>
                                   : &saturate<D, R, u32>;
        }
      });
    });
    if (fn == nullptr) return b.fail("cvt.sat form");
    b.emit(fn).def(0, b.out(i.operand(0), dw)).use(1, a);
    return true;
  }
  // The narrower of the two types decides what is kept and how it is extended.
  const Type e = to_bytes < from_bytes ? to : from;
  const u32 sw = b.width_of(i.operand(1), from_bytes < 2 ? 2 : from_bytes);
  with_any_integer(e, [&](auto et) {
    using E = typename decltype(et)::type;
    with_bytes(sw, [&](auto st) {
      using S = typename decltype(st)::type;
      with_bytes(dw, [&](auto dt) {
        using D = typename decltype(dt)::type;
        if constexpr (sizeof(E) <= sizeof(S)) fn = &extend<D, S, E>;
      });
    });
  });
  if (fn == nullptr) return b.fail("cvt form");
  const Vreg a = b.in(i.operand(1), sw);
  b.emit(fn).def(0, b.out(i.operand(0), dw)).use(1, a);
  return true;
}

}  // namespace

bool decode_convert(Builder& b, const Instruction& i) {
  if (i.name() != "cvt") return false;
  Type to = i.source_type(), from = i.type();
  const bool ftz = i.has("ftz");
  const Round round = round_of(i);
  const bool integral = i.has("rni") || i.has("rzi") || i.has("rmi") || i.has("rpi");
  const auto flags =
      static_cast<u16>((integral ? 1 : 0) | (i.has("sat") ? 2 : 0) | (ftz ? 4 : 0) | (i.has("relu") ? 8 : 0));
  if ((to == Type::f16x2 || to == Type::bf16x2) && from == Type::f32 && i.operands() == 3) {
    Vreg h[2];
    for (unsigned k = 0; k < 2; ++k) {
      const Vreg a = b.in(i.operand(k + 1), 4, true);
      h[k] = b.temp(2);
      const Handler fn = to == Type::bf16x2        ? &float_to_bfloat
                         : round == Round::nearest ? &float_to_half
                                                   : &any_to_half<float>;
      b.emit(fn).def(0, h[k]).use(1, a).imm(static_cast<u64>(round)).aux(flags);
    }
    b.emit(&pack_halves).def(0, b.out(i.operand(0), 4)).use(1, h[0]).use(2, h[1]);
    return true;
  }
  if (i.operands() != 2 || to == Type::none || from == Type::none) return b.fail("cvt form");
  const bool to_float = is_float(to), from_float = is_float(from);
  if (!to_float && !from_float) return integer_to_integer(b, i, to, from);
  const u32 csr = csr_for(round, ftz);

  if (!from_float) {
    u32 bytes = 0;
    Type wide{};
    const Vreg a = widened(b, i.operand(1), from, bytes, wide);
    Handler fn = nullptr;
    with_integer(wide, [&](auto s) {
      using S = typename decltype(s)::type;
      fn = to == Type::f32   ? &number<float, S>
           : to == Type::f64 ? &number<double, S>
           : to == Type::f16 ? &any_to_half<S>
                             : nullptr;
    });
    if (fn == nullptr) return b.fail("cvt to this type");
    const u32 n = ptx::size_of(to);
    b.emit(fn)
        .def(0, b.out(i.operand(0), n))
        .use(1, a)
        .csr(csr_for(round, false))
        .imm(static_cast<u64>(round))
        .aux(flags);
    return true;
  }

  // Floating-point source: halves become f32 first.
  Vreg a = b.in(i.operand(1), ptx::size_of(from), true);
  const bool was_half = from == Type::f16 || from == Type::bf16;
  if (was_half) {
    if (to == Type::f16 && from == Type::f16 && !integral && (flags & 2) == 0) {
      const Vreg d = b.out(i.operand(0), 2);
      b.emit(&extend<u16, u16, u16>).def(0, d).use(1, a);
      return true;
    }
    const bool last = to == Type::f32 && !integral;
    const Vreg t = last ? b.out(i.operand(0), 4) : b.temp(4);
    b.emit(from == Type::f16 ? &half_to_float : &bfloat_to_float)
        .def(0, t)
        .use(1, a)
        .aux(last ? flags : u16{0});
    if (last) return true;
    a = t;
    from = Type::f32;
  }
  if (!to_float) {
    const u32 dw = b.width_of(i.operand(0), ptx::size_of(to) < 2 ? 2 : ptx::size_of(to));
    Handler fn = nullptr;
    with_any_integer(to, [&](auto d) {
      using D = typename decltype(d)::type;
      with_bytes(dw, [&](auto r) {
        using R = typename decltype(r)::type;
        if constexpr (sizeof(R) >= sizeof(D))
          fn = from == Type::f64 ? &to_integer<D, R, double> : &to_integer<D, R, float>;
      });
    });
    if (fn == nullptr) return b.fail("cvt to this type");
    b.emit(fn).def(0, b.out(i.operand(0), dw)).use(1, a).csr(csr);
    return true;
  }
  if (to == Type::f16 || to == Type::bf16) {
    Round final_round = round;
    if (integral) {
      const Vreg t = b.temp(4);
      if (from != Type::f32) return b.fail("cvt form");
      b.emit(&same<float>).def(0, t).use(1, a).aux(1).csr(csr_for(round, false));
      a = t;
      final_round = Round::nearest;
    }
    Handler fn = &any_to_half<double>;
    if (to == Type::bf16) {
      if (from != Type::f32) return b.fail("cvt to bf16 from f64");
      fn = &float_to_bfloat;
    } else if (from == Type::f32) {
      fn = final_round == Round::nearest ? &float_to_half : &any_to_half<float>;
    }
    b.emit(fn).def(0, b.out(i.operand(0), 2)).use(1, a).imm(static_cast<u64>(final_round)).aux(flags & 10);
    return true;
  }
  const u32 n = ptx::size_of(to);
  Handler fn = nullptr;
  if (to == from) {
    fn = n == 4 ? &same<float> : &same<double>;
  } else {
    fn = to == Type::f64 ? &resize<double, float> : &resize<float, double>;
  }
  b.emit(fn).def(0, b.out(i.operand(0), n)).use(1, a).csr(csr).aux(flags);
  return true;
}

}  // namespace softgpu::exec::SOFTGPU_ISA
