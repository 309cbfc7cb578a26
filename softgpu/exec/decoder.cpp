#include <algorithm>
#include <charconv>
#include <cstring>

#include "softgpu/exec/builder.hpp"
#include "softgpu/exec/groups.hpp"
#include "softgpu/exec/machine.hpp"

namespace softgpu::exec {

using ptx::Space;
using ptx::Type;

Builder::Builder(const ptx::Function& function, const Names& names, unsigned isa)
    : function_(function), names_(names), isa_(isa) {
  declare();
}

std::uint32_t Builder::register_bytes(Type type) {
  if (type == Type::pred) return 0;
  const std::uint32_t bytes = ptx::size_of(type);
  return bytes < 2 ? 2 : bytes;
}

Vreg Builder::temp(std::uint32_t bytes) {
  vregs.push_back({.bytes = static_cast<std::uint8_t>(bytes)});
  return static_cast<Vreg>(vregs.size() - 1);
}

Vreg Builder::constant(std::uint32_t bytes, std::uint64_t value) {
  if (bytes == 2) value &= 0xffff;
  if (bytes == 4) value &= 0xffffffff;
  auto [it, fresh] = constants_.try_emplace({bytes, value}, 0);
  if (fresh) {
    it->second = temp(bytes);
    vregs.back().constant = true;
    vregs.back().value = value;
  }
  return it->second;
}

Vreg Builder::area(std::uint32_t bytes) {
  const auto first = static_cast<Vreg>(vregs.size());
  for (std::uint32_t i = 0; i < (bytes + 3) / 4; ++i) vregs.push_back({.bytes = 4, .pinned = true});
  return first;
}

void Builder::declare() {
  // Text that nobody checked asks for no more than a compiler would.
  constexpr std::uint64_t most_registers = 1U << 20, most_bytes = 1U << 24;
  std::uint64_t registers = 0, bytes_asked = 0;
  auto ask = [&](std::uint64_t bytes) { bytes_asked += std::min(bytes, most_bytes + 1); };
  for (const auto& p : function_.params) ask(p.size());
  for (const auto& p : function_.results) ask(p.size());
  for (const auto& scope : function_.scopes) {
    for (const auto& r : scope.registers) registers += std::uint64_t{r.count} * r.vector;
    for (const auto& v : scope.variables) ask(v.size());
  }
  if (registers > most_registers || bytes_asked > most_bytes) {
    fail("the function declares too many registers or too much memory");
    scopes_.resize(1);
    return;
  }
  scopes_.resize(function_.scopes.empty() ? 1 : function_.scopes.size());
  // Areas come first, so that their words are consecutive.
  auto declare_param = [this](const ptx::Variable& v, ScopeNames& names, bool kernel, std::uint64_t offset) {
    Symbol s{.type = v.type, .space = Space::param, .bytes = static_cast<std::uint32_t>(v.size())};
    if (kernel) {
      s.kind = Symbol::Kind::kernel_param;
      s.value = offset;
    } else {
      s.kind = Symbol::Kind::area;
      s.value = area(s.bytes);
    }
    names.exact[v.name] = s;
    return s;
  };
  std::uint64_t offset = 0;
  for (const auto& p : function_.params) {
    if (p.space == Space::reg) {
      const Vreg v = area(register_bytes(p.type));
      vregs[v].bytes = static_cast<std::uint8_t>(register_bytes(p.type));
      scopes_[0].exact[p.name] = {.kind = Symbol::Kind::vreg, .value = v, .type = p.type};
      continue;
    }
    const std::uint32_t align = p.alignment();
    offset = (offset + align - 1) / align * align;
    const Symbol s = declare_param(p, scopes_[0], function_.is_entry, offset);
    offset += p.size();
    if (!function_.is_entry) params.emplace_back(static_cast<Vreg>(s.value), s.bytes);
  }
  for (const auto& p : function_.results) {
    const Symbol s = declare_param(p, scopes_[0], false, 0);
    results.emplace_back(static_cast<Vreg>(s.value), s.bytes);
  }
  for (std::size_t i = 0; i < function_.scopes.size(); ++i) {
    const auto& scope = function_.scopes[i];
    for (const auto& v : scope.variables) {
      if (v.space == Space::param) {
        declare_param(v, scopes_[i], false, 0);
      } else if (v.space == Space::local) {
        const std::uint32_t align = v.alignment();
        local_bytes = (local_bytes + align - 1) / align * align;
        scopes_[i].exact[v.name] = {
            .kind = Symbol::Kind::local, .value = local_bytes, .type = v.type, .space = Space::local};
        local_bytes += static_cast<std::uint32_t>(v.size());
      } else if (v.space == Space::shared) {
        scopes_[i].exact[v.name] = {.kind = Symbol::Kind::address,
                                    .value = names_.shared_offset(v),
                                    .type = v.type,
                                    .space = Space::shared};
      }
    }
    for (const auto& r : scope.registers) {
      const auto first = static_cast<Vreg>(vregs.size());
      const std::uint32_t bytes = register_bytes(r.type);
      const std::uint32_t per = r.vector * (bytes == 16 ? 2U : 1U);
      for (std::uint32_t k = 0; k < r.count * per; ++k)
        vregs.push_back({.bytes = static_cast<std::uint8_t>(bytes == 16 ? 8 : bytes)});
      if (r.is_range) {
        scopes_[i].ranges[r.name] = {first, r.count, per, r.type};
      } else {
        scopes_[i].exact[r.name] = {.kind = Symbol::Kind::vreg, .value = first, .type = r.type};
      }
    }
  }
  local_bytes = (local_bytes + 15) / 16 * 16;
  for (const auto& l : function_.labels) labels_[{l.name, l.scope}] = new_label();
}

Symbol Builder::lookup(std::string_view name) const {
  std::size_t digits = name.size();
  while (digits > 0 && name[digits - 1] >= '0' && name[digits - 1] <= '9') --digits;
  for (std::uint32_t s = scope_;;) {
    const auto& names = scopes_[s];
    if (auto it = names.exact.find(name); it != names.exact.end()) return it->second;
    if (digits < name.size()) {
      if (auto it = names.ranges.find(name.substr(0, digits)); it != names.ranges.end()) {
        std::uint32_t k = 0;
        std::from_chars(name.data() + digits, name.data() + name.size(), k);
        if (k < it->second.count)
          return {.kind = Symbol::Kind::vreg,
                  .value = it->second.first + k * it->second.per,
                  .type = it->second.type};
      }
    }
    if (s == 0) break;
    s = function_.scopes[s].parent;
  }
  return names_.global(name);
}

std::int32_t Builder::new_label() {
  label_positions.push_back(-1);
  return static_cast<std::int32_t>(label_positions.size() - 1);
}
void Builder::place(std::int32_t label) {
  label_positions[static_cast<std::size_t>(label)] = static_cast<std::int32_t>(drafts.size());
}
std::int32_t Builder::label_of(std::string_view name) const {
  for (std::uint32_t s = scope_;;) {
    if (auto it = labels_.find({name, s}); it != labels_.end()) return it->second;
    if (s == 0) return -1;
    s = function_.scopes[s].parent;
  }
}

Draft& Builder::emit(Handler fn) {
  Draft& d = drafts.emplace_back();
  d.op.fn = fn;
  d.op.line = current_ != nullptr ? current_->line : function_.line;
  return d;
}
Draft& Builder::extend() {
  return emit(nullptr);
}

bool Builder::fail(std::string why) {
  if (!failed_) {
    failed_ = true;
    reason = std::move(why);
    error_line = current_ != nullptr ? current_->line : function_.line;
  }
  return true;
}

std::uint32_t Builder::width_of(const ptx::Operand& o, std::uint32_t otherwise) const {
  if (const auto* n = std::get_if<ptx::NameOperand>(&o.value); n != nullptr && n->name != "_") {
    const Symbol s = lookup(n->name);
    if (s.kind == Symbol::Kind::vreg) return register_bytes(s.type);
  }
  return otherwise;
}

Vreg Builder::predicate(const ptx::NameOperand& n) {
  const Symbol s = lookup(n.name);
  if (s.kind != Symbol::Kind::vreg || s.type != Type::pred) {
    fail("'" + std::string(n.name) + "' is not a predicate");
    return constant(0, 0);
  }
  if (!n.negated) return static_cast<Vreg>(s.value);
  const Vreg t = temp(0);
  emit(op_not_predicate).def(0, t).use(1, static_cast<Vreg>(s.value));
  return t;
}

Vreg Builder::in(const ptx::Operand& o, std::uint32_t bytes, bool is_float) {
  if (const auto* l = std::get_if<ptx::IntLiteral>(&o.value)) {
    if (is_float && bytes == 4) {
      const float f = l->is_unsigned ? static_cast<float>(l->bits)
                                     : static_cast<float>(static_cast<std::int64_t>(l->bits));
      std::uint32_t image = 0;
      std::memcpy(&image, &f, 4);
      return constant(4, image);
    }
    if (is_float && bytes == 8) {
      const double f = l->is_unsigned ? static_cast<double>(l->bits)
                                      : static_cast<double>(static_cast<std::int64_t>(l->bits));
      std::uint64_t image = 0;
      std::memcpy(&image, &f, 8);
      return constant(8, image);
    }
    if (bytes == 0) return constant(0, l->bits != 0 ? 0xffffffffU : 0);
    return constant(bytes, l->bits);
  }
  if (const auto* l = std::get_if<ptx::FloatLiteral>(&o.value)) {
    if (bytes == 4 && !l->is_single) {
      double d = 0;
      std::memcpy(&d, &l->bits, 8);
      const auto f = static_cast<float>(d);
      std::uint32_t image = 0;
      std::memcpy(&image, &f, 4);
      return constant(4, image);
    }
    if (bytes == 8 && l->is_single) {
      float f = 0;
      const auto image32 = static_cast<std::uint32_t>(l->bits);
      std::memcpy(&f, &image32, 4);
      const double d = f;
      std::uint64_t image = 0;
      std::memcpy(&image, &d, 8);
      return constant(8, image);
    }
    return constant(bytes, l->bits);
  }
  if (const auto* n = std::get_if<ptx::NameOperand>(&o.value)) {
    Symbol s = lookup(n->name);
    switch (s.kind) {
      case Symbol::Kind::vreg: {
        const std::uint32_t have = register_bytes(s.type);
        if (have == 0 && bytes == 0) return predicate(*n);
        auto v = static_cast<Vreg>(s.value);
        if (!n->element.empty()) {
          const char e = n->element[0];
          v += e == 'y' || e == 'g' ? 1U : e == 'z' || e == 'b' ? 2U : e == 'w' || e == 'a' ? 3U : 0U;
        }
        if (have != bytes) {
          fail("register '" + std::string(n->name) + "' has " + std::to_string(have) + " bytes where " +
               std::to_string(bytes) + " are needed");
        }
        if (n->minus) {
          fail("negated register operand");
        }
        return v;
      }
      case Symbol::Kind::address:
      case Symbol::Kind::function: {
        const std::uint64_t value =
            s.kind == Symbol::Kind::function ? function_pointer_base + 16 * s.value : s.value;
        if (s.kind == Symbol::Kind::function) {
          takes_address = true;
          callees.push_back(static_cast<std::uint32_t>(s.value));
        }
        return constant(bytes, value + static_cast<std::uint64_t>(n->offset));
      }
      case Symbol::Kind::local: {
        const Vreg t = temp(bytes);
        emit(bytes == 8 ? op_local_address64 : op_local_address32)
            .def(0, t)
            .imm(s.value + static_cast<std::uint64_t>(n->offset));
        return t;
      }
      case Symbol::Kind::kernel_param: {
        const Vreg t = temp(8);
        emit(op_param_address).def(0, t).imm(s.value + static_cast<std::uint64_t>(n->offset));
        if (bytes != 8) fail("32-bit parameter address");
        return t;
      }
      case Symbol::Kind::area:
        fail("address of a device function's parameter");
        return constant(bytes, 0);
      case Symbol::Kind::none:
        break;
    }
    if (!n->name.empty() && n->name[0] == '%') {
      const SpecialRegister special = special_register(n->name, n->element);
      if (special.fn != nullptr) {
        const Vreg t = temp(special.bytes);
        emit(special.fn).def(0, t).imm(special.imm);
        if (special.bytes == bytes) return t;
        const Vreg w = temp(bytes);
        if (bytes == 8 && special.bytes == 4) {
          emit(op_widen_u32).def(0, w).use(1, t);
          return w;
        }
        if (bytes == 4 && special.bytes == 8) {
          emit(op_narrow_u64).def(0, w).use(1, t);
          return w;
        }
        if (bytes == 2 && special.bytes == 4) {
          emit(op_narrow_u32_u16).def(0, w).use(1, t);
          return w;
        }
      }
    }
    if (n->name == "WARP_SZ") return constant(bytes, lanes);
    fail("unknown name '" + std::string(n->name) + "'");
    return constant(bytes, 0);
  }
  fail("operand form");
  return constant(bytes, 0);
}

Vreg Builder::out(const ptx::Operand& o, std::uint32_t bytes) {
  const auto* n = std::get_if<ptx::NameOperand>(&o.value);
  if (n == nullptr) {
    fail("destination is not a register");
    return temp(bytes);
  }
  if (n->name == "_") return temp(bytes);
  const Symbol s = lookup(n->name);
  if (s.kind != Symbol::Kind::vreg || register_bytes(s.type) != bytes) {
    fail("destination '" + std::string(n->name) + "' is not a register of " + std::to_string(bytes) +
         " bytes");
    return temp(bytes);
  }
  auto v = static_cast<Vreg>(s.value);
  if (!n->element.empty()) {
    const char e = n->element[0];
    v += e == 'y' || e == 'g' ? 1U : e == 'z' || e == 'b' ? 2U : e == 'w' || e == 'a' ? 3U : 0U;
  }
  return v;
}

std::optional<Builder::Address> Builder::address(const ptx::Operand& o) {
  const auto* a = std::get_if<ptx::AddressOperand>(&o.value);
  if (a == nullptr) {
    fail("address expected");
    return std::nullopt;
  }
  if (const auto* absolute = std::get_if<std::uint64_t>(&a->base))
    return Address{constant(8, *absolute), a->offset, 8, {}};
  const std::string_view name = std::get<std::string_view>(a->base);
  const Symbol s = lookup(name);
  if (s.kind == Symbol::Kind::vreg) {
    const std::uint32_t bytes = register_bytes(s.type);
    if (bytes != 4 && bytes != 8) {
      fail("address register of " + std::to_string(bytes) + " bytes");
      return std::nullopt;
    }
    return Address{static_cast<Vreg>(s.value), a->offset, bytes, {}};
  }
  if (s.kind == Symbol::Kind::area || s.kind == Symbol::Kind::kernel_param)
    return Address{0, a->offset, 8, s};
  if (s.kind == Symbol::Kind::none) {
    fail("unknown name '" + std::string(name) + "'");
    return std::nullopt;
  }
  const ptx::Operand as_name{ptx::NameOperand{.name = name}};
  return Address{in(as_name, 8), a->offset, 8, s};
}

bool Builder::decode(const ptx::Instruction& ast) {
  current_ = &ast;
  scope_ = ast.scope;
  const Instruction i{ast};
  const std::string_view name = i.name();
  if (name == "pragma" || name == "loc" || name == "file") return true;

  // What may stop or move the warp is jumped over when its guard fails; the rest runs under a narrowed mask.
  static constexpr std::string_view jumped[] = {
      "call",  "bar",       "barrier", "ret", "exit",     "trap",      "shfl", "vote", "match",
      "redux", "nanosleep", "brkpt",   "mma", "ldmatrix", "movmatrix", "wmma", "brx",  "elect"};
  bool jump = false;
  for (auto j : jumped) jump = jump || j == name;
  std::int32_t skip = -1;
  if (ast.guard && jump) {
    skip = new_label();
    const Vreg p = predicate({.name = ast.guard->predicate});
    Draft& d = emit(ast.guard->negated ? op_branch : op_branch_not);
    d.use(0, p);
    d.flow = Draft::Flow::branch;
    d.label = skip;
  }
  const std::size_t first = drafts.size();
  bool done = decode_control(*this, i);
  for (const DecodeFunction* g = groups(isa_); !done && *g != nullptr; ++g) done = (*g)(*this, i);
  if (!done) return fail("instruction '" + std::string(ast.mnemonic) + "' is not supported"), false;
  if (failed_) return false;
  if (skip >= 0) place(skip);
  if (ast.guard && !jump && name != "bra") {
    const Symbol s = lookup(ast.guard->predicate);
    if (s.kind != Symbol::Kind::vreg || s.type != Type::pred) return fail("guard is not a predicate"), false;
    std::vector<Draft> tail(std::make_move_iterator(drafts.begin() + static_cast<std::ptrdiff_t>(first)),
                            std::make_move_iterator(drafts.end()));
    drafts.resize(first);
    for (std::size_t k = 0; k < tail.size();) {
      std::size_t end = k + 1;
      while (end < tail.size() && tail[end].op.fn == nullptr) ++end;
      Draft& g = emit(ast.guard->negated ? op_guard_not : op_guard);
      g.use(0, static_cast<Vreg>(s.value)).imm(end - k + 1);
      for (; k < end; ++k) {
        tail[k].partial = true;
        drafts.push_back(std::move(tail[k]));
      }
    }
  }
  return true;
}

bool Builder::decode_body() {
  if (failed_) return false;
  std::vector<std::vector<std::int32_t>> at(function_.instructions.size() + 1);
  for (const auto& l : function_.labels)
    if (l.instruction < at.size()) at[l.instruction].push_back(labels_[{l.name, l.scope}]);
  for (std::size_t k = 0; k < function_.instructions.size(); ++k) {
    for (auto l : at[k]) place(l);
    if (!decode(function_.instructions[k])) return false;
  }
  for (auto l : at.back()) place(l);
  current_ = nullptr;
  Draft& d = emit(op_return);  // running off the end returns
  d.flow = Draft::Flow::end;
  return !failed_;
}

}  // namespace softgpu::exec
