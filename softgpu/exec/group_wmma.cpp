// wmma: whole-warp matrix products whose fragments a program may only load, multiply, store and change
// element by element. PTX leaves their layout open; here a fragment is its matrix, row by row, over its
// registers: element e of lane l of an accumulator is number 32e + l, of 16-bit inputs number 64(e/2) + 2l +
// e%2, of 8-bit ones 128(e/4) + 4l + e%4. Inputs with more room than elements hold the matrix again from its
// start.
#include "softgpu/exec/machine.hpp"
#include "softgpu/exec/matrix.hpp"
#include "softgpu/exec/wmma_small.hpp"

namespace softgpu::exec::SOFTGPU_ISA {

namespace {

enum class Element : u16 { f16, f32, s32, byte };

struct Shape {
  std::string_view name;
  u32 m, n, k;
};
constexpr Shape shapes[] = {{"m16n16k16", 16, 16, 16}, {"m8n32k16", 8, 32, 16}, {"m32n8k16", 32, 8, 16}};

// A fragment as one op moves it; packed into Op::aux.
struct Form {
  Element element = Element::f16;
  u16 shape = 0;
  char which = 'a';  ///< a, b, or c for both accumulators
  bool column = false, shared = false, narrow = false;

  u16 packed() const {
    const int w = which == 'a' ? 0 : which == 'b' ? 1 : 2;
    return static_cast<u16>(static_cast<int>(element) | shape << 2 | w << 4 | (column ? 64 : 0) |
                            (shared ? 128 : 0) | (narrow ? 256 : 0));
  }
  static Form unpacked(u16 v) {
    return {static_cast<Element>(v & 3),
            static_cast<u16>(v >> 2 & 3),
            "abc"[v >> 4 & 3],
            (v & 64) != 0,
            (v & 128) != 0,
            (v & 256) != 0};
  }
  u32 rows() const { return which == 'b' ? shapes[shape].k : shapes[shape].m; }
  u32 columns() const { return which == 'a' ? shapes[shape].k : shapes[shape].n; }
  u32 bytes() const { return element == Element::byte ? 1 : element == Element::f16 ? 2 : 4; }
  u32 registers() const {
    if (which == 'c') return element == Element::f16 ? 4 : 8;
    return element == Element::f16 ? 8 : rows() * columns() / 128;
  }
};

// One row or column of the matrix in memory.
std::byte* line_address(Context& c, const Op* op, const Form& form, u64 address, u32 bytes) {
  if (address % form.bytes() != 0) raise_fault(c, op, Fault::misaligned_address, address);
  const auto lane = static_cast<unsigned>(std::countr_zero(c.mask));
  if (!form.shared) return resolve_generic(c, op, lane, address, bytes);
  if (address > c.shared_size || c.shared_size - address < bytes)
    raise_fault(c, op, Fault::illegal_address, address);
  return c.shared + address;
}

// Calls f(address, number of the first element, step to the next) for every line in memory.
template <class F>
void each_line(Context& c, const Op* op, const Form& form, F f) {
  const auto lane = static_cast<unsigned>(std::countr_zero(c.mask));
  const u64 base = (form.narrow ? reg<u32>(c, op->r[8])[lane] : reg<u64>(c, op->r[8])[lane]) + op->imm;
  const u64 stride = u64{reg<u32>(c, op->r[9])[lane]} * form.bytes();
  const u32 lines = form.column ? form.columns() : form.rows();
  const u32 length = form.column ? form.rows() : form.columns();
  for (u32 i = 0; i < lines; ++i) {
    std::byte* at = line_address(c, op, form, base + i * stride, length * form.bytes());
    f(at, form.column ? i : i * length, form.column ? form.columns() : 1, length);
  }
}

template <class T>
void load_elements(Context& c, const Op* op, const Form& form, T* matrix) {
  each_line(c, op, form, [&](const std::byte* at, u32 first, u32 step, u32 length) {
    for (u32 k = 0; k < length; ++k) std::memcpy(matrix + first + k * step, at + k * sizeof(T), sizeof(T));
  });
}

// Accumulators of 16 bits: register e/2 holds the elements 32e + l in its halves.
void pack_accumulator(const u16* matrix, u32* registers) {
  for (unsigned e = 0; e < 4; ++e)
    SOFTGPU_LANES registers[lanes * e + i] = matrix[64 * e + i] | static_cast<u32>(matrix[64 * e + lanes + i])
                                                                      << 16;
}
void unpack_accumulator(const u32* registers, u16* matrix) {
  for (unsigned e = 0; e < 4; ++e) {
    SOFTGPU_LANES matrix[64 * e + i] = static_cast<u16>(registers[lanes * e + i]);
    SOFTGPU_LANES matrix[64 * e + lanes + i] = static_cast<u16>(registers[lanes * e + i] >> 16);
  }
}

// r0..r7 the fragment, r8 the address, r9 the stride.
const Op* load_fragment(Context& c, const Op* op) {
  const Op* other = nullptr;
  if (wait_for_lanes(c, op, all_lanes, other)) return other;
  c.op = op;
  const Form form = Form::unpacked(op->aux);
  const u32 count = form.registers();
  alignas(64) u32 registers[8 * lanes];
  if (form.bytes() == 4) {
    load_elements(c, op, form, registers);
  } else if (form.element == Element::byte) {
    load_elements(c, op, form, reinterpret_cast<u8*>(registers));
  } else {
    alignas(64) u16 matrix[16 * lanes];
    load_elements(c, op, form, matrix);
    const u32 size = form.rows() * form.columns();
    for (u32 k = size; k < 16 * lanes; k += size) std::memcpy(matrix + k, matrix, size * sizeof(u16));
    if (form.which == 'c') {
      pack_accumulator(matrix, registers);
    } else {
      std::memcpy(registers, matrix, sizeof matrix);
    }
  }
  for (u32 k = 0; k < count && k < 8; ++k) store_register(c, reg<u32>(c, op->r[k]), registers + lanes * k);
  return op + 1;
}

void gather(Context& c, const Op* op, u32 count, u32* registers) {
  for (u32 k = 0; k < count; ++k)
    std::memcpy(registers + lanes * k, reg<u32>(c, op->r[k]), lanes * sizeof(u32));
}

const Op* store_fragment(Context& c, const Op* op) {
  const Op* other = nullptr;
  if (wait_for_lanes(c, op, all_lanes, other)) return other;
  c.op = op;
  const Form form = Form::unpacked(op->aux);
  alignas(64) u32 registers[8 * lanes];
  alignas(64) u16 halves[8 * lanes];
  gather(c, op, form.registers(), registers);
  if (form.element == Element::f16) unpack_accumulator(registers, halves);
  const auto* matrix = form.element == Element::f16 ? reinterpret_cast<const std::byte*>(halves)
                                                    : reinterpret_cast<const std::byte*>(registers);
  const u32 bytes = form.bytes();
  each_line(c, op, form, [&](std::byte* at, u32 first, u32 step, u32 length) {
    for (u32 k = 0; k < length; ++k) std::memcpy(at + k * bytes, matrix + (first + k * step) * bytes, bytes);
  });
  return op + 1;
}

void gather_accumulator(Context& c, const Op* op, bool wide, float* sum) {
  alignas(64) u32 registers[8 * lanes];
  gather(c, op, wide ? 8 : 4, registers);
  if (wide) {
    std::memcpy(sum, registers, sizeof registers);
    return;
  }
  alignas(64) u16 halves[8 * lanes];
  unpack_accumulator(registers, halves);
  for (unsigned k = 0; k < 8; ++k) halves_to_floats(halves + lanes * k, sum + lanes * k);
}

// Four ops in a row: d, a, b, c.
template <unsigned M, unsigned N>
const Op* multiply_halves(Context& c, const Op* op) {
  const Op* other = nullptr;
  if (wait_for_lanes(c, op, all_lanes, other)) return other;
  use_csr(c, csr_rn);
  alignas(64) float a[M * 16], b[N * 16], sum[M * N];
  for (unsigned k = 0; k < M * 16 / 64; ++k) pairs_to_floats(reg<u32>(c, op[1].r[k]), a + 64 * k);
  for (unsigned k = 0; k < N * 16 / 64; ++k) pairs_to_floats(reg<u32>(c, op[2].r[k]), b + 64 * k);
  gather_accumulator(c, op + 3, (op->aux & wide_sum) != 0, sum);
  multiply_add<M, N, 16>(a, b, sum);
  alignas(64) u32 registers[8 * lanes];
  if ((op->aux & wide_result) != 0) {
    std::memcpy(registers, sum, sizeof registers);
  } else {
    alignas(64) u16 halves[8 * lanes];
    for (unsigned k = 0; k < 8; ++k) floats_to_halves(sum + lanes * k, halves + lanes * k);
    pack_accumulator(halves, registers);
  }
  const u32 count = (op->aux & wide_result) != 0 ? 8 : 4;
  for (u32 k = 0; k < count && k < 8; ++k) store_register(c, reg<u32>(c, op->r[k]), registers + lanes * k);
  return op + 4;
}

void gather_bytes(Context& c, const Op* op, u32 size, bool is_unsigned, s32* out) {
  alignas(64) u8 bytes[4 * 4 * lanes];
  gather(c, op, size / 128, reinterpret_cast<u32*>(bytes));
  for (u32 k = 0; k < size; ++k) out[k] = is_unsigned ? s32{bytes[k]} : s32{static_cast<s8>(bytes[k])};
}

template <unsigned M, unsigned N>
const Op* multiply_bytes(Context& c, const Op* op) {
  const Op* other = nullptr;
  if (wait_for_lanes(c, op, all_lanes, other)) return other;
  alignas(64) s32 a[M * 16], b[N * 16], product[M * N] = {}, sum[M * N];
  gather_bytes(c, op + 1, M * 16, (op->aux & a_unsigned) != 0, a);
  gather_bytes(c, op + 2, N * 16, (op->aux & b_unsigned) != 0, b);
  gather(c, op + 3, 8, reinterpret_cast<u32*>(sum));
  multiply_add<M, N, 16>(a, b, product);
  for (unsigned k = 0; k < M * N; ++k) {
    const s64 wide = s64{sum[k]} + product[k];
    if ((op->aux & saturate) != 0) {
      sum[k] = wide > INT32_MAX ? INT32_MAX : wide < INT32_MIN ? INT32_MIN : static_cast<s32>(wide);
    } else {
      sum[k] = static_cast<s32>(static_cast<u32>(wide));
    }
  }
  for (u32 k = 0; k < 8; ++k)
    store_register(c, reg<u32>(c, op->r[k]), reinterpret_cast<const u32*>(sum) + lanes * k);
  return op + 4;
}

std::optional<u16> shape_of(const Instruction& i) {
  for (u16 k = 0; k < 3; ++k)
    if (i.has(shapes[k].name)) return k;
  return std::nullopt;
}

std::optional<Element> element_of(std::string_view type) {
  if (type == "f16") return Element::f16;
  if (type == "f32") return Element::f32;
  if (type == "s32") return Element::s32;
  if (type == "s8" || type == "u8") return Element::byte;
  return std::nullopt;
}

// Emits a load or store of a fragment of so many registers; without a stride its lines follow each other.
template <class AnyForm>
bool emit_transfer(Builder& b, const Instruction& i, Handler fn, AnyForm form, u32 line, u32 registers) {
  const bool store = i.part(1) == "store";
  form.shared = i.has("shared") || i.has("shared::cta");
  const auto address = b.address(i.operand(store ? 0 : 1));
  const Vreg stride = i.operands() > 2 ? b.in(i.operand(2), 4) : b.constant(4, line);
  const auto list = elements(b, i.operand(store ? 1 : 0), registers);
  if (!address || b.failed()) return true;
  form.narrow = address->bytes == 4;
  std::vector<Vreg> fragment;
  fragment.reserve(list.size());
  for (const auto* o : list) fragment.push_back(store ? b.in(*o, 4) : b.out(*o, 4));
  Draft& d = b.emit(fn).use(8, address->base).use(9, stride);
  d.imm(static_cast<u64>(address->offset)).aux(form.packed());
  for (unsigned k = 0; k < fragment.size(); ++k) {
    if (store) {
      d.use(k, fragment[k]);
    } else {
      d.def(k, fragment[k]);
    }
  }
  return true;
}

// The element bits of the shapes of 4-bit integers and single bits, 0 for others.
u8 small_bits(const Instruction& i) {
  return i.has("m8n8k32") ? 4 : i.has("m8n8k128") ? 1 : 0;
}

// wmma.load.a.sync.aligned.row.m8n8k32.s4, .load.b...col.m8n8k128.b1, .load.c and .store.d....s32
bool decode_small_transfer(Builder& b, const Instruction& i) {
  const bool store = i.part(1) == "store";
  const std::string_view which = i.part(2), type = i.ast.parts.back();
  SmallForm form{
      .input = which == "a" || which == "b", .element_bits = small_bits(i), .column = i.has("col")};
  const bool fits = form.element_bits == 1 ? type == "b1" : type == "s4" || type == "u4";
  const bool known = form.input ? fits && !store && form.column == (which == "b")
                                : type == "s32" && which == (store ? "d" : "c");
  if (!known || i.operands() < 2) return b.fail("this form of wmma");
  return emit_transfer(b, i, store ? store_small : load_small, form,
                       form.input ? 128U / form.element_bits : 8, form.input ? 1 : 2);
}

// wmma.load.a.sync.aligned.row.m16n16k16.shared.f16 d, [p], stride;  wmma.store.d... [p], d, stride;
bool decode_transfer(Builder& b, const Instruction& i) {
  if (small_bits(i) != 0) return decode_small_transfer(b, i);
  const bool store = i.part(1) == "store";
  const auto shape = shape_of(i);
  const auto element = element_of(i.ast.parts.back());
  const std::string_view which = i.part(2);
  if (!shape || !element || i.operands() < 2) return b.fail("this form of wmma");
  Form form{.element = *element,
            .shape = *shape,
            .which = which == "d"    ? 'c'
                     : which.empty() ? 'a'
                                     : which[0]};
  const bool input = form.which == 'a' || form.which == 'b';
  if (input != (*element == Element::f16 || *element == Element::byte) &&
      !(form.which == 'c' && *element == Element::f16))
    return b.fail("this element type of a wmma fragment");
  form.column = i.has("col");
  return emit_transfer(b, i, store ? store_fragment : load_fragment, form,
                       form.column ? form.rows() : form.columns(), form.registers());
}

bool emit_product(Builder& b, const Instruction& i, Handler fn, u16 flags, const u32 (&counts)[4]) {
  std::vector<Vreg> v[4];
  for (unsigned k = 1; k < 4; ++k)
    for (const auto* o : elements(b, i.operand(k), counts[k])) v[k].push_back(b.in(*o, 4));
  for (const auto* o : elements(b, i.operand(0), counts[0])) v[0].push_back(b.out(*o, 4));
  if (b.failed()) return true;
  Draft& d = b.emit(fn).aux(flags);
  for (unsigned n = 0; n < v[0].size(); ++n) d.def(n, v[0][n]);
  for (unsigned k = 1; k < 4; ++k) {
    Draft& more = b.extend();
    for (unsigned n = 0; n < v[k].size(); ++n) more.use(n, v[k][n]);
  }
  return true;
}

// wmma.mma.sync.aligned.row.col.m8n8k32.s32.s4.s4.s32{.satfinite},
// wmma.mma.xor.popc....m8n8k128.s32.b1.b1.s32
bool decode_small_product(Builder& b, const Instruction& i) {
  const std::size_t n = i.parts() - (i.has("satfinite") ? 1 : 0);
  const std::string_view of_b = i.part(n - 2), of_a = i.part(n - 3);
  const auto is_small = [](std::string_view type) { return type == "s4" || type == "u4"; };
  u16 flags = 0;
  if (small_bits(i) == 1) {
    if (of_a != "b1" || of_b != "b1" || !i.has("xor") || !i.has("popc") || i.has("satfinite"))
      return b.fail("this form of wmma on single bits");
    flags = single_bits;
  } else {
    if (!is_small(of_a) || !is_small(of_b)) return b.fail("this element type of wmma");
    flags = static_cast<u16>((of_a == "u4" ? a_unsigned : 0) | (of_b == "u4" ? b_unsigned : 0) |
                             (i.has("satfinite") ? saturate : 0));
  }
  return emit_product(b, i, multiply_small, flags, {2, 1, 1, 2});
}

// wmma.mma.sync.aligned.row.col.m16n16k16.f32.f16 d, a, b, c;  ...s32.s8.s8.s32{.satfinite}
bool decode_product(Builder& b, const Instruction& i) {
  if (small_bits(i) != 0 && i.operands() == 4) return decode_small_product(b, i);
  const auto shape = shape_of(i);
  if (!shape || i.operands() != 4) return b.fail("this shape of wmma");
  const std::size_t n = i.parts() - (i.has("satfinite") ? 1 : 0);
  const std::string_view last = i.part(n - 1), before = i.part(n - 2);
  if (last == "s32") {
    const bool bytes = before.ends_with("8") && i.part(n - 3).ends_with("8");
    if (!bytes) return b.fail("this element type of wmma");
    static constexpr Handler handlers[] = {multiply_bytes<16, 16>, multiply_bytes<8, 32>,
                                           multiply_bytes<32, 8>};
    const auto flags =
        static_cast<u16>((i.part(n - 3)[0] == 'u' ? a_unsigned : 0) | (before[0] == 'u' ? b_unsigned : 0) |
                         (i.has("satfinite") ? saturate : 0));
    return emit_product(b, i, handlers[*shape], flags, {8, shapes[*shape].m / 8, shapes[*shape].n / 8, 8});
  }
  if ((last != "f16" && last != "f32") || (before != "f16" && before != "f32") || i.has("bf16") ||
      i.has("satfinite"))
    return b.fail("this element type of wmma");
  static constexpr Handler handlers[] = {multiply_halves<16, 16>, multiply_halves<8, 32>,
                                         multiply_halves<32, 8>};
  const auto flags = static_cast<u16>((before == "f32" ? wide_result : 0) | (last == "f32" ? wide_sum : 0));
  return emit_product(b, i, handlers[*shape], flags,
                      {before == "f32" ? 8U : 4U, 8, 8, last == "f32" ? 8U : 4U});
}

}  // namespace

bool decode_wmma(Builder& b, const Instruction& i) {
  if (i.name() != "wmma") return false;
  if (i.part(1) == "mma") return decode_product(b, i);
  if (i.part(1) == "load" || i.part(1) == "store") return decode_transfer(b, i);
  return b.fail("this form of wmma");
}

}  // namespace softgpu::exec::SOFTGPU_ISA
