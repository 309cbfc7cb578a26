// ld, ldu, st: global, shared, local, const, generic and parameter memory, with vectors.
#include <type_traits>

#include "softgpu/exec/address.hpp"

namespace softgpu::exec::SOFTGPU_ISA {

namespace {

// T in memory, D in the register; N elements a lane in r1..rN.
template <class T, class D, unsigned N>
const Op* load(Context& c, const Op* op) {
  Hosts h;
  hosts_of(c, op, sizeof(T) * N, h);
  if (N == 1 && c.mask == all_lanes && contiguous(h, sizeof(T))) {
    const T* p = reinterpret_cast<const T*>(h.at[0]);
    D* d = reg<D>(c, op->r[1]);
    SOFTGPU_LANES d[i] = static_cast<D>(p[i]);
    return op + 1;
  }
  alignas(64) D t[N][lanes];
  SOFTGPU_EACH_LANE {
    const T* p = reinterpret_cast<const T*>(h.at[i]);
    for (unsigned n = 0; n < N; ++n) t[n][i] = static_cast<D>(p[n]);
  }
  for (unsigned n = 0; n < N; ++n) merge(c.mask, reg<D>(c, op->r[1 + n]), t[n]);
  return op + 1;
}

template <class T, class S, unsigned N>
const Op* store(Context& c, const Op* op) {
  Hosts h;
  hosts_of(c, op, sizeof(T) * N, h);
  if (N == 1 && c.mask == all_lanes && contiguous(h, sizeof(T))) {
    T* p = reinterpret_cast<T*>(h.at[0]);
    const S* s = reg<S>(c, op->r[1]);
    SOFTGPU_LANES p[i] = static_cast<T>(s[i]);
    return op + 1;
  }
  const S* s[N];
  for (unsigned n = 0; n < N; ++n) s[n] = reg<S>(c, op->r[1 + n]);
  if (c.mask == all_lanes) {
    SOFTGPU_EACH_LANE {
      T* p = reinterpret_cast<T*>(h.at[i]);
      for (unsigned n = 0; n < N; ++n) p[n] = static_cast<T>(s[n][i]);
    }
    return op + 1;
  }
  each_active(c.mask, [&](unsigned i) {
    T* p = reinterpret_cast<T*>(h.at[i]);
    for (unsigned n = 0; n < N; ++n) p[n] = static_cast<T>(s[n][i]);
  });
  return op + 1;
}

// A kernel parameter at a fixed offset: the same value in every lane.
template <class T, class D>
const Op* load_param(Context& c, const Op* op) {
  if (op->imm + sizeof(T) > c.grid->params_size) raise_fault(c, op, Fault::illegal_address, op->imm);
  T v;
  std::memcpy(&v, reinterpret_cast<const char*>(c.grid->params.data()) + op->imm, sizeof v);
  const D x = static_cast<D>(v);
  each(c, reg<D>(c, op->r[0]), [=](unsigned) -> D { return x; });
  return op + 1;
}

// Parameters of device functions lie in words of 32 lanes: r1 (and r2) the words, imm the shift within.
template <class T, class D>
const Op* load_area(Context& c, const Op* op) {
  const u32* w = reg<u32>(c, op->r[1]);
  const u64 shift = op->imm;
  if constexpr (sizeof(T) == 8) {
    const u32* x = reg<u32>(c, op->r[2]);
    each(c, reg<D>(c, op->r[0]), [=](unsigned i) -> D {
      return static_cast<D>(static_cast<T>(w[i] | static_cast<u64>(x[i]) << 32));
    });
  } else {
    each(c, reg<D>(c, op->r[0]),
         [=](unsigned i) -> D { return static_cast<D>(static_cast<T>(w[i] >> shift)); });
  }
  return op + 1;
}
template <unsigned Bytes, class S>
const Op* store_area(Context& c, const Op* op) {
  const S* s = reg<S>(c, op->r[0]);
  u32* w = reg<u32>(c, op->r[1]);
  const u64 shift = op->imm;
  if constexpr (Bytes == 8) {
    u32* x = reg<u32>(c, op->r[2]);
    each(c, w, [=](unsigned i) -> u32 { return static_cast<u32>(s[i]); });
    each(c, x, [=](unsigned i) -> u32 { return static_cast<u32>(static_cast<u64>(s[i]) >> 32); });
  } else if constexpr (Bytes == 4) {
    each(c, w, [=](unsigned i) -> u32 { return static_cast<u32>(s[i]); });
  } else {
    const u32 keep = ~(((1U << (8 * Bytes)) - 1) << shift);
    each(c, w, [=](unsigned i) -> u32 { return (w[i] & keep) | (static_cast<u32>(s[i]) << shift & ~keep); });
  }
  return op + 1;
}

// Floats in memory count as their bits.
ptx::Type bits_type(ptx::Type t) {
  using ptx::Type;
  switch (t) {
    case Type::f16:
    case Type::bf16:
      return Type::b16;
    case Type::f16x2:
    case Type::bf16x2:
    case Type::f32:
      return Type::b32;
    case Type::f64:
      return Type::b64;
    default:
      return t;
  }
}

template <class F>
bool with_memory_type(ptx::Type t, F f) {
  return with_any_integer(bits_type(t), [&](auto tag) {
    using T = typename decltype(tag)::type;
    f(Tag<std::conditional_t<sizeof(T) == 8, u64, T>>{});  // nothing is wider: their sign says nothing
  });
}

template <unsigned N>
Handler load_handler(ptx::Type t, u32 width) {
  Handler fn = nullptr;
  with_memory_type(t, [&](auto m) {
    using T = typename decltype(m)::type;
    with_bytes(width, [&](auto d) {
      using D = typename decltype(d)::type;
      if constexpr (sizeof(D) >= sizeof(T)) fn = &load<T, D, N>;
    });
  });
  return fn;
}
template <unsigned N>
Handler store_handler(ptx::Type t, u32 width) {
  Handler fn = nullptr;
  with_memory_type(t, [&](auto m) {
    using T = std::make_unsigned_t<typename decltype(m)::type>;
    with_bytes(width, [&](auto d) {
      using D = typename decltype(d)::type;
      if constexpr (sizeof(D) >= sizeof(T)) fn = &store<T, D, N>;
    });
  });
  return fn;
}

std::vector<const ptx::Operand*> elements_of(const ptx::Operand& o) {
  std::vector<const ptx::Operand*> v;
  if (const auto* list = std::get_if<ptx::VectorOperand>(&o.value)) {
    for (const auto& e : list->elements) v.push_back(&e);
  } else {
    v.push_back(&o);
  }
  return v;
}

}  // namespace

bool decode_memory(Builder& b, const Instruction& i) {
  const std::string_view name = i.name();
  const bool is_load = name == "ld" || name == "ldu";
  if (!is_load && name != "st") return false;
  const ptx::Type type = i.type();
  const u32 bytes = ptx::size_of(type);
  if (i.operands() < 2 || bytes == 0 || bytes > 8) return b.fail("memory access of this type");
  if (i.has("shared::cluster") || i.has("async")) return b.fail("clusters are not supported");
  const auto elements = elements_of(i.operand(is_load ? 0 : 1));
  const auto count = static_cast<u32>(elements.size());
  const auto a = b.address(i.operand(is_load ? 1 : 0));
  if (!a) return true;
  if ((count != 1 && count != 2 && count != 4) || count * bytes > 16) return b.fail("vector of this size");
  auto width = [&](const ptx::Operand& o) { return b.width_of(o, bytes < 2 ? 2 : bytes); };

  if (a->symbol.kind == Symbol::Kind::kernel_param) {
    if (!is_load) return b.fail("store to a kernel parameter");
    for (u32 k = 0; k < count; ++k) {
      const u32 w = width(*elements[k]);
      Handler fn = nullptr;
      with_memory_type(type, [&](auto m) {
        using T = typename decltype(m)::type;
        with_bytes(w, [&](auto d) {
          using D = typename decltype(d)::type;
          if constexpr (sizeof(D) >= sizeof(T)) fn = &load_param<T, D>;
        });
      });
      if (fn == nullptr) return b.fail("register narrower than the parameter's type");
      b.emit(fn)
          .def(0, b.out(*elements[k], w))
          .imm(a->symbol.value + static_cast<u64>(a->offset) + k * bytes);
    }
    return true;
  }
  if (a->symbol.kind == Symbol::Kind::area) {
    for (u32 k = 0; k < count; ++k) {
      const u64 at = static_cast<u64>(a->offset) + k * bytes;
      if (at % (bytes > 4 ? 4 : bytes) != 0 || at + bytes > (a->symbol.bytes + 3) / 4 * 4)
        return b.fail("parameter access outside its variable");
      const auto word = static_cast<Vreg>(a->symbol.value + at / 4);
      const u64 shift = 8 * (at % 4);
      const u32 w = width(*elements[k]);
      Handler fn = nullptr;
      with_memory_type(type, [&](auto m) {
        using T = typename decltype(m)::type;
        with_bytes(w, [&](auto d) {
          using D = typename decltype(d)::type;
          if constexpr (sizeof(D) >= sizeof(T)) {
            if (is_load) {
              fn = &load_area<T, D>;
            } else {
              fn = &store_area<sizeof(T), D>;
            }
          }
        });
      });
      if (fn == nullptr) return b.fail("register narrower than the parameter's type");
      const bool is_float = type == ptx::Type::f32 || type == ptx::Type::f64;
      const Vreg v = is_load ? b.out(*elements[k], w) : b.in(*elements[k], w, is_float);
      Draft& d = b.emit(fn).imm(shift);
      if (is_load) {
        d.def(0, v).use(1, word);
        if (bytes == 8) d.use(2, word + 1);
      } else {
        d.use(0, v).def(1, word);
        if (bytes == 8) d.def(2, word + 1);
      }
    }
    return true;
  }

  u32 w = bytes < 2 ? 2 : bytes;
  for (const auto* e : elements) w = std::max(w, width(*e));
  const Handler fn = is_load ? (count == 1   ? load_handler<1>(type, w)
                                : count == 2 ? load_handler<2>(type, w)
                                             : load_handler<4>(type, w))
                             : (count == 1   ? store_handler<1>(type, w)
                                : count == 2 ? store_handler<2>(type, w)
                                             : store_handler<4>(type, w));
  if (fn == nullptr) return b.fail("register narrower than the memory type");
  Vreg v[4];
  const bool is_float = type == ptx::Type::f32 || type == ptx::Type::f64;
  for (u32 k = 0; k < count; ++k) v[k] = is_load ? b.out(*elements[k], w) : b.in(*elements[k], w, is_float);
  Draft& d = b.emit(fn);
  for (u32 k = 0; k < count; ++k) {
    if (is_load) {
      d.def(1 + k, v[k]);
    } else {
      d.use(1 + k, v[k]);
    }
  }
  // Loads that poll mark their loop as one that may spin (flow.cpp).
  if (is_load && (i.has("volatile") || i.has("acquire") || i.has("relaxed") || i.has("mmio"))) d.csr(0xffff);
  use_address(b, d, *a, where_of(i));
  return true;
}

}  // namespace softgpu::exec::SOFTGPU_ISA
