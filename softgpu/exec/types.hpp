// Choosing a handler template by a PTX type. For files of an ISA level.
#pragma once

#include "softgpu/exec/groups.hpp"
#include "softgpu/exec/lanes.hpp"

namespace softgpu::exec::SOFTGPU_ISA {

template <class T>
struct Tag {
  using type = T;
};

/// f(Tag<T>) for the integer type; false when `t` is none. Bit types count as unsigned.
template <class F>
bool with_integer(ptx::Type t, F f) {
  using ptx::Type;
  switch (t) {
    case Type::b16:
    case Type::u16:
      f(Tag<u16>{});
      return true;
    case Type::s16:
      f(Tag<s16>{});
      return true;
    case Type::b32:
    case Type::u32:
      f(Tag<u32>{});
      return true;
    case Type::s32:
      f(Tag<s32>{});
      return true;
    case Type::b64:
    case Type::u64:
      f(Tag<u64>{});
      return true;
    case Type::s64:
      f(Tag<s64>{});
      return true;
    default:
      return false;
  }
}

/// The same with integers of 8 bits.
template <class F>
bool with_any_integer(ptx::Type t, F f) {
  if (t == ptx::Type::u8 || t == ptx::Type::b8) return f(Tag<u8>{}), true;
  if (t == ptx::Type::s8) return f(Tag<s8>{}), true;
  return with_integer(t, f);
}

/// f(Tag<unsigned type>) for 2, 4 or 8 bytes.
template <class F>
bool with_bytes(u32 bytes, F f) {
  switch (bytes) {
    case 2:
      f(Tag<u16>{});
      return true;
    case 4:
      f(Tag<u32>{});
      return true;
    case 8:
      f(Tag<u64>{});
      return true;
    default:
      return false;
  }
}

// d = f(a), d = f(a, b), d = f(a, b, c) lane by lane; r0 is the destination.
template <class F, class D, class A>
const Op* unary(Context& c, const Op* op) {
  const A* a = reg<A>(c, op->r[1]);
  each(c, reg<D>(c, op->r[0]), [=](unsigned i) -> D { return F::f(a[i]); });
  return op + 1;
}
template <class F, class D, class A, class B>
const Op* binary(Context& c, const Op* op) {
  const A* a = reg<A>(c, op->r[1]);
  const B* b = reg<B>(c, op->r[2]);
  each(c, reg<D>(c, op->r[0]), [=](unsigned i) -> D { return F::f(a[i], b[i]); });
  return op + 1;
}
template <class F, class D, class A, class B, class C>
const Op* ternary(Context& c, const Op* op) {
  const A* a = reg<A>(c, op->r[1]);
  const B* b = reg<B>(c, op->r[2]);
  const C* e = reg<C>(c, op->r[3]);
  each(c, reg<D>(c, op->r[0]), [=](unsigned i) -> D { return F::f(a[i], b[i], e[i]); });
  return op + 1;
}

/// Emits an op whose operands all have `bytes`.
inline Draft& emit_simple(Builder& b, const Instruction& i, Handler fn, u32 bytes, bool is_float = false) {
  Vreg v[4] = {};
  for (unsigned k = 1; k < i.operands() && k < 4; ++k) v[k] = b.in(i.operand(k), bytes, is_float);
  const Vreg d = b.out(i.operand(0), bytes);
  Draft& draft = b.emit(fn).def(0, d);
  for (unsigned k = 1; k < i.operands() && k < 4; ++k) draft.use(k, v[k]);
  return draft;
}

}  // namespace softgpu::exec::SOFTGPU_ISA
