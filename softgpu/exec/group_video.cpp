// Video instructions: arithmetic on bytes and halves chosen within registers (vadd, vmad, vset, ...) and on
// all two or four of them at once (vadd2, vabsdiff4, ...). CUDA's SIMD intrinsics compile to some of these.
// They are rare, so one handler computes every form, lane by lane. Source: PTX ISA, "Scalar/SIMD Video
// Instructions".
#include <algorithm>
#include <optional>

#include "softgpu/exec/types.hpp"

namespace softgpu::exec::SOFTGPU_ISA {

namespace {

enum class Kind : u8 { add, sub, absdiff, min, max, avrg, set, mad, shl, shr };
enum class Compare : u8 { eq, ne, lt, le, gt, ge };
enum class Second : u8 { none, add, min, max };

// What a mnemonic and its selectors say; travels in Op::imm.
struct Form {
  Kind kind = Kind::add;
  Compare compare = Compare::eq;
  Second second = Second::none;
  u8 parts = 1;  ///< 1, 2 or 4 numbers a register
  u8 flags = 0;
  u8 a_select = 0, b_select = 0, d_select = 0;  ///< 0: all; 1-4: byte; 5, 6: half
};
static_assert(sizeof(Form) == sizeof(u64));

constexpr u8 a_signed = 1, b_signed = 2, d_signed = 4, saturate = 8, plus_one = 32, negate_product = 64,
             negate_addend = 128;
constexpr u8 wrap = 16;  ///< shift amounts

u32 selected_width(u8 select) {
  return select == 0 ? 32 : select <= 4 ? 8 : 16;
}
u32 selected_place(u8 select) {
  return select == 0 ? 0 : select <= 4 ? 8U * (select - 1U) : 16U * (select - 5U);
}

s64 field(u32 word, u32 place, u32 width, bool is_signed) {
  const u64 raw = u64{word} >> place & ((u64{1} << width) - 1);
  if (is_signed && (raw >> (width - 1)) != 0) return static_cast<s64>(raw) - (s64{1} << width);
  return static_cast<s64>(raw);
}

s64 clamped(s128 v, u32 width, bool is_signed) {
  const s64 low = is_signed ? -(s64{1} << (width - 1)) : 0;
  const s64 high = is_signed ? (s64{1} << (width - 1)) - 1 : (s64{1} << width) - 1;
  return v < low ? low : v > high ? high : static_cast<s64>(v);
}

bool compared(Compare compare, s64 a, s64 b) {
  switch (compare) {
    case Compare::eq:
      return a == b;
    case Compare::ne:
      return a != b;
    case Compare::lt:
      return a < b;
    case Compare::le:
      return a <= b;
    case Compare::gt:
      return a > b;
    case Compare::ge:
      return a >= b;
  }
  return false;
}

s128 combined(const Form& form, s64 a, s64 b) {
  switch (form.kind) {
    case Kind::add:
      return a + b;
    case Kind::sub:
      return a - b;
    case Kind::absdiff:
      return a < b ? b - a : a - b;
    case Kind::min:
      return std::min(a, b);
    case Kind::max:
      return std::max(a, b);
    case Kind::avrg:
      return (a + b + (a + b >= 0 ? 1 : 0)) >> 1;
    case Kind::set:
      return compared(form.compare, a, b) ? 1 : 0;
    case Kind::shl:
      return static_cast<s128>(a) * (s64{1} << ((form.flags & wrap) != 0 ? b & 31 : std::min<s64>(b, 32)));
    case Kind::shr:
      return a >> ((form.flags & wrap) != 0 ? b & 31 : std::min<s64>(b, 32));
    case Kind::mad:
      return 0;
  }
  return 0;
}

// The scalar instructions' last step: a second operation with c, or inserting into c.
u32 finished(const Form& form, s128 value, u32 c) {
  const bool is_signed = (form.flags & d_signed) != 0;
  const s64 other = is_signed ? s64{static_cast<s32>(c)} : s64{c};
  const s64 mine = is_signed ? s64{static_cast<s32>(value)} : s64{static_cast<u32>(value)};
  switch (form.second) {
    case Second::add:
      return static_cast<u32>(mine + other);
    case Second::min:
      return static_cast<u32>(std::min(mine, other));
    case Second::max:
      return static_cast<u32>(std::max(mine, other));
    case Second::none:
      break;
  }
  if (form.d_select == 0) return static_cast<u32>(value);
  const u32 place = selected_place(form.d_select);
  const auto mask = static_cast<u32>(((u64{1} << selected_width(form.d_select)) - 1) << place);
  return (c & ~mask) | (static_cast<u32>(value) << place & mask);
}

u32 scalar(const Form& form, u32 a, u32 b, u32 c) {
  const s64 x =
      field(a, selected_place(form.a_select), selected_width(form.a_select), (form.flags & a_signed) != 0);
  const s64 y =
      field(b, selected_place(form.b_select), selected_width(form.b_select), (form.flags & b_signed) != 0);
  s128 value = combined(form, x, y);
  if ((form.flags & saturate) != 0)
    value = clamped(value, selected_width(form.d_select), (form.flags & d_signed) != 0);
  return finished(form, value, c);
}

// d = (a * b + c) >> shift, where either the product or c may be negated and one be added.
u32 multiplied(const Form& form, u32 shift, u32 a, u32 b, u32 c) {
  const s64 x =
      field(a, selected_place(form.a_select), selected_width(form.a_select), (form.flags & a_signed) != 0);
  const s64 y =
      field(b, selected_place(form.b_select), selected_width(form.b_select), (form.flags & b_signed) != 0);
  // c is signed whenever the sum is: any signed or negated operand makes it so.
  const bool is_signed = (form.flags & (a_signed | b_signed | negate_product | negate_addend)) != 0;
  const s64 z = is_signed ? s64{static_cast<s32>(c)} : s64{c};
  const s128 product = static_cast<s128>(x) * y;
  s128 sum = ((form.flags & negate_product) != 0 ? -product : product) +
             ((form.flags & negate_addend) != 0 ? -z : z);
  if ((form.flags & plus_one) != 0) sum += 1;
  sum >>= shift;
  return static_cast<u32>((form.flags & saturate) != 0 ? clamped(sum, 32, is_signed) : static_cast<s64>(sum));
}

u32 packed(const Form& form, u32 a, u32 b, u32 c) {
  const u32 width = 32U / form.parts;
  u32 d = form.second == Second::add ? c : 0;
  for (u32 k = 0; k < form.parts; ++k) {
    s128 value = combined(form, field(a, k * width, width, (form.flags & a_signed) != 0),
                          field(b, k * width, width, (form.flags & b_signed) != 0));
    if (form.second == Second::add) {
      d += static_cast<u32>(value);
      continue;
    }
    if ((form.flags & saturate) != 0) value = clamped(value, width, (form.flags & d_signed) != 0);
    d |= static_cast<u32>(field(static_cast<u32>(value), 0, width, false)) << (k * width);
  }
  return d;
}

const Op* compute(Context& c, const Op* op) {
  const auto form = std::bit_cast<Form>(op->imm);
  const u32 *x = reg<u32>(c, op->r[1]), *y = reg<u32>(c, op->r[2]), *z = reg<u32>(c, op->r[3]);
  alignas(64) u32 d[lanes];
  for (unsigned i = 0; i < lanes; ++i) {
    if (form.kind == Kind::mad) {
      d[i] = multiplied(form, op->aux, x[i], y[i], z[i]);
    } else {
      d[i] = form.parts == 1 ? scalar(form, x[i], y[i], z[i]) : packed(form, x[i], y[i], z[i]);
    }
  }
  merge(c.mask, reg<u32>(c, op->r[0]), d);
  return op + 1;
}

std::optional<Form> form_of(std::string_view name) {
  static constexpr std::pair<std::string_view, Kind> kinds[] = {
      {"vadd", Kind::add}, {"vsub", Kind::sub},   {"vabsdiff", Kind::absdiff}, {"vmin", Kind::min},
      {"vmax", Kind::max}, {"vavrg", Kind::avrg}, {"vset", Kind::set},         {"vmad", Kind::mad},
      {"vshl", Kind::shl}, {"vshr", Kind::shr}};
  Form form;
  if (name.ends_with('2') || name.ends_with('4')) {
    form.parts = static_cast<u8>(name.back() - '0');
    name.remove_suffix(1);
  }
  for (const auto& [text, kind] : kinds) {
    if (text != name) continue;
    form.kind = kind;
    if (form.parts != 1 && (kind == Kind::mad || kind == Kind::shl || kind == Kind::shr)) return std::nullopt;
    if (form.parts == 1 && kind == Kind::avrg) return std::nullopt;
    return form;
  }
  return std::nullopt;
}

std::optional<u8> selector(std::string_view element) {
  static constexpr std::string_view names[] = {"", "b0", "b1", "b2", "b3", "h0", "h1"};
  for (u8 k = 0; k < 7; ++k)
    if (names[k] == element) return k;
  return std::nullopt;
}

// Reads the words after the name: types of d, a, b, then what modifies the operation.
bool read_words(Builder& b, const Instruction& i, Form& form) {
  static constexpr std::string_view compares[] = {"eq", "ne", "lt", "le", "gt", "ge"};
  u8 types[3] = {};
  unsigned count = 0;
  const unsigned wanted = form.kind == Kind::set ? 2 : 3;
  for (std::size_t k = 1; k < i.parts(); ++k) {
    const std::string_view word = i.part(k);
    const auto* compare = std::find(std::begin(compares), std::end(compares), word);
    if ((word == "u32" || word == "s32") && count < wanted) {
      types[count++] = word == "s32" ? 1 : 0;
    } else if (word == "sat") {
      form.flags |= saturate;
    } else if (word == "wrap" || word == "clamp") {
      form.flags |= word == "wrap" ? wrap : u8{0};
    } else if (word == "po") {
      form.flags |= plus_one;
    } else if (word == "add" || word == "min" || word == "max") {
      form.second = word == "add" ? Second::add : word == "min" ? Second::min : Second::max;
    } else if (compare != std::end(compares)) {
      form.compare = static_cast<Compare>(compare - std::begin(compares));
    } else if (word != "shr7" && word != "shr15") {
      return b.fail("this form of a video instruction"), false;
    }
  }
  if (count != wanted) return b.fail("a video instruction names the types of its operands"), false;
  const u8* sources = form.kind == Kind::set ? types : types + 1;
  form.flags |= form.kind != Kind::set && types[0] != 0 ? d_signed : u8{0};
  form.flags |= sources[0] != 0 ? a_signed : u8{0};
  form.flags |= sources[1] != 0 ? b_signed : u8{0};
  return true;
}

// An operand's register and its selector; a minus is reported, not applied.
Vreg source(Builder& b, const ptx::Operand& o, u8* select, bool* minus) {
  const auto* name = std::get_if<ptx::NameOperand>(&o.value);
  if (name == nullptr) return b.in(o, 4);
  const auto place = selector(name->element);
  if (!place || (*place != 0 && select == nullptr) || (name->minus && minus == nullptr)) {
    b.fail("this selector or sign of a video instruction's operand");
    return b.constant(4, 0);
  }
  if (select != nullptr) *select = *place;
  if (minus != nullptr) *minus = name->minus;
  return b.in(ptx::Operand{ptx::NameOperand{.name = name->name}}, 4);
}

}  // namespace

bool decode_video(Builder& b, const Instruction& i) {
  if (i.name().empty() || i.name()[0] != 'v') return false;
  auto form = form_of(i.name());
  if (!form) return false;
  if (!read_words(b, i, *form)) return true;
  const bool packs = form->parts != 1, multiplies = form->kind == Kind::mad;
  bool minus[3] = {};
  const Vreg x = source(b, i.operand(1), packs ? nullptr : &form->a_select, multiplies ? &minus[0] : nullptr);
  const Vreg y = source(b, i.operand(2), packs ? nullptr : &form->b_select, multiplies ? &minus[1] : nullptr);
  const Vreg z = i.operands() > 3 ? source(b, i.operand(3), nullptr, multiplies ? &minus[2] : nullptr) : x;
  if (minus[0] != minus[1]) form->flags |= negate_product;
  if (minus[2]) form->flags |= negate_addend;
  const auto* d = std::get_if<ptx::NameOperand>(&i.operand(0).value);
  const auto place = d != nullptr ? selector(d->element) : std::nullopt;
  if (!place || (*place != 0 && (packs || multiplies)))
    return b.fail("this destination of a video instruction");
  form->d_select = *place;
  if (i.operands() < 4 && (form->second != Second::none || *place != 0 || multiplies))
    return b.fail("a video instruction with too few operands");
  b.emit(compute)
      .def(0, b.out(ptx::Operand{ptx::NameOperand{.name = d->name}}, 4))
      .use(1, x)
      .use(2, y)
      .use(3, z)
      .imm(std::bit_cast<u64>(*form))
      .aux(static_cast<u16>(i.has("shr7")    ? 7
                            : i.has("shr15") ? 15
                                             : 0));
  return true;
}

}  // namespace softgpu::exec::SOFTGPU_ISA
