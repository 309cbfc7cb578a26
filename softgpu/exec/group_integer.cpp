// Integer arithmetic: add, sub, mul, mad, mul24, mad24, div, rem, abs, neg, min, max, sad, carry chains,
// dp4a, dp2a.
#include <type_traits>

#include "softgpu/exec/types.hpp"

namespace softgpu::exec::SOFTGPU_ISA {

namespace {

template <class T>
struct MakeUnsigned {
  using type = std::make_unsigned_t<T>;
};
template <>
struct MakeUnsigned<s128> {
  using type = u128;
};
template <>
struct MakeUnsigned<u128> {
  using type = u128;
};
template <class T>
using Unsigned = typename MakeUnsigned<T>::type;
// Narrow types are promoted to int, whose overflow is undefined; everything wraps in at least u32.
template <class T>
using Wrap = typename MakeUnsigned<std::conditional_t<(sizeof(T) < 4), u32, T>>::type;
template <class T>
using Twice =
    std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, s32, u32>,
                       std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, s64, u64>,
                                          std::conditional_t<std::is_signed_v<T>, s128, u128>>>;

struct Add {
  template <class T>
  static T f(T a, T b) {
    return static_cast<T>(static_cast<Wrap<T>>(a) + static_cast<Wrap<T>>(b));
  }
};
struct Sub {
  template <class T>
  static T f(T a, T b) {
    return static_cast<T>(static_cast<Wrap<T>>(a) - static_cast<Wrap<T>>(b));
  }
};
struct AddSat {
  static s32 f(s32 a, s32 b) {
    const s64 r = s64{a} + b;
    return static_cast<s32>(r > INT32_MAX ? INT32_MAX : r < INT32_MIN ? INT32_MIN : r);
  }
};
struct SubSat {
  static s32 f(s32 a, s32 b) {
    const s64 r = s64{a} - b;
    return static_cast<s32>(r > INT32_MAX ? INT32_MAX : r < INT32_MIN ? INT32_MIN : r);
  }
};
struct Mul {
  template <class T>
  static T f(T a, T b) {
    return static_cast<T>(static_cast<Wrap<T>>(a) * static_cast<Wrap<T>>(b));
  }
};
struct MulHi {
  template <class T>
  static T f(T a, T b) {
    return static_cast<T>((static_cast<Twice<T>>(a) * static_cast<Twice<T>>(b)) >> (8 * sizeof(T)));
  }
};
struct MulWide {
  template <class T>
  static Twice<T> f(T a, T b) {
    return static_cast<Twice<T>>(a) * static_cast<Twice<T>>(b);
  }
};
struct Mad {
  template <class T>
  static T f(T a, T b, T c) {
    return Add::f(Mul::f(a, b), c);
  }
};
struct MadHi {
  template <class T>
  static T f(T a, T b, T c) {
    return Add::f(MulHi::f(a, b), c);
  }
};
struct MadHiSat {
  static s32 f(s32 a, s32 b, s32 c) { return AddSat::f(MulHi::f(a, b), c); }
};
struct MadWide {
  template <class T>
  static Twice<T> f(T a, T b, Twice<T> c) {
    return Add::f(MulWide::f(a, b), c);
  }
};
template <class T>
s64 low24(T a) {
  if constexpr (std::is_signed_v<T>) return static_cast<s32>(static_cast<u32>(a) << 8) >> 8;
  return a & 0xffffff;
}
struct Mul24Lo {
  template <class T>
  static T f(T a, T b) {
    return static_cast<T>(low24(a) * low24(b));
  }
};
struct Mul24Hi {
  template <class T>
  static T f(T a, T b) {
    return static_cast<T>((low24(a) * low24(b)) >> 16);
  }
};
struct Mad24Lo {
  template <class T>
  static T f(T a, T b, T c) {
    return Add::f(Mul24Lo::f(a, b), c);
  }
};
struct Mad24Hi {
  template <class T>
  static T f(T a, T b, T c) {
    return Add::f(Mul24Hi::f(a, b), c);
  }
};
struct Mad24HiSat {
  static s32 f(s32 a, s32 b, s32 c) {
    const s64 sum = s64{Mul24Hi::f(a, b)} + c;
    return sum > INT32_MAX ? INT32_MAX : sum < INT32_MIN ? INT32_MIN : static_cast<s32>(sum);
  }
};
struct Min {
  template <class T>
  static T f(T a, T b) {
    return a < b ? a : b;
  }
};
struct Max {
  template <class T>
  static T f(T a, T b) {
    return a < b ? b : a;
  }
};
struct Abs {
  template <class T>
  static T f(T a) {
    return a < 0 ? Sub::f(T{0}, a) : a;
  }
};
struct Neg {
  template <class T>
  static T f(T a) {
    return Sub::f(T{0}, a);
  }
};
struct Sad {
  template <class T>
  static T f(T a, T b, T c) {
    return Add::f(c, a < b ? Sub::f(b, a) : Sub::f(a, b));
  }
};

// Division by zero gives all ones and leaves the dividend as the remainder, as the hardware does.
struct Div {
  template <class T>
  static T f(T a, T b) {
    if constexpr (sizeof(T) <= 4) {
      // Exact: a 32-bit quotient differs from the next integer by more than a double's rounding.
      const T d = b == 0 ? T{1} : b;
      const double q = static_cast<double>(a) / static_cast<double>(d);
      return b == 0 ? static_cast<T>(-1) : static_cast<T>(static_cast<s64>(q));
    } else {
      if (b == 0) return static_cast<T>(-1);
      if constexpr (std::is_signed_v<T>)
        if (b == -1) return Sub::f(T{0}, a);
      return static_cast<T>(a / b);
    }
  }
};
struct Rem {
  template <class T>
  static T f(T a, T b) {
    if (b == 0) return a;
    if constexpr (sizeof(T) <= 4) return Sub::f(a, Mul::f(Div::f(a, b), b));
    if constexpr (std::is_signed_v<T>)
      if (b == -1) return 0;
    return static_cast<T>(a % b);
  }
};

// CC is a predicate register in r4: add.cc sets it, addc reads it. Sub's borrow is stored as carry-out of a +
// ~b + 1.
template <class T, bool Minus, bool Reads, bool Writes>
const Op* carry(Context& c, const Op* op) {
  T* d = reg<T>(c, op->r[0]);
  const T* a = reg<T>(c, op->r[1]);
  const T* b = reg<T>(c, op->r[2]);
  const u32 cc = Reads ? *reg<u32>(c, op->r[4]) : Minus ? all_lanes : 0;
  u32 out = 0;
  alignas(64) T t[lanes];
  for (unsigned i = 0; i < lanes; ++i) {
    const T x = a[i], y = Minus ? static_cast<T>(~b[i]) : b[i];
    const T s = static_cast<T>(x + y);
    const T r = static_cast<T>(s + static_cast<T>(cc >> i & 1));
    out |= static_cast<u32>(s < x || r < s) << i;
    t[i] = r;
  }
  merge(c.mask, d, t);
  if constexpr (Writes) set_predicate(c, op->r[5], out);
  return op + 1;
}

template <class T, bool High, bool Reads, bool Writes>
const Op* mad_carry(Context& c, const Op* op) {
  using W = Unsigned<Twice<T>>;
  using U = Unsigned<T>;
  const T* a = reg<T>(c, op->r[1]);
  const T* b = reg<T>(c, op->r[2]);
  const U* e = reg<U>(c, op->r[3]);
  const u32 cc = Reads ? *reg<u32>(c, op->r[4]) : 0;
  u32 out = 0;
  alignas(64) U t[lanes];
  for (unsigned i = 0; i < lanes; ++i) {
    const W p = static_cast<W>(static_cast<Twice<T>>(a[i]) * static_cast<Twice<T>>(b[i]));
    const U x = static_cast<U>(High ? p >> (8 * sizeof(T)) : p);
    const U s = static_cast<U>(x + e[i]);
    const U r = static_cast<U>(s + static_cast<U>(cc >> i & 1));
    out |= static_cast<u32>(s < x || r < s) << i;
    t[i] = r;
  }
  merge(c.mask, reg<U>(c, op->r[0]), t);
  if constexpr (Writes) set_predicate(c, op->r[5], out);
  return op + 1;
}

template <bool SignedA, bool SignedB>
struct Dp4a {
  static u32 f(u32 a, u32 b, u32 c) {
    u32 r = c;
    for (int k = 0; k < 4; ++k) {
      const s32 x =
          SignedA ? static_cast<s32>(a << (24 - 8 * k)) >> 24 : static_cast<s32>(a >> (8 * k) & 0xff);
      const s32 y =
          SignedB ? static_cast<s32>(b << (24 - 8 * k)) >> 24 : static_cast<s32>(b >> (8 * k) & 0xff);
      r += static_cast<u32>(x * y);
    }
    return r;
  }
};
template <bool SignedA, bool SignedB, bool High>
struct Dp2a {
  static u32 f(u32 a, u32 b, u32 c) {
    u32 r = c;
    for (int k = 0; k < 2; ++k) {
      const int byte = k + (High ? 2 : 0);
      const s32 x =
          SignedA ? static_cast<s32>(a << (16 - 16 * k)) >> 16 : static_cast<s32>(a >> (16 * k) & 0xffff);
      const s32 y =
          SignedB ? static_cast<s32>(b << (24 - 8 * byte)) >> 24 : static_cast<s32>(b >> (8 * byte) & 0xff);
      r += static_cast<u32>(x * y);
    }
    return r;
  }
};

bool decode_carry(Builder& b, const Instruction& i) {
  const std::string_view name = i.name();
  const bool writes = i.has("cc"), reads = name.ends_with('c');
  const bool mad = name.starts_with("mad"), high = i.has("hi"), minus = name.starts_with("sub");
  Handler fn = nullptr;
  u32 bytes = 0;
  with_integer(i.type(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    using U = Unsigned<T>;
    if constexpr (sizeof(T) >= 4) {
      bytes = sizeof(T);
      auto pick = [&](auto w, auto r) {
        constexpr bool W = decltype(w)::value, R = decltype(r)::value;
        if (mad) {
          fn = high ? &mad_carry<T, true, R, W> : &mad_carry<T, false, R, W>;
        } else {
          fn = minus ? &carry<U, true, R, W> : &carry<U, false, R, W>;
        }
      };
      if (writes && reads) pick(std::true_type{}, std::true_type{});
      if (writes && !reads) pick(std::true_type{}, std::false_type{});
      if (!writes && reads) pick(std::false_type{}, std::true_type{});
    }
  });
  if (fn == nullptr) return b.fail("carry form");
  Draft& d = emit_simple(b, i, fn, bytes);
  if (reads) d.use(4, b.carry());
  if (writes) {
    d.def(5, b.carry());
    d.partial = true;
  }
  return true;
}

}  // namespace

bool decode_integer(Builder& b, const Instruction& i) {
  const std::string_view name = i.name();
  const ptx::Type type = i.type();
  if (name == "dp4a" || name == "dp2a") {
    const ptx::Type at = i.source_type(), bt = type;
    const bool sa = at == ptx::Type::s32, sb = bt == ptx::Type::s32, hi = i.has("hi");
    Handler fn = nullptr;
    auto pick = [&](auto a, auto bb) {
      constexpr bool A = decltype(a)::value, B = decltype(bb)::value;
      fn = name == "dp4a" ? &ternary<Dp4a<A, B>, u32, u32, u32, u32>
           : hi           ? &ternary<Dp2a<A, B, true>, u32, u32, u32, u32>
                          : &ternary<Dp2a<A, B, false>, u32, u32, u32, u32>;
    };
    if (sa && sb) pick(std::true_type{}, std::true_type{});
    if (sa && !sb) pick(std::true_type{}, std::false_type{});
    if (!sa && sb) pick(std::false_type{}, std::true_type{});
    if (!sa && !sb) pick(std::false_type{}, std::false_type{});
    emit_simple(b, i, fn, 4);
    return true;
  }
  if (name == "addc" || name == "subc" || name == "madc" ||
      (i.has("cc") && (name == "add" || name == "sub" || name == "mad")))
    return decode_carry(b, i);

  Handler fn = nullptr;
  u32 bytes = 0, wide = 0;
  const bool known = with_integer(type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    bytes = sizeof(T);
    if (i.has("sat")) {
      if constexpr (std::is_same_v<T, s32>) {
        if (name == "add") fn = &binary<AddSat, T, T, T>;
        if (name == "sub") fn = &binary<SubSat, T, T, T>;
        if (name == "mad" && i.has("hi")) fn = &ternary<MadHiSat, T, T, T, T>;
      }
      return;
    }
    if (name == "add") fn = &binary<Add, T, T, T>;
    if (name == "sub") fn = &binary<Sub, T, T, T>;
    if (name == "min") fn = &binary<Min, T, T, T>;
    if (name == "max") fn = &binary<Max, T, T, T>;
    if (name == "neg") fn = &unary<Neg, T, T>;
    if (name == "abs") fn = &unary<Abs, T, T>;
    if (name == "div") fn = &binary<Div, T, T, T>;
    if (name == "rem") fn = &binary<Rem, T, T, T>;
    if (name == "sad") fn = &ternary<Sad, T, T, T, T>;
    if (name == "mul" || name == "mad") {
      const bool mul = name == "mul";
      if (i.has("lo")) fn = mul ? &binary<Mul, T, T, T> : &ternary<Mad, T, T, T, T>;
      if (i.has("hi")) fn = mul ? &binary<MulHi, T, T, T> : &ternary<MadHi, T, T, T, T>;
      if constexpr (sizeof(T) < 8) {
        if (i.has("wide")) {
          wide = 2 * sizeof(T);
          fn = mul ? &binary<MulWide, Twice<T>, T, T> : &ternary<MadWide, Twice<T>, T, T, Twice<T>>;
        }
      }
    }
    if constexpr (sizeof(T) == 4) {
      if (name == "mul24") fn = i.has("hi") ? &binary<Mul24Hi, T, T, T> : &binary<Mul24Lo, T, T, T>;
      if (name == "mad24") fn = i.has("hi") ? &ternary<Mad24Hi, T, T, T, T> : &ternary<Mad24Lo, T, T, T, T>;
    }
  });
  if (name == "mad24" && i.has("sat"))
    fn = i.has("hi") && type == ptx::Type::s32 ? &ternary<Mad24HiSat, s32, s32, s32, s32> : nullptr;
  if (!known || fn == nullptr) return false;
  if (wide != 0) {
    const Vreg x = b.in(i.operand(1), bytes), y = b.in(i.operand(2), bytes);
    const Vreg z = i.operands() > 3 ? b.in(i.operand(3), wide) : 0;
    Draft& d = b.emit(fn).def(0, b.out(i.operand(0), wide)).use(1, x).use(2, y);
    if (i.operands() > 3) d.use(3, z);
    return true;
  }
  emit_simple(b, i, fn, bytes);
  return true;
}

}  // namespace softgpu::exec::SOFTGPU_ISA
