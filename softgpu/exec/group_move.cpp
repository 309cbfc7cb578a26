// mov with packing and unpacking, cvta, isspacep.
#include "softgpu/exec/types.hpp"
#include "softgpu/memory/address_space.hpp"

namespace softgpu::exec::SOFTGPU_ISA {

namespace {

template <class T>
const Op* copy(Context& c, const Op* op) {
  const T* a = reg<T>(c, op->r[1]);
  each(c, reg<T>(c, op->r[0]), [=](unsigned i) -> T { return a[i]; });
  return op + 1;
}
const Op* copy_predicate(Context& c, const Op* op) {
  set_predicate(c, op->r[0], *reg<u32>(c, op->r[1]));
  return op + 1;
}
// d |= or = part << imm; aux 1: the first part.
template <class D, class S>
const Op* pack(Context& c, const Op* op) {
  const S* a = reg<S>(c, op->r[1]);
  D* d = reg<D>(c, op->r[0]);
  const u64 shift = op->imm;
  if (op->aux != 0) {
    each(c, d, [=](unsigned i) -> D { return a[i]; });
  } else {
    each(c, d, [=](unsigned i) -> D { return d[i] | static_cast<D>(a[i]) << shift; });
  }
  return op + 1;
}
template <class D, class S>
const Op* unpack(Context& c, const Op* op) {
  const S* a = reg<S>(c, op->r[1]);
  const u64 shift = op->imm;
  each(c, reg<D>(c, op->r[0]), [=](unsigned i) -> D { return static_cast<D>(a[i] >> shift); });
  return op + 1;
}
const Op* add_constant(Context& c, const Op* op) {
  const u64* a = reg<u64>(c, op->r[1]);
  const u64 k = op->imm;
  each(c, reg<u64>(c, op->r[0]), [=](unsigned i) -> u64 { return a[i] + k; });
  return op + 1;
}
// Inside [imm, imm + 2^aux).
const Op* in_window(Context& c, const Op* op) {
  const u64* a = reg<u64>(c, op->r[1]);
  const u64 base = op->imm, size = u64{1} << op->aux;
  set_predicate(c, op->r[0], bits_of([=](unsigned i) { return a[i] - base < size; }));
  return op + 1;
}
const Op* outside_windows(Context& c, const Op* op) {
  const u64* a = reg<u64>(c, op->r[1]);
  set_predicate(c, op->r[0], bits_of([=](unsigned i) {
                  return !(a[i] - shared_window_base < shared_window_size) &&
                         !(a[i] - local_window_base < local_window_size);
                }));
  return op + 1;
}

bool pack_parts(Builder& b, const Instruction& i, const ptx::VectorOperand& v, u32 bytes) {
  const u32 part = bytes / static_cast<u32>(v.elements.size());
  const Vreg d = b.out(i.operand(0), bytes);
  Vreg parts[4];
  for (std::size_t k = 0; k < v.elements.size(); ++k) parts[k] = b.in(v.elements[k], part);
  // Through a temporary, since the destination may be one of the parts.
  const Vreg t = b.temp(bytes);
  const Handler fn = bytes == 4 ? &pack<u32, u16> : part == 2 ? &pack<u64, u16> : &pack<u64, u32>;
  for (u32 k = 0; k < v.elements.size(); ++k) {
    const bool last = k + 1 == v.elements.size();
    if (k == 0) {
      b.emit(fn).def(0, t).use(1, parts[k]).aux(1);
    } else {
      b.emit(fn).def(0, t).use(0, t).use(1, parts[k]).imm(8 * part * k);
    }
    if (last) b.emit(bytes == 4 ? &copy<u32> : &copy<u64>).def(0, d).use(1, t);
  }
  return true;
}

bool unpack_parts(Builder& b, const Instruction& i, const ptx::VectorOperand& v, u32 bytes) {
  const u32 part = bytes / static_cast<u32>(v.elements.size());
  const Vreg a = b.in(i.operand(1), bytes);
  const Handler fn = bytes == 4 ? &unpack<u16, u32> : part == 2 ? &unpack<u16, u64> : &unpack<u32, u64>;
  for (u32 k = 0; k < v.elements.size(); ++k) {
    const auto* n = std::get_if<ptx::NameOperand>(&v.elements[k].value);
    if (n != nullptr && n->name == "_") continue;
    b.emit(fn).def(0, b.out(v.elements[k], part)).use(1, a).imm(8 * part * k);
  }
  return true;
}

bool decode_mov(Builder& b, const Instruction& i) {
  const ptx::Type type = i.type();
  if (type == ptx::Type::pred) {
    const Vreg a = b.in(i.operand(1), 0);
    b.emit(&copy_predicate).def(0, b.out(i.operand(0), 0)).use(1, a);
    return true;
  }
  const u32 bytes = Builder::register_bytes(type);
  if (bytes != 2 && bytes != 4 && bytes != 8) return b.fail("mov of this type");
  auto fits = [&](const ptx::VectorOperand& v) {
    return (v.elements.size() == 2 && bytes >= 4) || (v.elements.size() == 4 && bytes == 8);
  };
  if (const auto* v = std::get_if<ptx::VectorOperand>(&i.operand(1).value))
    return fits(*v) ? pack_parts(b, i, *v, bytes) : b.fail("mov from this vector");
  if (const auto* v = std::get_if<ptx::VectorOperand>(&i.operand(0).value))
    return fits(*v) ? unpack_parts(b, i, *v, bytes) : b.fail("mov to this vector");
  const std::size_t before = b.drafts.size();
  const Vreg a = b.in(i.operand(1), bytes, type == ptx::Type::f32 || type == ptx::Type::f64);
  const Vreg d = b.out(i.operand(0), bytes);
  // A special register or address that was just computed into a temporary goes straight to the destination.
  if (b.drafts.size() == before + 1 && b.drafts.back().defs == 1 && b.drafts.back().op.r[0] == a) {
    b.drafts.back().def(0, d);
    return true;
  }
  b.emit(bytes == 2 ? &copy<u16> : bytes == 4 ? &copy<u32> : &copy<u64>).def(0, d).use(1, a);
  return true;
}

}  // namespace

bool decode_move(Builder& b, const Instruction& i) {
  const std::string_view name = i.name();
  if (name == "mov") return i.operands() == 2 ? decode_mov(b, i) : b.fail("mov form");
  const bool shared = i.has("shared") || i.has("shared::cta"), local = i.has("local");
  if (name == "cvta") {
    if (i.type() != ptx::Type::u64) return b.fail("32-bit addresses");
    const Vreg a = b.in(i.operand(1), 8), d = b.out(i.operand(0), 8);
    u64 base = shared ? shared_window_base : local ? local_window_base : 0;
    if (i.part(1) == "to") base = 0 - base;
    if (base == 0) {
      b.emit(&copy<u64>).def(0, d).use(1, a);
    } else {
      b.emit(&add_constant).def(0, d).use(1, a).imm(base);
    }
    return true;
  }
  if (name == "isspacep") {
    const Vreg a = b.in(i.operand(1), 8), d = b.out(i.operand(0), 0);
    if (shared) {
      b.emit(&in_window)
          .def(0, d)
          .use(1, a)
          .imm(shared_window_base)
          .aux(static_cast<u16>(std::countr_zero(shared_window_size)));
    } else if (local) {
      b.emit(&in_window)
          .def(0, d)
          .use(1, a)
          .imm(local_window_base)
          .aux(static_cast<u16>(std::countr_zero(local_window_size)));
    } else if (i.has("global")) {
      b.emit(&outside_windows).def(0, d).use(1, a);
    } else {
      return b.fail("isspacep of this space");
    }
    return true;
  }
  return false;
}

}  // namespace softgpu::exec::SOFTGPU_ISA
