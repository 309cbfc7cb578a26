// f16, f16x2, bf16 and bf16x2 arithmetic. Sums, differences and products of halves are exact enough in f32
// that one rounding to half gives the correctly rounded result; fma goes through f64 with rounding to odd.
#include "softgpu/exec/floats.hpp"

namespace softgpu::exec::SOFTGPU_ISA {

namespace {

enum class Kind : u16 { add, sub, mul, fma, min, max, min_nan, max_nan, neg, abs, ex2, tanh };

// Rounds a * b + c of halves or bfloat16s to odd in f64: enough bits that a second rounding is exact.
double fma_odd(double a, double b, double c) {
  const double p = a * b;  // exact
  const double s = p + c;
  const double t = s - p;
  const double error = (p - (s - t)) + (c - t);
  u64 u = std::bit_cast<u64>(s);
  if (error != 0 && (u & 1) == 0 && error == error) {
    // Towards the error's side by one unit, which makes the last bit odd.
    const bool up = (error > 0) == (s > 0);
    u += up ? 1U : ~u64{0};
  }
  return std::bit_cast<double>(u);
}

struct Half {
  static void load(const u16* h, float* f) { halves_to_floats(h, f); }
  static void store(const float* f, u16* h) { floats_to_halves(f, h); }
  static u16 from_double(double x) { return double_to_half_one(x, Round::nearest); }
  static constexpr u16 infinity = 0x7c00, nan = 0x7fff, one = 0x3c00;
};
u16 double_to_bfloat(double x) {
  if (x != x) return 0x7fff;
  float f = static_cast<float>(x);
  // f is rounded once already: undo it to odd where it was inexact.
  u32 u = std::bit_cast<u32>(f);
  if (static_cast<double>(f) != x && (u & 1) == 0 && (u & 0x7fffffffU) < 0x7f800000U) {
    const bool larger = __builtin_fabs(x) > __builtin_fabs(static_cast<double>(f));
    u += larger ? 1U : 0xffffffffU;
  }
  return static_cast<u16>((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
struct Bfloat {
  static void load(const u16* h, float* f) {
    SOFTGPU_LANES f[i] = std::bit_cast<float>(static_cast<u32>(h[i]) << 16);
  }
  static void store(const float* f, u16* h) {
    for (unsigned i = 0; i < lanes; ++i) {
      const u32 u = std::bit_cast<u32>(f[i]);
      h[i] = f[i] != f[i] ? u16{0x7fff} : static_cast<u16>((u + 0x7fff + (u >> 16 & 1)) >> 16);
    }
  }
  static u16 from_double(double x) { return double_to_bfloat(x); }
  static constexpr u16 infinity = 0x7f80, nan = 0x7fff, one = 0x3f80;
};

float ex2(float x) {
  return __builtin_exp2f(x);
}

enum : u16 { flag_ftz = 1, flag_sat = 2, flag_relu = 4 };

template <class H>
void flush_halves(u16* h) {
  SOFTGPU_LANES h[i] = (h[i] & H::infinity) == 0 ? static_cast<u16>(h[i] & 0x8000) : h[i];
}

template <class H>
void compute(Kind kind, u16 flags, u16* a, u16* b, u16* e, u16* d) {
  if ((flags & flag_ftz) != 0) {
    flush_halves<H>(a);
    flush_halves<H>(b);
    flush_halves<H>(e);
  }
  alignas(64) float x[lanes], y[lanes], r[lanes];
  H::load(a, x);
  H::load(b, y);
  bool done = false;
  switch (kind) {
    case Kind::add:
      SOFTGPU_LANES r[i] = x[i] + y[i];
      break;
    case Kind::sub:
      SOFTGPU_LANES r[i] = x[i] - y[i];
      break;
    case Kind::mul:
      SOFTGPU_LANES r[i] = x[i] * y[i];
      break;
    case Kind::fma: {
      alignas(64) float z[lanes];
      H::load(e, z);
      for (unsigned i = 0; i < lanes; ++i) d[i] = H::from_double(fma_odd(x[i], y[i], z[i]));
      done = true;
      break;
    }
    case Kind::min:
    case Kind::max:
    case Kind::min_nan:
    case Kind::max_nan: {
      const bool max = kind == Kind::max || kind == Kind::max_nan,
                 nan = kind == Kind::min_nan || kind == Kind::max_nan;
      for (unsigned i = 0; i < lanes; ++i) {
        const bool xn = x[i] != x[i], yn = y[i] != y[i];
        u16 v = 0;
        if ((xn && yn) || (nan && (xn || yn))) {
          v = H::nan;
        } else if (xn || yn) {
          v = xn ? b[i] : a[i];
        } else if (x[i] == y[i]) {
          v = max ? a[i] & b[i] : a[i] | b[i];
        } else {
          v = (x[i] < y[i]) != max ? a[i] : b[i];
        }
        d[i] = v;
      }
      done = true;
      break;
    }
    case Kind::neg:
      SOFTGPU_LANES d[i] = a[i] ^ 0x8000;
      done = true;
      break;
    case Kind::abs:
      SOFTGPU_LANES d[i] = a[i] & 0x7fff;
      done = true;
      break;
    case Kind::ex2:
      for (unsigned i = 0; i < lanes; ++i) r[i] = ex2(x[i]);
      break;
    case Kind::tanh:
      for (unsigned i = 0; i < lanes; ++i) r[i] = __builtin_tanhf(x[i]);
      break;
  }
  if (!done) H::store(r, d);
  if ((flags & flag_ftz) != 0) flush_halves<H>(d);
  if ((flags & flag_sat) != 0)
    SOFTGPU_LANES d[i] = (d[i] & 0x7fff) > H::infinity || (d[i] & 0x8000) != 0 ? u16{0}
                         : d[i] > H::one                                       ? H::one
                                                                               : d[i];
  if ((flags & flag_relu) != 0)
    SOFTGPU_LANES d[i] = (d[i] & 0x7fff) > H::infinity ? H::nan : (d[i] & 0x8000) != 0 ? u16{0} : d[i];
}

template <class H>
const Op* half1(Context& c, const Op* op) {
  use_csr(c, csr_rn);
  alignas(64) u16 a[lanes], b[lanes], e[lanes], d[lanes];
  std::memcpy(a, reg<u16>(c, op->r[1]), sizeof a);
  std::memcpy(b, reg<u16>(c, op->r[2]), sizeof b);
  std::memcpy(e, reg<u16>(c, op->r[3]), sizeof e);
  compute<H>(static_cast<Kind>(op->imm), op->aux, a, b, e, d);
  merge(c.mask, reg<u16>(c, op->r[0]), d);
  return op + 1;
}

void split(const u32* v, u16* low, u16* high) {
  SOFTGPU_LANES low[i] = static_cast<u16>(v[i]);
  SOFTGPU_LANES high[i] = static_cast<u16>(v[i] >> 16);
}

template <class H>
const Op* half2(Context& c, const Op* op) {
  use_csr(c, csr_rn);
  alignas(64) u16 a[2][lanes], b[2][lanes], e[2][lanes], d[2][lanes];
  split(reg<u32>(c, op->r[1]), a[0], a[1]);
  split(reg<u32>(c, op->r[2]), b[0], b[1]);
  split(reg<u32>(c, op->r[3]), e[0], e[1]);
  for (int k = 0; k < 2; ++k) compute<H>(static_cast<Kind>(op->imm), op->aux, a[k], b[k], e[k], d[k]);
  each(c, reg<u32>(c, op->r[0]),
       [&](unsigned i) -> u32 { return d[0][i] | static_cast<u32>(d[1][i]) << 16; });
  return op + 1;
}

}  // namespace

bool decode_half(Builder& b, const Instruction& i) {
  using ptx::Type;
  const Type type = i.type();
  const bool pair = type == Type::f16x2 || type == Type::bf16x2,
             brain = type == Type::bf16 || type == Type::bf16x2;
  if (!pair && type != Type::f16 && type != Type::bf16) return false;
  if (i.source_type() != Type::none) return false;
  const std::string_view name = i.name();
  Kind kind{};
  if (name == "add")
    kind = Kind::add;
  else if (name == "sub")
    kind = Kind::sub;
  else if (name == "mul")
    kind = Kind::mul;
  else if (name == "fma")
    kind = Kind::fma;
  else if (name == "min")
    kind = i.has("NaN") ? Kind::min_nan : Kind::min;
  else if (name == "max")
    kind = i.has("NaN") ? Kind::max_nan : Kind::max;
  else if (name == "neg")
    kind = Kind::neg;
  else if (name == "abs")
    kind = Kind::abs;
  else if (name == "ex2")
    kind = Kind::ex2;
  else if (name == "tanh")
    kind = Kind::tanh;
  else
    return false;
  if (i.has("xorsign") || i.has("oob")) return b.fail("xorsign and oob forms");
  const auto flags = static_cast<u16>((i.has("ftz") ? flag_ftz : 0) | (i.has("sat") ? flag_sat : 0) |
                                      (i.has("relu") ? flag_relu : 0));
  const u32 bytes = pair ? 4 : 2;
  const Handler fn = pair ? (brain ? &half2<Bfloat> : &half2<Half>) : (brain ? &half1<Bfloat> : &half1<Half>);
  Vreg v[4] = {};
  for (unsigned k = 1; k < 4; ++k) v[k] = k < i.operands() ? b.in(i.operand(k), bytes) : v[1];
  b.emit(fn)
      .def(0, b.out(i.operand(0), bytes))
      .use(1, v[1])
      .use(2, v[2])
      .use(3, v[3])
      .imm(static_cast<u64>(kind))
      .aux(flags);
  return true;
}

}  // namespace softgpu::exec::SOFTGPU_ISA
