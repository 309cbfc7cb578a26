// Bits: and, or, xor, not, cnot, lop3, shl, shr, shf, prmt, popc, clz, brev, bfind, bfe, bfi, bmsk, szext,
// fns.
#include <algorithm>
#include <type_traits>

#include "softgpu/exec/machine.hpp"
#include "softgpu/exec/types.hpp"

namespace softgpu::exec::SOFTGPU_ISA {

namespace {

struct And {
  template <class T>
  static T f(T a, T b) {
    return static_cast<T>(a & b);
  }
};
struct Or {
  template <class T>
  static T f(T a, T b) {
    return static_cast<T>(a | b);
  }
};
struct Xor {
  template <class T>
  static T f(T a, T b) {
    return static_cast<T>(a ^ b);
  }
};
struct Not {
  template <class T>
  static T f(T a) {
    return static_cast<T>(~a);
  }
};
struct Cnot {
  template <class T>
  static T f(T a) {
    return a == 0 ? T{1} : T{0};
  }
};

// Predicates: one word holds all lanes.
template <class F>
const Op* predicate2(Context& c, const Op* op) {
  set_predicate(c, op->r[0], F::f(*reg<u32>(c, op->r[1]), *reg<u32>(c, op->r[2])));
  return op + 1;
}

// Shift amounts are unsigned and clamp at the width.
struct Shl {
  template <class T>
  static T f(T a, u32 n) {
    constexpr u32 width = 8 * sizeof(T);
    return n >= width ? T{0} : static_cast<T>(static_cast<std::make_unsigned_t<T>>(a) << (n & (width - 1)));
  }
};
struct Shr {
  template <class T>
  static T f(T a, u32 n) {
    constexpr u32 width = 8 * sizeof(T);
    if constexpr (std::is_signed_v<T>) return static_cast<T>(a >> (n >= width ? width - 1 : n));
    return n >= width ? T{0} : static_cast<T>(a >> (n & (width - 1)));
  }
};

template <bool Left, bool Clamp>
struct Funnel {
  static u32 f(u32 lo, u32 hi, u32 n) {
    n = Clamp ? (n > 32 ? 32 : n) : n & 31;
    const u64 v = u64{hi} << 32 | lo;
    return Left ? static_cast<u32>((v << n) >> 32) : static_cast<u32>(v >> n);
  }
};

const Op* lop3(Context& c, const Op* op) {
  const u32* x = reg<u32>(c, op->r[1]);
  const u32* y = reg<u32>(c, op->r[2]);
  const u32* z = reg<u32>(c, op->r[3]);
  alignas(64) u32 t[lanes] = {};
  for (unsigned k = 0; k < 8; ++k) {
    if ((op->imm >> k & 1) == 0) continue;
    const u32 fx = (k & 4) != 0 ? 0 : all_lanes, fy = (k & 2) != 0 ? 0 : all_lanes,
              fz = (k & 1) != 0 ? 0 : all_lanes;
    SOFTGPU_LANES t[i] |= (x[i] ^ fx) & (y[i] ^ fy) & (z[i] ^ fz);
  }
  merge(c.mask, reg<u32>(c, op->r[0]), t);
  return op + 1;
}

// lop3.or d|p: p = (d != 0) or q; imm 1: and.
const Op* lop3_predicate(Context& c, const Op* op) {
  const u32* d = reg<u32>(c, op->r[1]);
  const u32 q = *reg<u32>(c, op->r[2]);
  const u32 any = bits_of([&](unsigned i) { return d[i] != 0; });
  set_predicate(c, op->r[0], op->imm != 0 ? any & q : any | q);
  return op + 1;
}

bool decode_lop3(Builder& b, const Instruction& i) {
  const bool with_or = i.has("or"), with_predicate = with_or || i.has("and");
  const auto* lut = std::get_if<ptx::IntLiteral>(&i.operand(4).value);
  if (lut == nullptr || i.operands() != (with_predicate ? 6U : 5U)) return b.fail("lop3 operands");
  Vreg v[4] = {};
  for (unsigned k = 1; k < 4; ++k) v[k] = b.in(i.operand(k), 4);
  const auto* pair = std::get_if<ptx::PairOperand>(&i.operand(0).value);
  if (with_predicate != (pair != nullptr)) return b.fail("lop3 destination");
  const Vreg q = with_predicate ? b.in(i.operand(5), 0) : 0;
  const Vreg d = b.out(pair != nullptr ? ptx::Operand{pair->first} : i.operand(0), 4);
  const Vreg p = with_predicate ? b.out(ptx::Operand{pair->second}, 0) : 0;
  b.emit(&lop3).def(0, d).use(1, v[1]).use(2, v[2]).use(3, v[3]).imm(lut->bits & 0xff);
  if (with_predicate) b.emit(&lop3_predicate).def(0, p).use(1, d).use(2, q).imm(with_or ? 0 : 1);
  return true;
}

u32 permute(u32 a, u32 b, u32 s) {
  const u64 v = u64{b} << 32 | a;
  u32 r = 0;
  for (unsigned k = 0; k < 4; ++k) {
    const u32 sel = s >> (4 * k) & 0xf;
    u32 byte = static_cast<u32>(v >> (8 * (sel & 7))) & 0xff;
    if ((sel & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;
    r |= byte << (8 * k);
  }
  return r;
}
struct Prmt {
  static u32 f(u32 a, u32 b, u32 s) { return permute(a, b, s); }
};
// The named modes are tables of plain selectors, indexed by the low two bits.
template <int Mode>
struct PrmtMode {
  static u32 f(u32 a, u32 b, u32 s) {
    constexpr u32 table[6][4] = {{0x3210, 0x4321, 0x5432, 0x6543}, {0x5670, 0x6701, 0x7012, 0x0123},
                                 {0x0000, 0x1111, 0x2222, 0x3333}, {0x3210, 0x3211, 0x3222, 0x3333},
                                 {0x0000, 0x1110, 0x2210, 0x3210}, {0x1010, 0x3232, 0x1010, 0x3232}};
    return permute(a, b, table[Mode][s & 3]);
  }
};

struct Popc {
  template <class T>
  static u32 f(T a) {
    return static_cast<u32>(std::popcount(a));
  }
};
struct Clz {
  template <class T>
  static u32 f(T a) {
    return static_cast<u32>(std::countl_zero(a));
  }
};
struct Brev {
  template <class T>
  static T f(T a) {
    u64 v = a;
    v = (v >> 1 & 0x5555555555555555U) | (v & 0x5555555555555555U) << 1;
    v = (v >> 2 & 0x3333333333333333U) | (v & 0x3333333333333333U) << 2;
    v = (v >> 4 & 0x0f0f0f0f0f0f0f0fU) | (v & 0x0f0f0f0f0f0f0f0fU) << 4;
    v = __builtin_bswap64(v);
    return static_cast<T>(v >> (64 - 8 * sizeof(T)));
  }
};
template <bool Shift>
struct Bfind {
  template <class T>
  static u32 f(T a) {
    using U = std::make_unsigned_t<T>;
    auto u = static_cast<U>(a);
    if constexpr (std::is_signed_v<T>)
      if (a < 0) u = static_cast<U>(~u);
    if (u == 0) return 0xffffffffU;
    const auto high = static_cast<u32>(8 * sizeof(T) - 1) - static_cast<u32>(std::countl_zero(u));
    return Shift ? static_cast<u32>(8 * sizeof(T) - 1) - high : high;
  }
};
struct Bfe {
  template <class T>
  static T f(T a, u32 position, u32 length) {
    constexpr u32 width = 8 * sizeof(T);
    using U = std::make_unsigned_t<T>;
    const u32 pos = position & 0xff, len = length & 0xff;
    if (len == 0) return 0;
    U fill = 0;
    if constexpr (std::is_signed_v<T>) {
      const u32 sign_at = std::min(pos + len - 1, width - 1);
      fill = (static_cast<U>(a) >> sign_at & 1) != 0 ? static_cast<U>(-1) : U{0};
    }
    const U shifted = pos >= width ? fill : static_cast<U>(a >> pos);
    if (len >= width) return static_cast<T>(shifted);
    const U keep = static_cast<U>((U{1} << len) - 1);
    return static_cast<T>((shifted & keep) | (fill & ~keep));
  }
};
template <class T>
const Op* bfi(Context& c, const Op* op) {
  constexpr u32 width = 8 * sizeof(T);
  const T* a = reg<T>(c, op->r[1]);
  const T* b = reg<T>(c, op->r[2]);
  const u32* position = reg<u32>(c, op->r[3]);
  const u32* length = reg<u32>(c, op->r[4]);
  each(c, reg<T>(c, op->r[0]), [=](unsigned i) -> T {
    const u32 pos = position[i] & 0xff, len = length[i] & 0xff;
    const T low = len >= width ? static_cast<T>(~T{0}) : static_cast<T>((T{1} << (len & (width - 1))) - 1);
    const T m = pos >= width ? T{0} : static_cast<T>(low << (pos & (width - 1)));
    const T v = pos >= width ? T{0} : static_cast<T>(a[i] << (pos & (width - 1)));
    return static_cast<T>((b[i] & ~m) | (v & m));
  });
  return op + 1;
}
template <bool Clamp>
struct Bmsk {
  static u32 f(u32 a, u32 b) {
    u32 pos = a, len = b;
    if (!Clamp) pos &= 31, len &= 31;
    if (pos >= 32) return 0;
    const u64 m = len >= 32 ? 0xffffffffU : (u64{1} << len) - 1;
    return static_cast<u32>(m << pos);
  }
};
template <bool Clamp>
struct Szext {
  static s32 f(s32 a, u32 b) {
    const u32 n = Clamp ? b : b & 31;
    if (n >= 32) return a;
    if (n == 0) return 0;
    return static_cast<s32>(static_cast<u32>(a) << (32 - n)) >> (32 - n);
  }
};
template <bool Clamp>
struct SzextU {
  static u32 f(u32 a, u32 b) {
    const u32 n = Clamp ? b : b & 31;
    return n >= 32 ? a : a & ((1U << n) - 1);
  }
};
struct Fns {
  static u32 f(u32 mask, u32 base, s32 offset) {
    base &= 31;
    if (offset == 0) return (mask >> base & 1) != 0 ? base : 0xffffffffU;
    const s32 step = offset > 0 ? 1 : -1;
    s32 left = offset > 0 ? offset : -offset;
    for (s32 at = static_cast<s32>(base); at >= 0 && at < 32; at += step)
      if ((mask >> at & 1) != 0 && --left == 0) return static_cast<u32>(at);
    return 0xffffffffU;
  }
};

}  // namespace

bool decode_bits(Builder& b, const Instruction& i) {
  const std::string_view name = i.name();
  const ptx::Type type = i.type();
  const bool logic = name == "and" || name == "or" || name == "xor" || name == "not";
  if (logic && type == ptx::Type::pred) {
    emit_simple(b, i,
                name == "and"   ? &predicate2<And>
                : name == "or"  ? &predicate2<Or>
                : name == "xor" ? &predicate2<Xor>
                                : op_not_predicate,
                0);
    return true;
  }
  Handler fn = nullptr;
  u32 bytes = 0;
  if (name == "lop3" && type == ptx::Type::b32) return decode_lop3(b, i);
  if (name == "prmt") {
    fn = i.has("f4e")    ? &ternary<PrmtMode<0>, u32, u32, u32, u32>
         : i.has("b4e")  ? &ternary<PrmtMode<1>, u32, u32, u32, u32>
         : i.has("rc8")  ? &ternary<PrmtMode<2>, u32, u32, u32, u32>
         : i.has("ecl")  ? &ternary<PrmtMode<3>, u32, u32, u32, u32>
         : i.has("ecr")  ? &ternary<PrmtMode<4>, u32, u32, u32, u32>
         : i.has("rc16") ? &ternary<PrmtMode<5>, u32, u32, u32, u32>
                         : &ternary<Prmt, u32, u32, u32, u32>;
    emit_simple(b, i, fn, 4);
    return true;
  }
  if (name == "shf") {
    const bool left = i.has("l"), clamp = i.has("clamp");
    fn = left ? (clamp ? &ternary<Funnel<true, true>, u32, u32, u32, u32>
                       : &ternary<Funnel<true, false>, u32, u32, u32, u32>)
              : (clamp ? &ternary<Funnel<false, true>, u32, u32, u32, u32>
                       : &ternary<Funnel<false, false>, u32, u32, u32, u32>);
    emit_simple(b, i, fn, 4);
    return true;
  }
  if (name == "bmsk") {
    emit_simple(b, i,
                i.has("clamp") ? &binary<Bmsk<true>, u32, u32, u32> : &binary<Bmsk<false>, u32, u32, u32>, 4);
    return true;
  }
  if (name == "szext") {
    const bool clamp = i.has("clamp");
    fn = type == ptx::Type::s32
             ? (clamp ? &binary<Szext<true>, s32, s32, u32> : &binary<Szext<false>, s32, s32, u32>)
             : (clamp ? &binary<SzextU<true>, u32, u32, u32> : &binary<SzextU<false>, u32, u32, u32>);
    emit_simple(b, i, fn, 4);
    return true;
  }
  if (name == "fns") {
    emit_simple(b, i, &ternary<Fns, u32, u32, u32, s32>, 4);
    return true;
  }
  if (name == "bfi") {
    const bool wide = type == ptx::Type::b64;
    const u32 n = wide ? 8 : 4;
    const Vreg x = b.in(i.operand(1), n), y = b.in(i.operand(2), n), p = b.in(i.operand(3), 4),
               l = b.in(i.operand(4), 4);
    b.emit(wide ? &bfi<u64> : &bfi<u32>)
        .def(0, b.out(i.operand(0), n))
        .use(1, x)
        .use(2, y)
        .use(3, p)
        .use(4, l);
    return true;
  }
  const bool counted = name == "popc" || name == "clz" || name == "bfind";
  const bool shift = name == "shl" || name == "shr" || name == "bfe";
  const bool known = with_integer(type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using U = std::make_unsigned_t<T>;
    bytes = sizeof(T);
    if (name == "and") fn = &binary<And, U, U, U>;
    if (name == "or") fn = &binary<Or, U, U, U>;
    if (name == "xor") fn = &binary<Xor, U, U, U>;
    if (name == "not") fn = &unary<Not, U, U>;
    if (name == "cnot") fn = &unary<Cnot, U, U>;
    if (name == "shl") fn = &binary<Shl, U, U, u32>;
    if (name == "shr") fn = &binary<Shr, T, T, u32>;
    if constexpr (sizeof(T) >= 4) {
      if (name == "popc") fn = &unary<Popc, u32, U>;
      if (name == "clz") fn = &unary<Clz, u32, U>;
      if (name == "brev") fn = &unary<Brev, U, U>;
      if (name == "bfind")
        fn = i.has("shiftamt") ? &unary<Bfind<true>, u32, T> : &unary<Bfind<false>, u32, T>;
      if (name == "bfe") fn = &ternary<Bfe, T, T, u32, u32>;
    }
  });
  if (!known || fn == nullptr) return false;
  if (counted) {
    const Vreg a = b.in(i.operand(1), bytes);
    b.emit(fn).def(0, b.out(i.operand(0), 4)).use(1, a);
    return true;
  }
  if (shift) {
    const Vreg a = b.in(i.operand(1), bytes), n = b.in(i.operand(2), 4),
               l = name == "bfe" ? b.in(i.operand(3), 4) : n;
    Draft& d = b.emit(fn).def(0, b.out(i.operand(0), bytes)).use(1, a).use(2, n);
    if (name == "bfe") d.use(3, l);
    return true;
  }
  emit_simple(b, i, fn, bytes);
  return true;
}

}  // namespace softgpu::exec::SOFTGPU_ISA
