// Products of small matrices held in a warp's registers (mma.sync), and loading and transposing such
// fragments (ldmatrix, movmatrix). Fragment layouts: PTX ISA, "Matrix Fragments for mma". Sums are formed in
// binary32 and rounded once, where a GPU's own order and rounding are unspecified.
#include "softgpu/exec/machine.hpp"
#include "softgpu/exec/matrix.hpp"

namespace softgpu::exec::SOFTGPU_ISA {

namespace {

enum : u16 { a_signed = 1, b_signed = 2, saturate = 4 };

// Elements of 8 or 4 bits, in memory order, as 16-bit integers.
void widen_bytes(const u32* from, bool is_signed, s16* to) {
  alignas(64) u8 bytes[4 * lanes];
  std::memcpy(bytes, from, sizeof bytes);
  if (is_signed) {
    for (unsigned i = 0; i < 4 * lanes; ++i) to[i] = static_cast<s8>(bytes[i]);
  } else {
    for (unsigned i = 0; i < 4 * lanes; ++i) to[i] = bytes[i];
  }
}
void widen_nibbles(const u32* from, bool is_signed, s16* to) {
  alignas(64) u8 bytes[4 * lanes];
  std::memcpy(bytes, from, sizeof bytes);
  for (unsigned i = 0; i < 4 * lanes; ++i) {
    const int low = bytes[i] & 15, high = bytes[i] >> 4;
    to[2 * i] = static_cast<s16>(is_signed ? (low ^ 8) - 8 : low);
    to[2 * i + 1] = static_cast<s16>(is_signed ? (high ^ 8) - 8 : high);
  }
}

void add_accumulator(Context& c, const Op* op, const s32* product) {
  alignas(64) s32 d[2][lanes];
  for (unsigned k = 0; k < 2; ++k) {
    const s32* sum = reg<s32>(c, op->r[4 + k]);
    if ((op->aux & saturate) != 0) {
      SOFTGPU_LANES {
        const s64 wide = s64{sum[i]} + product[2 * i + k];
        d[k][i] = wide > INT32_MAX ? INT32_MAX : wide < INT32_MIN ? INT32_MIN : static_cast<s32>(wide);
      }
    } else {
      SOFTGPU_LANES d[k][i] =
          static_cast<s32>(static_cast<u32>(sum[i]) + static_cast<u32>(product[2 * i + k]));
    }
  }
  for (unsigned k = 0; k < 2; ++k)
    store_register(c, reg<u32>(c, op->r[k]), reinterpret_cast<const u32*>(d[k]));
}

// r: d0 d1 a b c0 c1. K elements a row: 16 of 8 bits, 32 of 4.
template <unsigned K>
const Op* mma_integer(Context& c, const Op* op) {
  const Op* other = nullptr;
  if (wait_for_lanes(c, op, all_lanes, other)) return other;
  constexpr auto widen = K == 16 ? widen_bytes : widen_nibbles;
  alignas(32) s16 a[8 * K], b[8 * K];
  widen(reg<u32>(c, op->r[2]), (op->aux & a_signed) != 0, a);
  widen(reg<u32>(c, op->r[3]), (op->aux & b_signed) != 0, b);
  alignas(32) s32 product[64];
  dot_products<K>(a, b, product);
  add_accumulator(c, op, product);
  return op + 1;
}

// m8n8k128 of single bits: how many differ (imm 0) or are both set (imm 1).
const Op* mma_bits(Context& c, const Op* op) {
  const Op* other = nullptr;
  if (wait_for_lanes(c, op, all_lanes, other)) return other;
  const u32 *a = reg<u32>(c, op->r[2]), *b = reg<u32>(c, op->r[3]);
  alignas(32) s32 product[64];
  for (unsigned m = 0; m < 8; ++m)
    for (unsigned n = 0; n < 8; ++n) {
      s32 count = 0;
      for (unsigned k = 0; k < 4; ++k) {
        const u32 x = a[4 * m + k], y = b[4 * n + k];
        count += std::popcount(op->imm == 0 ? x ^ y : x & y);
      }
      product[8 * m + n] = count;
    }
  add_accumulator(c, op, product);
  return op + 1;
}

void load_16x8x8(Context& c, u32 a0, u32 a1, u32 b0, float* a, float* b) {
  alignas(32) float turned[64];
  pairs_to_floats(reg<u32>(c, a0), a);
  pairs_to_floats(reg<u32>(c, a1), a + 64);
  pairs_to_floats(reg<u32>(c, b0), turned);
  transpose_words(reinterpret_cast<const u32*>(turned), reinterpret_cast<u32*>(b));
}

// r: d0..d3 a0 a1 b; then c0..c3 in the op behind.
const Op* mma_16x8x8_f32(Context& c, const Op* op) {
  const Op* other = nullptr;
  if (wait_for_lanes(c, op, all_lanes, other)) return other;
  use_csr(c, csr_rn);
  alignas(32) float a[128], b[64], sum[128];
  load_16x8x8(c, op->r[4], op->r[5], op->r[6], a, b);
  for (unsigned h = 0; h < 2; ++h)
    interleave(reg<float>(c, op[1].r[2 * h]), reg<float>(c, op[1].r[2 * h + 1]), sum + 64 * h);
  multiply_add_16x8x8(a, b, sum);
  for (unsigned h = 0; h < 2; ++h) {
    alignas(64) float even[lanes], odd[lanes];
    deinterleave(sum + 64 * h, even, odd);
    store_register(c, reg<u32>(c, op->r[2 * h]), reinterpret_cast<const u32*>(even));
    store_register(c, reg<u32>(c, op->r[2 * h + 1]), reinterpret_cast<const u32*>(odd));
  }
  return op + 2;
}

// r: d0 d1 a0 a1 b c0 c1.
const Op* mma_16x8x8_f16(Context& c, const Op* op) {
  const Op* other = nullptr;
  if (wait_for_lanes(c, op, all_lanes, other)) return other;
  use_csr(c, csr_rn);
  alignas(32) float a[128], b[64], sum[128];
  load_16x8x8(c, op->r[2], op->r[3], op->r[4], a, b);
  for (unsigned h = 0; h < 2; ++h) pairs_to_floats(reg<u32>(c, op->r[5 + h]), sum + 64 * h);
  multiply_add_16x8x8(a, b, sum);
  for (unsigned h = 0; h < 2; ++h) {
    alignas(64) u32 d[lanes];
    floats_to_pairs(sum + 64 * h, d);
    store_register(c, reg<u32>(c, op->r[h]), d);
  }
  return op + 1;
}

enum : u16 { transposed = 8, in_shared = 16, narrow_address = 32, count_mask = 7 };

const std::byte* row_address(Context& c, const Op* op, unsigned lane, u32 base) {
  const u64 address =
      ((op->aux & narrow_address) != 0 ? reg<u32>(c, base)[lane] : reg<u64>(c, base)[lane]) + op->imm;
  if (address % 16 != 0) raise_fault(c, op, Fault::misaligned_address, address);
  if ((op->aux & in_shared) == 0) return resolve_generic(c, op, lane, address, 16);
  if (address > c.shared_size || c.shared_size - address < 16)
    raise_fault(c, op, Fault::illegal_address, address);
  return c.shared + address;
}

// r: d0..d3, r9 the rows' addresses: lane 8k+i gives row i of matrix k.
const Op* load_matrix(Context& c, const Op* op) {
  const Op* other = nullptr;
  if (wait_for_lanes(c, op, all_lanes, other)) return other;
  c.op = op;
  const unsigned count = op->aux & count_mask;
  alignas(64) u16 rows[4][64];
  for (unsigned k = 0; k < count; ++k)
    for (unsigned i = 0; i < 8; ++i)
      std::memcpy(&rows[k][8 * i], row_address(c, op, 8 * k + i, op->r[9]), 16);
  for (unsigned k = 0; k < count; ++k) {
    alignas(64) u16 turned[64];
    if ((op->aux & transposed) != 0) transpose_halves(rows[k], turned);
    alignas(64) u32 d[lanes];
    std::memcpy(d, (op->aux & transposed) != 0 ? turned : rows[k], sizeof d);
    store_register(c, reg<u32>(c, op->r[k]), d);
  }
  return op + 1;
}

const Op* move_matrix(Context& c, const Op* op) {
  const Op* other = nullptr;
  if (wait_for_lanes(c, op, all_lanes, other)) return other;
  alignas(64) u16 from[64], to[64];
  alignas(64) u32 d[lanes];
  std::memcpy(from, reg<u32>(c, op->r[1]), sizeof from);
  transpose_halves(from, to);
  std::memcpy(d, to, sizeof d);
  store_register(c, reg<u32>(c, op->r[0]), d);
  return op + 1;
}

/// Registers in the order of an op's fields: results first.
struct Fragments {
  std::vector<Vreg> d, a, b, c;
};

std::optional<Fragments> fragments(Builder& b, const Instruction& i, std::size_t nd, std::size_t na,
                                   std::size_t nb, std::size_t nc) {
  if (i.operands() < 4) {
    b.fail("four fragments are needed");
    return std::nullopt;
  }
  Fragments f;
  for (const auto* o : elements(b, i.operand(1), na)) f.a.push_back(b.in(*o, 4));
  for (const auto* o : elements(b, i.operand(2), nb)) f.b.push_back(b.in(*o, 4));
  for (const auto* o : elements(b, i.operand(3), nc)) f.c.push_back(b.in(*o, 4));
  for (const auto* o : elements(b, i.operand(0), nd)) f.d.push_back(b.out(*o, 4));
  if (b.failed()) return std::nullopt;
  return f;
}

bool decode_integer_product(Builder& b, const Instruction& i, Handler fn) {
  const auto f = fragments(b, i, 2, 1, 1, 2);
  if (!f) return true;
  // "...s32.s8.u8.s32": the types of d, a, b, c come last (bits have no sign).
  const std::size_t n = i.parts();
  const bool signs[2] = {i.part(n - 3).starts_with('s'), i.part(n - 2).starts_with('s')};
  const auto flags = static_cast<u16>((signs[0] ? a_signed : 0) | (signs[1] ? b_signed : 0) |
                                      (i.has("satfinite") ? saturate : 0));
  Draft& d = b.emit(fn).aux(flags).imm(i.has("and") ? 1 : 0);
  d.def(0, f->d[0]).def(1, f->d[1]).use(2, f->a[0]).use(3, f->b[0]).use(4, f->c[0]).use(5, f->c[1]);
  return true;
}

bool decode_half_product(Builder& b, const Instruction& i) {
  const std::size_t n = i.parts();
  const std::string_view dt = i.part(n - 4), ct = i.part(n - 1);
  if (i.part(n - 3) != "f16" || i.part(n - 2) != "f16" || dt != ct || (dt != "f16" && dt != "f32"))
    return b.fail("these types of mma m16n8k8");
  const bool wide = dt == "f32";
  const std::size_t words = wide ? 4 : 2;
  const auto f = fragments(b, i, words, 2, 1, words);
  if (!f) return true;
  Draft& d = b.emit(wide ? mma_16x8x8_f32 : mma_16x8x8_f16);
  unsigned k = 0;
  for (const Vreg v : f->d) d.def(k++, v);
  for (const Vreg v : f->a) d.use(k++, v);
  d.use(k++, f->b[0]);
  if (!wide) {
    for (const Vreg v : f->c) d.use(k++, v);
    return true;
  }
  Draft& more = b.extend();
  for (k = 0; k < 4; ++k) more.use(k, f->c[k]);
  return true;
}

bool decode_product(Builder& b, const Instruction& i) {
  if (i.has("m16n8k8")) return decode_half_product(b, i);
  if (i.has("m8n8k16")) return decode_integer_product(b, i, mma_integer<16>);
  if (i.has("m8n8k32")) return decode_integer_product(b, i, mma_integer<32>);
  if (i.has("m8n8k128")) return decode_integer_product(b, i, mma_bits);
  return b.fail("this shape of mma");
}

bool decode_load(Builder& b, const Instruction& i) {
  const u16 count = i.has("x1") ? 1 : i.has("x2") ? 2 : i.has("x4") ? 4 : 0;
  if (!i.has("m8n8") || count == 0 || i.operands() != 2 || i.type() != ptx::Type::b16)
    return b.fail("this form of ldmatrix");
  const auto address = b.address(i.operand(1));
  std::vector<Vreg> d;
  for (const auto* o : elements(b, i.operand(0), count)) d.push_back(b.out(*o, 4));
  if (!address || b.failed()) return true;
  const auto flags = static_cast<u16>(count | (i.has("trans") ? transposed : 0) |
                                      (i.has("shared") || i.has("shared::cta") ? in_shared : 0) |
                                      (address->bytes == 4 ? narrow_address : 0));
  Draft& op = b.emit(load_matrix).use(9, address->base).imm(static_cast<u64>(address->offset)).aux(flags);
  for (unsigned k = 0; k < count; ++k) op.def(k, d[k]);
  return true;
}

}  // namespace

bool decode_mma(Builder& b, const Instruction& i) {
  if (i.name() == "mma") return decode_product(b, i);
  if (i.name() == "ldmatrix") return decode_load(b, i);
  if (i.name() == "movmatrix") {
    if (i.operands() != 2 || !i.has("m8n8") || !i.has("trans")) return b.fail("this form of movmatrix");
    const Vreg a = b.in(i.operand(1), 4);
    b.emit(move_matrix).def(0, b.out(i.operand(0), 4)).use(1, a);
    return true;
  }
  return false;
}

}  // namespace softgpu::exec::SOFTGPU_ISA
