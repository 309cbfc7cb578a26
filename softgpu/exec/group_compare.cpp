// setp, set, selp, slct.
#include "softgpu/exec/floats.hpp"

namespace softgpu::exec::SOFTGPU_ISA {

namespace {

enum class Cmp : u16 { eq, ne, lt, le, gt, ge, equ, neu, ltu, leu, gtu, geu, num, nan };

template <Cmp C, class T>
inline bool compare(T a, T b) {
  switch (C) {
    case Cmp::eq:
      return a == b;
    case Cmp::ne:
      return a < b || a > b;
    case Cmp::lt:
      return a < b;
    case Cmp::le:
      return a <= b;
    case Cmp::gt:
      return a > b;
    case Cmp::ge:
      return a >= b;
    case Cmp::equ:
      return !(a < b || a > b);
    case Cmp::neu:
      return a != b;
    case Cmp::ltu:
      return !(a >= b);
    case Cmp::leu:
      return !(a > b);
    case Cmp::gtu:
      return !(a <= b);
    case Cmp::geu:
      return !(a < b);
    case Cmp::num:
      return a == a && b == b;
    case Cmp::nan:
      return a != a || b != b;
  }
  return false;
}

template <class T>
using Compare = u32 (*)(const T*, const T*);

template <Cmp C, class T>
u32 compare_lanes(const T* a, const T* b) {
  return bits_of([=](unsigned i) { return compare<C, T>(a[i], b[i]); });
}

template <class T>
constexpr Compare<T> comparisons[] = {
    &compare_lanes<Cmp::eq, T>,  &compare_lanes<Cmp::ne, T>,  &compare_lanes<Cmp::lt, T>,
    &compare_lanes<Cmp::le, T>,  &compare_lanes<Cmp::gt, T>,  &compare_lanes<Cmp::ge, T>,
    &compare_lanes<Cmp::equ, T>, &compare_lanes<Cmp::neu, T>, &compare_lanes<Cmp::ltu, T>,
    &compare_lanes<Cmp::leu, T>, &compare_lanes<Cmp::gtu, T>, &compare_lanes<Cmp::geu, T>,
    &compare_lanes<Cmp::num, T>, &compare_lanes<Cmp::nan, T>};

// The common form: one predicate, nothing combined.
template <Cmp C, class T>
const Op* setp_plain(Context& c, const Op* op) {
  use_csr(c, op->csr == 0 ? c.csr : op->csr);
  set_predicate(c, op->r[0], compare_lanes<C, T>(reg<T>(c, op->r[1]), reg<T>(c, op->r[2])));
  return op + 1;
}
template <class T>
constexpr Handler plain[] = {&setp_plain<Cmp::eq, T>,  &setp_plain<Cmp::ne, T>,  &setp_plain<Cmp::lt, T>,
                             &setp_plain<Cmp::le, T>,  &setp_plain<Cmp::gt, T>,  &setp_plain<Cmp::ge, T>,
                             &setp_plain<Cmp::equ, T>, &setp_plain<Cmp::neu, T>, &setp_plain<Cmp::ltu, T>,
                             &setp_plain<Cmp::leu, T>, &setp_plain<Cmp::gtu, T>, &setp_plain<Cmp::geu, T>,
                             &setp_plain<Cmp::num, T>, &setp_plain<Cmp::nan, T>};

void load_halves(const u16* h, float* f, bool brain, bool ftz) {
  if (brain) {
    SOFTGPU_LANES f[i] = std::bit_cast<float>(static_cast<u32>(h[i]) << 16);
  } else {
    halves_to_floats(h, f);
    if (ftz) SOFTGPU_LANES f[i] = __builtin_fabsf(f[i]) < 0x1p-14F ? 0.0F : f[i];
  }
}

u32 compare_halves(u16 kind, const u16* a, const u16* b, bool brain, bool ftz) {
  alignas(64) float x[lanes], y[lanes];
  load_halves(a, x, brain, ftz);
  load_halves(b, y, brain, ftz);
  return comparisons<float>[kind](x, y);
}

// aux: comparison in the low byte; bit 8: bfloat16; bit 9: ftz.
const Op* setp_half(Context& c, const Op* op) {
  use_csr(c, csr_rn);
  set_predicate(c, op->r[0],
                compare_halves(op->aux & 0xff, reg<u16>(c, op->r[1]), reg<u16>(c, op->r[2]),
                               (op->aux & 256) != 0, (op->aux & 512) != 0));
  return op + 1;
}
void split(const u32* v, u16* low, u16* high) {
  SOFTGPU_LANES low[i] = static_cast<u16>(v[i]);
  SOFTGPU_LANES high[i] = static_cast<u16>(v[i] >> 16);
}
const Op* setp_half2(Context& c, const Op* op) {
  use_csr(c, csr_rn);
  alignas(64) u16 a[2][lanes], b[2][lanes];
  split(reg<u32>(c, op->r[1]), a[0], a[1]);
  split(reg<u32>(c, op->r[2]), b[0], b[1]);
  for (int k = 0; k < 2; ++k)
    set_predicate(c, op->r[k == 0 ? 0 : 3],
                  compare_halves(op->aux & 0xff, a[k], b[k], (op->aux & 256) != 0, (op->aux & 512) != 0));
  return op + 1;
}

// p = r1 BOOL r2, q = !r1 BOOL r2; imm: 0 copy, 1 and, 2 or, 3 xor.
const Op* combine(Context& c, const Op* op) {
  const u32 t = *reg<u32>(c, op->r[2]), x = *reg<u32>(c, op->r[3]);
  auto apply = [&](u32 v) { return op->imm == 1 ? v & x : op->imm == 2 ? v | x : op->imm == 3 ? v ^ x : v; };
  set_predicate(c, op->r[0], apply(t));
  set_predicate(c, op->r[1], apply(~t));
  return op + 1;
}

template <class T>
const Op* select(Context& c, const Op* op) {
  const T* a = reg<T>(c, op->r[1]);
  const T* b = reg<T>(c, op->r[2]);
  const u32 p = *reg<u32>(c, op->r[3]);
  each(c, reg<T>(c, op->r[0]), [=](unsigned i) -> T { return (p & lane_bit[i]) != 0 ? a[i] : b[i]; });
  return op + 1;
}
template <class T, class C>
const Op* slct(Context& c, const Op* op) {
  use_csr(c, op->csr == 0 ? c.csr : op->csr);
  const T* a = reg<T>(c, op->r[1]);
  const T* b = reg<T>(c, op->r[2]);
  const C* s = reg<C>(c, op->r[3]);
  each(c, reg<T>(c, op->r[0]), [=](unsigned i) -> T { return s[i] >= C{0} ? a[i] : b[i]; });
  return op + 1;
}

struct Parsed {
  Cmp cmp;
  bool is_unsigned = false;
};
bool parse_cmp(std::string_view s, Parsed& out) {
  static constexpr std::string_view names[] = {"eq",  "ne",  "lt",  "le",  "gt",  "ge",  "equ",
                                               "neu", "ltu", "leu", "gtu", "geu", "num", "nan"};
  for (unsigned k = 0; k < 14; ++k)
    if (s == names[k]) return out.cmp = static_cast<Cmp>(k), true;
  out.is_unsigned = true;
  if (s == "lo") return out.cmp = Cmp::lt, true;
  if (s == "ls") return out.cmp = Cmp::le, true;
  if (s == "hi") return out.cmp = Cmp::gt, true;
  if (s == "hs") return out.cmp = Cmp::ge, true;
  return false;
}

// Emits the comparison of operands a and b of `type` into predicate p (and q for the high halves of pairs).
bool emit_compare(Builder& b, const Instruction& i, const Parsed& cmp, ptx::Type type, const ptx::Operand& ao,
                  const ptx::Operand& bo, Vreg p, Vreg q) {
  using ptx::Type;
  const auto k = static_cast<unsigned>(cmp.cmp);
  const bool half = type == Type::f16 || type == Type::bf16,
             pair = type == Type::f16x2 || type == Type::bf16x2;
  const bool brain = type == Type::bf16 || type == Type::bf16x2;
  if (half || pair) {
    const u32 n = pair ? 4 : 2;
    const Vreg x = b.in(ao, n), y = b.in(bo, n);
    Draft& d = b.emit(pair ? &setp_half2 : &setp_half).def(0, p).use(1, x).use(2, y);
    d.aux(static_cast<u16>(k | (brain ? 256U : 0U) | (i.has("ftz") ? 512U : 0U)));
    if (pair) d.def(3, q);
    return true;
  }
  if (type == Type::f32 || type == Type::f64) {
    const u32 n = type == Type::f32 ? 4 : 8;
    const Vreg x = b.in(ao, n, true), y = b.in(bo, n, true);
    b.emit(n == 4 ? plain<float>[k] : plain<double>[k])
        .def(0, p)
        .use(1, x)
        .use(2, y)
        .csr(csr_rn | (i.has("ftz") ? csr_ftz : 0U));
    return true;
  }
  if (k > 5) return b.fail("comparison does not fit the type");
  const bool known = with_integer(type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using U = std::make_unsigned_t<T>;
    const Vreg x = b.in(ao, sizeof(T)), y = b.in(bo, sizeof(T));
    b.emit(cmp.is_unsigned ? plain<U>[k] : plain<T>[k]).def(0, p).use(1, x).use(2, y);
  });
  return known ? true : b.fail("comparison of this type");
}

// set: all ones or 1.0 where the comparison holds.
template <class T>
const Op* set_value(Context& c, const Op* op) {
  const u32 p = *reg<u32>(c, op->r[1]);
  const T one = static_cast<T>(op->imm);
  each(c, reg<T>(c, op->r[0]), [=](unsigned i) -> T { return (p & lane_bit[i]) != 0 ? one : T{0}; });
  return op + 1;
}
const Op* set_pair(Context& c, const Op* op) {
  const u32 p = *reg<u32>(c, op->r[1]), q = *reg<u32>(c, op->r[2]);
  const u32 one = static_cast<u32>(op->imm);
  each(c, reg<u32>(c, op->r[0]), [=](unsigned i) -> u32 {
    return ((p & lane_bit[i]) != 0 ? one : 0) | ((q & lane_bit[i]) != 0 ? one << 16 : 0);
  });
  return op + 1;
}

}  // namespace

bool decode_compare(Builder& b, const Instruction& i) {
  using ptx::Type;
  const std::string_view name = i.name();
  const Type type = i.type();
  if (name == "setp" || name == "set") {
    Parsed cmp{};
    if (!parse_cmp(i.part(1), cmp)) return b.fail("unknown comparison");
    const u64 boolean = i.part(2) == "and" ? 1 : i.part(2) == "or" ? 2 : i.part(2) == "xor" ? 3 : 0;
    if (i.operands() < 3 || (boolean != 0) != (i.operands() == 4)) return b.fail("operands of a comparison");
    const bool pair = type == Type::f16x2 || type == Type::bf16x2;
    if (name == "set") {
      const Type to = i.source_type();
      const Vreg p = b.temp(0), q = b.temp(0);
      emit_compare(b, i, cmp, type, i.operand(1), i.operand(2), p, q);
      if (b.failed()) return true;
      if (boolean != 0) {
        const Vreg x = b.in(i.operand(3), 0), unused = b.temp(0), unused2 = b.temp(0);
        b.emit(&combine).def(0, p).def(1, unused).use(2, p).use(3, x).imm(boolean);
        if (pair) b.emit(&combine).def(0, q).def(1, unused2).use(2, q).use(3, x).imm(boolean);
      }
      if (pair) {
        const u64 one = to == Type::f16x2 ? 0x3c00 : to == Type::bf16x2 ? 0x3f80 : 0xffff;
        b.emit(&set_pair).def(0, b.out(i.operand(0), 4)).use(1, p).use(2, q).imm(one);
        return true;
      }
      const u32 n = Builder::register_bytes(to);
      const u64 one = to == Type::f32    ? 0x3f800000
                      : to == Type::f16  ? 0x3c00
                      : to == Type::bf16 ? 0x3f80
                                         : 0xffffffffU;
      if (n != 2 && n != 4) return b.fail("set's destination type");
      b.emit(n == 2 ? &set_value<u16> : &set_value<u32>).def(0, b.out(i.operand(0), n)).use(1, p).imm(one);
      return true;
    }
    const auto* two = std::get_if<ptx::PairOperand>(&i.operand(0).value);
    auto named = [&](const ptx::NameOperand& n) { return b.out(ptx::Operand{n}, 0); };
    if (two == nullptr && boolean == 0 && !pair) {
      emit_compare(b, i, cmp, type, i.operand(1), i.operand(2), b.out(i.operand(0), 0), 0);
      return true;
    }
    const Vreg p = two != nullptr ? named(two->first) : b.out(i.operand(0), 0),
               q = two != nullptr ? named(two->second) : b.temp(0);
    const Vreg t = b.temp(0), u = b.temp(0);
    const Vreg x = boolean != 0 ? b.in(i.operand(3), 0) : t;
    emit_compare(b, i, cmp, type, i.operand(1), i.operand(2), t, u);
    if (b.failed()) return true;
    if (pair) {
      const Vreg unused = b.temp(0), unused2 = b.temp(0);
      const Vreg x2 = boolean != 0 ? x : u;
      if (boolean != 0 && x == p) {  // p is overwritten before q is computed
        const Vreg keep = b.temp(0), drop = b.temp(0);
        b.emit(&combine).def(0, keep).def(1, drop).use(2, x).use(3, x).imm(0);
        b.emit(&combine).def(0, p).def(1, unused).use(2, t).use(3, keep).imm(boolean);
        b.emit(&combine).def(0, q).def(1, unused2).use(2, u).use(3, keep).imm(boolean);
        return true;
      }
      b.emit(&combine).def(0, p).def(1, unused).use(2, t).use(3, x).imm(boolean);
      b.emit(&combine).def(0, q).def(1, unused2).use(2, u).use(3, x2).imm(boolean);
      return true;
    }
    b.emit(&combine).def(0, p).def(1, q).use(2, t).use(3, x).imm(boolean);
    return true;
  }
  if (name == "selp") {
    const u32 n = Builder::register_bytes(type);
    const bool is_float = type == Type::f32 || type == Type::f64;
    const Vreg x = b.in(i.operand(1), n, is_float), y = b.in(i.operand(2), n, is_float),
               p = b.in(i.operand(3), 0);
    if (n == 0) return b.fail("selp of predicates");
    b.emit(n == 2   ? &select<u16>
           : n == 4 ? &select<u32>
                    : &select<u64>)
        .def(0, b.out(i.operand(0), n))
        .use(1, x)
        .use(2, y)
        .use(3, p);
    return true;
  }
  if (name == "slct") {
    const Type to = i.source_type();
    const u32 n = Builder::register_bytes(to);
    const bool is_float = to == Type::f32 || to == Type::f64;
    const Vreg x = b.in(i.operand(1), n, is_float), y = b.in(i.operand(2), n, is_float),
               s = b.in(i.operand(3), 4, type == Type::f32);
    Handler fn = nullptr;
    with_bytes(n, [&](auto tag) {
      using T = typename decltype(tag)::type;
      fn = type == Type::f32 ? &slct<T, float> : &slct<T, s32>;
    });
    if (fn == nullptr) return b.fail("slct of this type");
    Draft& d = b.emit(fn).def(0, b.out(i.operand(0), n)).use(1, x).use(2, y).use(3, s);
    if (type == Type::f32) d.csr(csr_rn | (i.has("ftz") ? csr_ftz : 0U));
    return true;
  }
  return false;
}

}  // namespace softgpu::exec::SOFTGPU_ISA
