// atom and red in global, shared and generic memory. Every operation is sequentially consistent across
// threads, which covers all of PTX's orders and scopes.
#include <type_traits>

#include "softgpu/exec/address.hpp"
#include "softgpu/exec/floats.hpp"

namespace softgpu::exec::SOFTGPU_ISA {

namespace {

// Replaces *p by f(old) until no other thread interferes; returns old.
template <class T, class F>
T update(T* p, F f) {
  T old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(p, &old, f(old), false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
  }
  return old;
}

struct Exch {
  template <class T>
  static T f(T* p, T b) {
    return __atomic_exchange_n(p, b, __ATOMIC_SEQ_CST);
  }
};
struct Add {
  template <class T>
  static T f(T* p, T b) {
    return __atomic_fetch_add(p, b, __ATOMIC_SEQ_CST);
  }
};
struct And {
  template <class T>
  static T f(T* p, T b) {
    return __atomic_fetch_and(p, b, __ATOMIC_SEQ_CST);
  }
};
struct Or {
  template <class T>
  static T f(T* p, T b) {
    return __atomic_fetch_or(p, b, __ATOMIC_SEQ_CST);
  }
};
struct Xor {
  template <class T>
  static T f(T* p, T b) {
    return __atomic_fetch_xor(p, b, __ATOMIC_SEQ_CST);
  }
};
struct Min {
  template <class T>
  static T f(T* p, T b) {
    return update(p, [b](T old) { return old < b ? old : b; });
  }
};
struct Max {
  template <class T>
  static T f(T* p, T b) {
    return update(p, [b](T old) { return old < b ? b : old; });
  }
};
struct Inc {
  static u32 f(u32* p, u32 b) {
    return update(p, [b](u32 old) { return old >= b ? 0 : old + 1; });
  }
};
struct Dec {
  static u32 f(u32* p, u32 b) {
    return update(p, [b](u32 old) { return old == 0 || old > b ? b : old - 1; });
  }
};
// Global memory's f32 addition flushes subnormals, shared memory's does not.
template <bool Flush>
struct AddFloat {
  static u32 f(u32* p, u32 b) {
    return update(p, [b](u32 old) {
      float x = std::bit_cast<float>(old), y = std::bit_cast<float>(b);
      if (Flush) x = flushed(x), y = flushed(y);
      const float r = canonical(x + y);
      return std::bit_cast<u32>(Flush ? flushed(r) : r);
    });
  }
};
struct AddDouble {
  static u64 f(u64* p, u64 b) {
    return update(p, [b](u64 old) {
      return std::bit_cast<u64>(std::bit_cast<double>(old) + std::bit_cast<double>(b));
    });
  }
};
u16 add_half(u16 a, u16 b) {
  return double_to_half_one(
      static_cast<double>(half_to_float_one(a)) + static_cast<double>(half_to_float_one(b)), Round::nearest);
}
u16 add_brain(u16 a, u16 b) {
  const float r =
      std::bit_cast<float>(static_cast<u32>(a) << 16) + std::bit_cast<float>(static_cast<u32>(b) << 16);
  const u32 u = std::bit_cast<u32>(r);
  return r != r ? u16{0x7fff} : static_cast<u16>((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
template <bool Brain>
struct AddHalf {
  static u16 one(u16 a, u16 b) { return Brain ? add_brain(a, b) : add_half(a, b); }
  static u16 f(u16* p, u16 b) {
    return update(p, [b](u16 old) { return one(old, b); });
  }
};
template <bool Brain>
struct AddHalf2 {
  static u32 f(u32* p, u32 b) {
    return update(p, [b](u32 old) {
      const u32 low = AddHalf<Brain>::one(static_cast<u16>(old), static_cast<u16>(b));
      const u32 high = AddHalf<Brain>::one(static_cast<u16>(old >> 16), static_cast<u16>(b >> 16));
      return high << 16 | low;
    });
  }
};

// r0 address, r1 old value, r2 operand, r3 second operand.
template <class F, class T>
const Op* atomic(Context& c, const Op* op) {
  Hosts h;
  hosts_of(c, op, sizeof(T), h);
  use_csr(c, csr_rn);
  T* d = reg<T>(c, op->r[1]);
  const T* b = reg<T>(c, op->r[2]);
  each_active(c.mask, [&](unsigned i) { d[i] = F::f(reinterpret_cast<T*>(h.at[i]), b[i]); });
  return op + 1;
}
template <class T>
const Op* compare_and_swap(Context& c, const Op* op) {
  Hosts h;
  hosts_of(c, op, sizeof(T), h);
  T* d = reg<T>(c, op->r[1]);
  const T* b = reg<T>(c, op->r[2]);
  const T* e = reg<T>(c, op->r[3]);
  each_active(c.mask, [&](unsigned i) {
    T expected = b[i];
    __atomic_compare_exchange_n(reinterpret_cast<T*>(h.at[i]), &expected, e[i], false, __ATOMIC_SEQ_CST,
                                __ATOMIC_SEQ_CST);
    d[i] = expected;
  });
  return op + 1;
}

}  // namespace

bool decode_atomic(Builder& b, const Instruction& i) {
  using ptx::Type;
  const std::string_view name = i.name();
  if (name != "atom" && name != "red") return false;
  const bool returns = name == "atom";
  const Type type = i.type();
  if (i.has("v2") || i.has("v4") || i.has("v8") || i.has("async") || i.has("shared::cluster"))
    return b.fail("this atomic form");
  const Where where = where_of(i);
  const u32 bytes = ptx::size_of(type);
  Handler fn = nullptr;
  bool two = false;
  if (type == Type::f32 && i.has("add"))
    fn = where == Where::shared ? &atomic<AddFloat<false>, u32> : &atomic<AddFloat<true>, u32>;
  if (type == Type::f64 && i.has("add")) fn = &atomic<AddDouble, u64>;
  if (type == Type::f16 && i.has("add")) fn = &atomic<AddHalf<false>, u16>;
  if (type == Type::f16x2 && i.has("add")) fn = &atomic<AddHalf2<false>, u32>;
  if (type == Type::bf16 && i.has("add")) fn = &atomic<AddHalf<true>, u16>;
  if (type == Type::bf16x2 && i.has("add")) fn = &atomic<AddHalf2<true>, u32>;
  with_integer(type, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using U = std::make_unsigned_t<T>;
    if (i.has("cas")) {
      fn = &compare_and_swap<U>;
      two = true;
    }
    if (i.has("exch")) fn = &atomic<Exch, U>;
    if constexpr (sizeof(T) >= 4) {
      if (i.has("add")) fn = &atomic<Add, U>;
      if (i.has("and")) fn = &atomic<And, U>;
      if (i.has("or")) fn = &atomic<Or, U>;
      if (i.has("xor")) fn = &atomic<Xor, U>;
      if (i.has("min")) fn = &atomic<Min, T>;
      if (i.has("max")) fn = &atomic<Max, T>;
    }
    if constexpr (sizeof(T) == 4) {
      if (i.has("inc")) fn = &atomic<Inc, u32>;
      if (i.has("dec")) fn = &atomic<Dec, u32>;
    }
  });
  const std::size_t first = returns ? 1 : 0;
  if (fn == nullptr || i.operands() < first + (two ? 3 : 2)) return b.fail("this atomic form");
  const auto a = b.address(i.operand(first));
  if (!a) return true;
  const bool is_float = type == Type::f32 || type == Type::f64;
  const Vreg x = b.in(i.operand(first + 1), bytes, is_float), y = two ? b.in(i.operand(first + 2), bytes) : x;
  const Vreg d = returns ? b.out(i.operand(0), bytes) : b.temp(bytes);
  Draft& draft = b.emit(fn).def(1, d).use(2, x);
  if (two) draft.use(3, y);
  draft.csr(0xffff);
  use_address(b, draft, *a, where);
  return true;
}

}  // namespace softgpu::exec::SOFTGPU_ISA
