// Decodes control flow, calls, barriers and what only orders or hints.
#include <atomic>

#include "softgpu/exec/groups.hpp"
#include "softgpu/exec/machine.hpp"
#include "softgpu/exec/natives.hpp"

namespace softgpu::exec {

namespace {

const Op* op_fence(Context&, const Op* op) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return op + 1;
}

bool decode_branch(Builder& b, const Instruction& i) {
  if (i.operands() != 1) return b.fail("bra needs one target");
  const auto* n = std::get_if<ptx::NameOperand>(&i.operand(0).value);
  const std::int32_t label = n != nullptr ? b.label_of(n->name) : -1;
  if (label < 0) return b.fail("unknown label");
  if (i.ast.guard) {
    const Vreg p = b.predicate({.name = i.ast.guard->predicate});
    Draft& d = b.emit(i.ast.guard->negated ? op_branch_not : op_branch).use(0, p);
    d.flow = Draft::Flow::branch;
    d.label = label;
  } else {
    Draft& d = b.emit(op_jump);
    d.flow = Draft::Flow::jump;
    d.label = label;
  }
  return true;
}

bool decode_table(Builder& b, const Instruction& i) {
  const auto* n = i.operands() == 2 ? std::get_if<ptx::NameOperand>(&i.operand(1).value) : nullptr;
  if (n == nullptr) return b.fail("brx.idx needs an index and a target list");
  for (const auto& list : b.function().target_lists) {
    if (list.name != n->name) continue;
    const Vreg index = b.in(i.operand(0), 4);
    Draft& d = b.emit(op_branch_table).use(0, index);
    d.flow = Draft::Flow::table;
    for (auto t : list.targets) {
      const std::int32_t label = b.label_of(t);
      if (label < 0) return b.fail("unknown label '" + std::string(t) + "'");
      d.labels.push_back(label);
    }
    return d.labels.empty() || d.labels.size() > 0xffff ? b.fail("bad target list") : true;
  }
  return b.fail("unknown target list '" + std::string(n->name) + "'");
}

bool decode_call(Builder& b, const Instruction& i) {
  const ptx::ListOperand* results = nullptr;
  const ptx::ListOperand* args = nullptr;
  std::size_t k = 0;
  if (k < i.operands()) results = std::get_if<ptx::ListOperand>(&i.operand(k).value);
  if (results != nullptr) ++k;
  const auto* target = k < i.operands() ? std::get_if<ptx::NameOperand>(&i.operand(k).value) : nullptr;
  if (target == nullptr) return b.fail("call target");
  if (++k < i.operands()) args = std::get_if<ptx::ListOperand>(&i.operand(k).value);

  std::vector<std::pair<Vreg, std::uint32_t>> areas;  // register of the first word, words
  auto collect = [&](const ptx::ListOperand* list) -> std::size_t {
    if (list == nullptr) return 0;
    for (const auto& o : list->elements) {
      const auto* n = std::get_if<ptx::NameOperand>(&o.value);
      const Symbol s = n != nullptr ? b.lookup(n->name) : Symbol{};
      if (s.kind == Symbol::Kind::area) {
        areas.emplace_back(static_cast<Vreg>(s.value), (s.bytes + 3) / 4);
      } else {
        b.fail("call argument is not a .param variable");
      }
    }
    return list->elements.size();
  };
  const std::size_t result_count = collect(results), arg_count = collect(args);
  if (result_count > 255 || arg_count > 255) return b.fail("too many call arguments");
  if (b.failed()) return true;

  const Symbol s = b.lookup(target->name);
  Draft* d = nullptr;
  if (s.kind == Symbol::Kind::function) {
    if (const Handler fn = native_function(target->name); fn != nullptr && s.bytes == 0) {
      d = &b.emit(fn);
    } else if (s.bytes == 0) {
      return b.fail("call of '" + std::string(target->name) + "', which has no body");
    } else {
      b.callees.push_back(static_cast<std::uint32_t>(s.value));
      d = &b.emit(op_call).imm(s.value);
    }
  } else if (s.kind == Symbol::Kind::vreg) {
    const Vreg pointer = b.in(i.operand(k - 1), 8);
    b.dynamic_stack = true;
    d = &b.emit(op_call_indirect).use(0, pointer);
  } else {
    return b.fail("call of unknown function '" + std::string(target->name) + "'");
  }
  d->aux(static_cast<std::uint16_t>(result_count | arg_count << 8));
  for (auto [v, words] : areas) {
    Draft& e = b.extend();
    e.op.imm = words;
    if (words != 0) e.use(0, v);
  }
  return true;
}

// bar.sync / bar.arrive / bar.red.OP / barrier[.cta].sync... / bar.warp.sync is in the warp group.
bool decode_barrier(Builder& b, const Instruction& i) {
  std::size_t part = 1;
  if (i.part(part) == "cta") ++part;
  const std::string_view what = i.part(part);
  const std::size_t n = i.operands();
  const Vreg zero = b.constant(4, 0);
  if (what == "sync") {
    const Vreg id = b.in(i.operand(0), 4), threads = n > 1 ? b.in(i.operand(1), 4) : zero;
    b.emit(op_barrier).use(0, id).use(1, threads).aux(0);
    return true;
  }
  if (what == "arrive") {
    if (n != 2) return b.fail("barrier arrive needs a thread count");
    const Vreg id = b.in(i.operand(0), 4), threads = b.in(i.operand(1), 4);
    b.emit(op_barrier).use(0, id).use(1, threads).aux(1);
    return true;
  }
  if (what == "red") {
    if (n != 3 && n != 4) return b.fail("barrier red operands");
    const bool popc = i.has("popc");
    const Vreg id = b.in(i.operand(1), 4), threads = n == 4 ? b.in(i.operand(2), 4) : zero;
    const Vreg p = b.in(i.operand(n - 1), 0), d = b.out(i.operand(0), popc ? 4 : 0);
    Draft& draft = b.emit(op_barrier).use(0, id).use(1, threads).use(3, p).def(2, d);
    draft.aux(popc ? 2 : i.has("and") ? 3 : 4);
    draft.partial = true;
    return true;
  }
  return false;
}

}  // namespace

Handler native_function(std::string_view name) {
  if (name == "vprintf") return op_vprintf;
  if (name == "malloc") return op_malloc;
  if (name == "free") return op_free;
  if (name == "__assertfail") return op_assertfail;
  return nullptr;
}

bool decode_control(Builder& b, const Instruction& i) {
  const std::string_view name = i.name();
  auto end = [&b](Handler fn) {
    b.emit(fn).flow = Draft::Flow::end;
    return true;
  };
  if (name == "bra") return decode_branch(b, i);
  if (name == "brx") return decode_table(b, i);
  if (name == "call") return decode_call(b, i);
  if (name == "ret") return end(op_return);
  if (name == "exit") return end(op_exit);
  if (name == "trap") return end(op_trap);
  if (name == "brkpt") return end(op_trap);
  if ((name == "bar" || name == "barrier") && i.part(1) != "warp") return decode_barrier(b, i);
  if (name == "membar" || name == "fence") {
    b.emit(op_fence);
    return true;
  }
  if (name == "nanosleep") {
    b.in(i.operand(0), 4);
    b.emit(op_yield);
    return true;
  }
  if (name == "prefetch" || name == "prefetchu" || name == "discard" || name == "applypriority" ||
      name == "pmevent") {
    b.emit(op_nothing);
    return true;
  }
  if (name == "alloca") {
    const std::uint32_t bytes = Builder::register_bytes(i.type());
    const Vreg size = b.in(i.operand(1), bytes), d = b.out(i.operand(0), bytes);
    std::uint64_t align = 16;
    if (i.operands() > 2) {
      const auto* l = std::get_if<ptx::IntLiteral>(&i.operand(2).value);
      if (l == nullptr || l->bits == 0 || (l->bits & (l->bits - 1)) != 0 || l->bits > 4096)
        return b.fail("alignment");
      align = l->bits;
    }
    b.dynamic_stack = true;
    b.emit(op_alloca).def(0, d).use(1, size).imm(align).aux(static_cast<std::uint16_t>(bytes));
    return true;
  }
  if (name == "stacksave") {
    const std::uint32_t bytes = Builder::register_bytes(i.type());
    b.emit(op_stacksave).def(0, b.out(i.operand(0), bytes)).aux(static_cast<std::uint16_t>(bytes));
    return true;
  }
  if (name == "stackrestore") {
    const std::uint32_t bytes = Builder::register_bytes(i.type());
    const Vreg v = b.in(i.operand(0), bytes);
    b.emit(op_stackrestore).use(0, v).aux(static_cast<std::uint16_t>(bytes));
    return true;
  }
  return false;
}

}  // namespace softgpu::exec
