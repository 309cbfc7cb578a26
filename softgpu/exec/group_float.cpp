// f32 and f64 arithmetic: add, sub, mul, fma, mad, div, rcp, sqrt, rsqrt, sin, cos, lg2, ex2, tanh, abs, neg,
// min, max, copysign, testp. Rounding modes and .ftz live in MXCSR; a NaN result of f32 arithmetic is the
// GPU's 0x7fffffff.
#include "softgpu/exec/floats.hpp"

namespace softgpu::exec::SOFTGPU_ISA {

namespace {

struct Add {
  template <class T>
  static T f(T a, T b) {
    return a + b;
  }
};
struct Sub {
  template <class T>
  static T f(T a, T b) {
    return a - b;
  }
};
struct Mul {
  template <class T>
  static T f(T a, T b) {
    return a * b;
  }
};
struct Div {
  template <class T>
  static T f(T a, T b) {
    return a / b;
  }
};
struct Fma {
  static float f(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
  static double f(double a, double b, double c) { return __builtin_fma(a, b, c); }
};
struct Sqrt {
  static float f(float a) { return __builtin_sqrtf(a); }
  static double f(double a) { return __builtin_sqrt(a); }
};
struct Rcp {
  template <class T>
  static T f(T a) {
    return T{1} / a;
  }
};
struct Rsqrt {
  template <class T>
  static T f(T a) {
    return T{1} / Sqrt::f(a);
  }
};
// The approximate f64 forms give 20 fraction bits; code around them relies on no more.
template <class F>
struct High {
  static double f(double a) {
    return std::bit_cast<double>(std::bit_cast<u64>(F::f(a)) & 0xffffffff00000000U);
  }
};

struct Ex2 {
  static float f(float x) {
    const float limited = x < -200.0F ? -200.0F : x > 200.0F ? 200.0F : x;
    const float n = __builtin_rintf(limited);
    const float r = limited - n;
    float p = 1.5252733e-5F;
    p = p * r + 1.5403530e-4F;
    p = p * r + 1.3333558e-3F;
    p = p * r + 9.6181291e-3F;
    p = p * r + 5.5504109e-2F;
    p = p * r + 2.4022651e-1F;
    p = p * r + 6.9314718e-1F;
    p = p * r + 1.0F;
    const s32 e = n == n ? static_cast<s32>(n) : 0;
    const s32 half = e >> 1;
    const float s = std::bit_cast<float>((half + 127) << 23),
                t = std::bit_cast<float>((e - half + 127) << 23);
    return x != x ? x : p * s * t;
  }
};
struct Lg2 {
  static float f(float x) {
    const bool tiny = x < 0x1p-126F;
    const float scaled = tiny ? x * 0x1p24F : x;
    const u32 u = std::bit_cast<u32>(scaled);
    const u32 shifted = u - 0x3f3504f3U;  // fractions in [sqrt(1/2), sqrt(2))
    const s32 e = static_cast<s32>(shifted) >> 23;
    const float m = std::bit_cast<float>(u - (static_cast<u32>(e) << 23));
    const float s = (m - 1.0F) / (m + 1.0F), z = s * s;
    float p = 0.22222222F * 1.44269504F;
    p = p * z + 0.28571429F * 1.44269504F;
    p = p * z + 0.4F * 1.44269504F;
    p = p * z + 0.66666667F * 1.44269504F;
    p = p * z + 2.0F * 1.44269504F;
    const float r = s * p + static_cast<float>(e - (tiny ? 24 : 0));
    const float nan = std::bit_cast<float>(0x7fffffffU), infinity = __builtin_inff();
    return x != x || x < 0.0F ? nan : x == 0.0F ? -infinity : x == infinity ? infinity : r;
  }
};
template <int Phase>
struct Circle {  // sin(x + Phase * pi / 2)
  static float f(float x) {
    const double d = x;
    const double n = __builtin_rint(d * 0.63661977236758134308);
    const double r = (d - n * 1.57079632679489655800) - n * 6.12323399573676603587e-17;
    const double z = r * r;
    const double s = r * (1 + z * (-1.0 / 6 + z * (1.0 / 120 + z * (-1.0 / 5040 + z * (1.0 / 362880)))));
    const double k =
        1 + z * (-0.5 + z * (1.0 / 24 + z * (-1.0 / 720 + z * (1.0 / 40320 - z * (1.0 / 3628800)))));
    // n modulo 4 without an integer conversion that large arguments would overflow.
    const double q = n - 4.0 * __builtin_floor(n * 0.25) + Phase;
    const double quadrant = q >= 4 ? q - 4 : q;
    const double v = quadrant == 0 ? s : quadrant == 1 ? k : quadrant == 2 ? -s : -k;
    return static_cast<float>(v);
  }
};
struct Tanh {
  static float f(float x) {
    const float a = __builtin_fabsf(x), z = x * x;
    const float small = x * (1.0F + z * (-0.33333333F + z * (0.13333333F - z * 0.053968254F)));
    const float e = Ex2::f(a * 2.8853901F);
    const float large = 1.0F - 2.0F / (e + 1.0F);
    return a < 0.25F ? small : __builtin_copysignf(x != x ? x : large, x);
  }
};

template <bool Max, bool Nan>
struct MinMax {
  template <class T>
  static T f(T a, T b) {
    using U = std::conditional_t<sizeof(T) == 4, u32, u64>;
    const U x = std::bit_cast<U>(a), y = std::bit_cast<U>(b);
    // Equal values differ at most in the sign of zero: -0 counts as less.
    T r = std::bit_cast<T>(Max ? x & y : x | y);
    r = a < b ? (Max ? b : a) : r;
    r = b < a ? (Max ? a : b) : r;
    if (Nan) {
      const T nan =
          std::bit_cast<T>(static_cast<U>(sizeof(T) == 4 ? u64{0x7fffffff} : u64{0x7fffffffffffffff}));
      return a != a || b != b ? nan : r;
    }
    r = a != a ? b : r;
    r = b != b ? a : r;
    return canonical(r);
  }
};

template <class F, class T, bool Sat>
const Op* float1(Context& c, const Op* op) {
  use_csr(c, op->csr);
  const T* a = reg<T>(c, op->r[1]);
  each(c, reg<T>(c, op->r[0]), [=](unsigned i) -> T {
    const T r = canonical(F::f(a[i]));
    return Sat ? saturated(r) : r;
  });
  return op + 1;
}
template <class F, class T, bool Sat>
const Op* float2(Context& c, const Op* op) {
  use_csr(c, op->csr);
  const T* a = reg<T>(c, op->r[1]);
  const T* b = reg<T>(c, op->r[2]);
  each(c, reg<T>(c, op->r[0]), [=](unsigned i) -> T {
    const T r = canonical(F::f(a[i], b[i]));
    return Sat ? saturated(r) : r;
  });
  return op + 1;
}
template <class F, class T, bool Sat>
const Op* float3(Context& c, const Op* op) {
  use_csr(c, op->csr);
  const T* a = reg<T>(c, op->r[1]);
  const T* b = reg<T>(c, op->r[2]);
  const T* e = reg<T>(c, op->r[3]);
  each(c, reg<T>(c, op->r[0]), [=](unsigned i) -> T {
    const T r = canonical(F::f(a[i], b[i], e[i]));
    return Sat ? saturated(r) : r;
  });
  return op + 1;
}
template <class F, bool Ftz>
const Op* minmax32(Context& c, const Op* op) {
  use_csr(c, op->csr);
  const float* a = reg<float>(c, op->r[1]);
  const float* b = reg<float>(c, op->r[2]);
  each(c, reg<float>(c, op->r[0]),
       [=](unsigned i) -> float { return Ftz ? F::f(flushed(a[i]), flushed(b[i])) : F::f(a[i], b[i]); });
  return op + 1;
}

template <class U, bool Negate, bool Ftz>
const Op* sign_op(Context& c, const Op* op) {
  constexpr U sign = U{1} << (8 * sizeof(U) - 1);
  const U* a = reg<U>(c, op->r[1]);
  each(c, reg<U>(c, op->r[0]), [=](unsigned i) -> U {
    U v = a[i];
    if (Ftz && sizeof(U) == 4) v = (v & 0x7f800000U) == 0 ? v & sign : v;
    return Negate ? v ^ sign : v & ~sign;
  });
  return op + 1;
}
template <class U>
struct Copysign {
  static U f(U a, U b) {
    constexpr U sign = U{1} << (8 * sizeof(U) - 1);
    return (a & sign) | (b & ~sign);
  }
};

template <class U, int What>
const Op* testp(Context& c, const Op* op) {
  constexpr U inf = sizeof(U) == 4 ? static_cast<U>(0x7f800000) : static_cast<U>(0x7ff0000000000000);
  constexpr U least = sizeof(U) == 4 ? static_cast<U>(0x00800000) : static_cast<U>(0x0010000000000000);
  const U* a = reg<U>(c, op->r[1]);
  set_predicate(c, op->r[0], bits_of([=](unsigned i) {
                  const U m = a[i] & static_cast<U>(~(U{1} << (8 * sizeof(U) - 1)));
                  switch (What) {
                    case 0:
                      return m < inf;
                    case 1:
                      return m == inf;
                    case 2:
                      return m <= inf;
                    case 3:
                      return m > inf;
                    case 4:
                      return (m >= least && m < inf);
                    default:
                      return m < least && m != 0;
                  }
                }));
  return op + 1;
}

template <class T>
Handler pick(const Instruction& i, std::string_view name) {
  constexpr bool single = sizeof(T) == 4;
  const bool sat = i.has("sat"), approx = i.has("approx") || i.has("full");
#define SOFTGPU_PICK(n, F) (sat ? &float##n<F, T, true> : &float##n<F, T, false>)
  if (name == "add") return SOFTGPU_PICK(2, Add);
  if (name == "sub") return SOFTGPU_PICK(2, Sub);
  if (name == "mul") return SOFTGPU_PICK(2, Mul);
  if (name == "fma" || name == "mad") return SOFTGPU_PICK(3, Fma);
  if (name == "div") return &float2<Div, T, false>;
#undef SOFTGPU_PICK
  if constexpr (single) {
    if (name == "rcp") return &float1<Rcp, T, false>;
    if (name == "sqrt") return &float1<Sqrt, T, false>;
    if (name == "rsqrt") return &float1<Rsqrt, T, false>;
    if (name == "sin") return &float1<Circle<0>, T, false>;
    if (name == "cos") return &float1<Circle<1>, T, false>;
    if (name == "lg2") return &float1<Lg2, T, false>;
    if (name == "ex2") return &float1<Ex2, T, false>;
    if (name == "tanh") return &float1<Tanh, T, false>;
  } else {
    if (name == "rcp") return approx ? &float1<High<Rcp>, T, false> : &float1<Rcp, T, false>;
    if (name == "sqrt") return &float1<Sqrt, T, false>;
    if (name == "rsqrt") return &float1<High<Rsqrt>, T, false>;
  }
  if (name == "min" || name == "max") {
    const bool max = name == "max", nan = i.has("NaN");
    if constexpr (single) {
      if (i.has("ftz"))
        return max ? (nan ? &minmax32<MinMax<true, true>, true> : &minmax32<MinMax<true, false>, true>)
                   : (nan ? &minmax32<MinMax<false, true>, true> : &minmax32<MinMax<false, false>, true>);
    }
    return max ? (nan ? &float2<MinMax<true, true>, T, false> : &float2<MinMax<true, false>, T, false>)
               : (nan ? &float2<MinMax<false, true>, T, false> : &float2<MinMax<false, false>, T, false>);
  }
  using U = std::conditional_t<single, u32, u64>;
  if (name == "abs") return i.has("ftz") ? &sign_op<U, false, true> : &sign_op<U, false, false>;
  if (name == "neg") return i.has("ftz") ? &sign_op<U, true, true> : &sign_op<U, true, false>;
  if (name == "copysign") return &binary<Copysign<U>, U, U, U>;
  return nullptr;
}

}  // namespace

bool decode_float(Builder& b, const Instruction& i) {
  const std::string_view name = i.name();
  const ptx::Type type = i.type();
  if (type != ptx::Type::f32 && type != ptx::Type::f64) return false;
  const bool single = type == ptx::Type::f32;
  const u32 bytes = single ? 4 : 8;
  if (name == "testp") {
    static constexpr std::string_view names[] = {"finite",     "infinite", "number",
                                                 "notanumber", "normal",   "subnormal"};
    static constexpr Handler f32s[] = {&testp<u32, 0>, &testp<u32, 1>, &testp<u32, 2>,
                                       &testp<u32, 3>, &testp<u32, 4>, &testp<u32, 5>};
    static constexpr Handler f64s[] = {&testp<u64, 0>, &testp<u64, 1>, &testp<u64, 2>,
                                       &testp<u64, 3>, &testp<u64, 4>, &testp<u64, 5>};
    for (unsigned k = 0; k < 6; ++k) {
      if (i.part(1) != names[k]) continue;
      const Vreg a = b.in(i.operand(1), bytes, true);
      b.emit(single ? f32s[k] : f64s[k]).def(0, b.out(i.operand(0), 0)).use(1, a);
      return true;
    }
    return b.fail("testp form");
  }
  if (i.has("relu") || i.has("xorsign")) return b.fail("relu and xorsign forms");
  if ((name == "min" || name == "max") && i.operands() != 3) return b.fail("three-input min and max");
  // Any types but a plain trailing one (mixed precision) belong to others.
  if (i.source_type() != ptx::Type::none) return false;
  const Handler fn = single ? pick<float>(i, name) : pick<double>(i, name);
  if (fn == nullptr) return false;
  emit_simple(b, i, fn, bytes, true).csr(csr_of(i));
  return true;
}

}  // namespace softgpu::exec::SOFTGPU_ISA
