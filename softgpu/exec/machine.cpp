// The ops that steer a warp: branches, calls, exits, barriers.
#include "softgpu/exec/machine.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "softgpu/exec/fault.hpp"
#include "softgpu/exec/splits.hpp"
#include "softgpu/memory/address_space.hpp"

namespace softgpu::exec {
namespace {

constexpr std::uint32_t frame_stack_charge = 16;

const Op* at(const Op* op, std::uint32_t distance) {
  return op + static_cast<std::int32_t>(distance);
}

template <bool Negate, bool Back>
inline const Op* branch(Context& c, const Op* op) {
  const std::uint32_t p = *reg<std::uint32_t>(c, op->r[0]);
  const std::uint32_t taken = (Negate ? ~p : p) & c.mask;
  if (taken == 0) return op + 1;
  const Op* target = at(op, op->r[1]);
  if (taken == c.mask) {
    if constexpr (Back) {
      c.budget -= op->aux;
      if (c.budget < 0) [[unlikely]]
        return spend(c, target);
    }
    return target;
  }
  const Op* rejoin = op->r[2] == 0 ? nullptr : at(op, op->r[2]);
  const Op* next = diverge(c, target, taken, op + 1, rejoin);
  if constexpr (Back) {
    c.budget -= op->aux;
    if (c.budget < 0 && next != nullptr) [[unlikely]]
      return spend(c, next);
  }
  return next;
}

void finish_barrier(Block& block, std::uint32_t id) {
  Barrier& bar = block.barriers[id];
  for (auto& w : block.warps) {
    for (Split& s : w->splits) {
      if (s.state != Split::State::at_barrier || s.barrier != id) continue;
      const Op* op = s.pc;
      if (op->aux >= 2) {
        std::byte* frame = s.frame->data;
        if (op->aux == 2) {
          auto* d = reinterpret_cast<std::uint32_t*>(frame + op->r[2]);
          for (unsigned i = 0; i < lanes; ++i)
            if (s.mask >> i & 1) d[i] = bar.count;
        } else {
          auto* d = reinterpret_cast<std::uint32_t*>(frame + op->r[2]);
          const bool value = op->aux == 3 ? bar.count == bar.waiting : bar.count != 0;
          *d = value ? *d | s.mask : *d & ~s.mask;
        }
      }
      s.pc = op + 1;
      s.state = Split::State::ready;
    }
  }
  bar = {};
}

}  // namespace

void check_barriers(Block& block) {
  for (std::uint32_t id = 0; id < block.barriers.size(); ++id) {
    const Barrier& bar = block.barriers[id];
    if (bar.arrived != 0 && bar.arrived >= (bar.expected != 0 ? bar.expected : block.threads))
      finish_barrier(block, id);
  }
}

namespace {

const Op* enter(Context& c, const Op* call, const FunctionCode& code, std::uint32_t mask,
                std::int32_t caller) {
  Warp& w = *c.warp;
  Frame* from = split(w, caller).frame;
  const std::uint32_t base = from->local_top + frame_stack_charge;
  if (base + code.local_bytes > c.grid->code->stack_bytes)
    raise_fault(c, call, Fault::stack_overflow, 0, "the call stack is deeper than a thread's local memory");
  Frame* f = c.frames->take(code);
  f->references = 1;
  f->local_base = (base + 15) / 16 * 16;
  f->local_top = f->local_base + code.local_bytes;
  const auto results = static_cast<std::uint32_t>(call->aux & 0xff),
             args = static_cast<std::uint32_t>(call->aux >> 8);
  for (std::uint32_t k = 0; k < args && k < code.params.size(); ++k) {
    const Op& e = call[1 + results + k];
    const std::size_t words = std::min<std::size_t>(e.imm, code.params[k].words);
    std::memcpy(f->data + code.params[k].offset, from->data + e.r[0], words * lanes * 4);
  }
  const std::int32_t n = new_split(w);
  split(w, n) = Split{.pc = code.ops.data(),
                      .rejoin = nullptr,
                      .mask = mask,
                      .parent = caller,
                      .state = Split::State::ready,
                      .frame = f};
  ++split(w, caller).children;
  return call;
}

const Op* after_call(const Op* call) {
  return call + 1 + (call->aux & 0xff) + (call->aux >> 8);
}

void begin_call(Context& c, const Op* op) {
  Split& s = split(*c.warp, c.warp->current);
  s.pc = after_call(op);
  s.call = op;
  s.state = Split::State::waiting;
}

}  // namespace

const Op* op_block(Context& c, const Op* op) {
  if (op == c.rejoin) [[unlikely]] {
    Warp& w = *c.warp;
    const std::int32_t parent = split(w, w.current).parent;
    kill(c, w, w.current);
    if (parent >= 0 && split(w, parent).state == Split::State::ready) return switch_to(c, parent);
    return schedule(c);
  }
  c.executed += op->imm * popcount(c.mask);
  c.turn -= static_cast<std::int64_t>(op->imm);
  if (c.turn < 0) [[unlikely]] {
    Warp& w = *c.warp;
    split(w, w.current).pc = op + 1;
    return end_turn(w);
  }
  return op + 1;
}

const Op* op_branch(Context& c, const Op* op) {
  return branch<false, false>(c, op);
}
const Op* op_branch_not(Context& c, const Op* op) {
  return branch<true, false>(c, op);
}
const Op* op_branch_back(Context& c, const Op* op) {
  return branch<false, true>(c, op);
}
const Op* op_branch_back_not(Context& c, const Op* op) {
  return branch<true, true>(c, op);
}
const Op* op_jump(Context&, const Op* op) {
  return at(op, op->r[1]);
}
const Op* op_jump_back(Context& c, const Op* op) {
  c.budget -= op->aux;
  if (c.budget < 0) [[unlikely]]
    return spend(c, at(op, op->r[1]));
  return at(op, op->r[1]);
}

const Op* op_branch_table(Context& c, const Op* op) {
  Warp& w = *c.warp;
  const FunctionCode& code = *split(w, w.current).frame->code;
  const std::uint32_t* index = reg<std::uint32_t>(c, op->r[0]);
  const Op* rejoin = op->r[2] == 0 ? nullptr : at(op, op->r[2]);
  std::uint32_t left = c.mask;
  while (left != 0) {
    const std::uint32_t k = index[std::countr_zero(left)];
    if (k >= op->aux) raise_fault(c, op, Fault::illegal_instruction, 0, "brx.idx index is out of range");
    std::uint32_t same = 0;
    for (unsigned i = 0; i < lanes; ++i)
      if ((left >> i & 1) != 0 && index[i] == k) same |= 1U << i;
    const Op* target = code.ops.data() + code.tables[op->imm + k];
    if (same == c.mask) {
      c.budget -= 1;
      return c.budget < 0 ? spend(c, target) : target;
    }
    if (left == c.mask && rejoin != nullptr && rejoin != c.rejoin) {
      // The first part: this split becomes the waiting parent of one child that holds all lanes.
      const std::int32_t i = w.current, n = new_split(w);
      Split& s = split(w, i);
      split(w, n) = Split{.pc = op,
                          .rejoin = rejoin,
                          .mask = c.mask,
                          .parent = i,
                          .state = Split::State::ready,
                          .frame = s.frame};
      ++s.frame->references;
      ++s.children;
      s.pc = rejoin;
      s.state = Split::State::waiting;
      switch_to(c, n);
    }
    const std::int32_t n = new_split(w);
    Split& s = split(w, w.current);
    Split& t = split(w, n);
    t = s;
    t.pc = target;
    t.mask = same;
    t.children = 0;
    t.state = Split::State::ready;
    ++t.frame->references;
    if (t.parent >= 0) ++split(w, t.parent).children;
    s.mask &= ~same;
    left &= ~same;
    c.mask = left;
  }
  kill(c, w, w.current);
  return schedule(c);
}

const Op* op_guard(Context& c, const Op* op) {
  const std::uint32_t m = c.mask & *reg<std::uint32_t>(c, op->r[0]);
  if (m == 0) return op + op->imm;
  const std::uint32_t saved = c.mask;
  c.mask = m;
  op[1].fn(c, op + 1);
  c.mask = saved;
  return op + op->imm;
}
const Op* op_guard_not(Context& c, const Op* op) {
  const std::uint32_t m = c.mask & ~*reg<std::uint32_t>(c, op->r[0]);
  if (m == 0) return op + op->imm;
  const std::uint32_t saved = c.mask;
  c.mask = m;
  op[1].fn(c, op + 1);
  c.mask = saved;
  return op + op->imm;
}
const Op* op_not_predicate(Context& c, const Op* op) {
  std::uint32_t* d = reg<std::uint32_t>(c, op->r[0]);
  *d = (*d & ~c.mask) | (~*reg<std::uint32_t>(c, op->r[1]) & c.mask);
  return op + 1;
}

const Op* op_exit(Context& c, const Op*) {
  Warp& w = *c.warp;
  const std::uint32_t mask = c.mask;
  for (std::int32_t p = split(w, w.current).parent; p >= 0; p = split(w, p).parent) split(w, p).mask &= ~mask;
  w.live &= ~mask;
  kill(c, w, w.current);
  c.block->threads -= popcount(mask);
  check_barriers(*c.block);
  return schedule(c);
}

const Op* op_return(Context& c, const Op* op) {
  Warp& w = *c.warp;
  const std::uint32_t mask = c.mask;
  std::int32_t p = split(w, w.current).parent;
  while (p >= 0 && split(w, p).call == nullptr) p = split(w, p).parent;
  if (p < 0) return op_exit(c, op);
  leave(w, mask);
  Split& caller = split(w, p);
  const Op* call = caller.call;
  const FunctionCode& code = *split(w, w.current).frame->code;
  const auto results = static_cast<std::uint32_t>(call->aux & 0xff);
  for (std::uint32_t k = 0; k < results && k < code.results.size(); ++k) {
    const Op& e = call[1 + k];
    const std::size_t words = std::min<std::size_t>(e.imm, code.results[k].words);
    auto* to = reinterpret_cast<std::uint32_t*>(caller.frame->data + e.r[0]);
    const auto* from = reinterpret_cast<const std::uint32_t*>(c.frame + code.results[k].offset);
    for (std::size_t word = 0; word < words; ++word, to += lanes, from += lanes)
      for (unsigned i = 0; i < lanes; ++i) to[i] = (mask >> i & 1) != 0 ? from[i] : to[i];
  }
  kill(c, w, w.current);
  if (split(w, p).state == Split::State::ready) return switch_to(c, p);
  return schedule(c);
}

const Op* op_trap(Context& c, const Op* op) {
  raise_fault(c, op, Fault::trap, 0, "trap");
}

const Op* op_call(Context& c, const Op* op) {
  const auto* code = reinterpret_cast<const FunctionCode*>(op->imm);
  const std::int32_t caller = c.warp->current;
  if (c.budget-- < 0) return spend(c, op);
  begin_call(c, op);
  enter(c, op, *code, c.mask, caller);
  return schedule(c);
}

const Op* op_call_indirect(Context& c, const Op* op) {
  const std::int32_t caller = c.warp->current;
  if (c.budget-- < 0) return spend(c, op);
  const std::uint64_t* target = reg<std::uint64_t>(c, op->r[0]);
  begin_call(c, op);
  for (std::uint32_t left = c.mask; left != 0;) {
    const std::uint64_t t = target[std::countr_zero(left)];
    std::uint32_t same = 0;
    for (unsigned i = 0; i < lanes; ++i)
      if ((left >> i & 1) != 0 && target[i] == t) same |= 1U << i;
    const std::uint64_t index = (t - function_pointer_base) / 16;
    const auto& known = c.grid->code->by_index;
    const auto it = t >= function_pointer_base && (t & 15) == 0 && index <= 0xffffffffU
                        ? known.find(static_cast<std::uint32_t>(index))
                        : known.end();
    if (it == known.end())
      raise_fault(c, op, Fault::illegal_instruction, t, "call through a pointer to no function");
    if (it->second->failed) raise_fault(c, op, Fault::unsupported, 0, it->second->error.reason.c_str());
    enter(c, op, *it->second, same, caller);
    left &= ~same;
  }
  return schedule(c);
}

const Op* op_barrier(Context& c, const Op* op) {
  Warp& w = *c.warp;
  const int lane = std::countr_zero(c.mask);
  const std::uint32_t id = reg<std::uint32_t>(c, op->r[0])[lane];
  const std::uint32_t threads = reg<std::uint32_t>(c, op->r[1])[lane];
  if (id >= c.block->barriers.size())
    raise_fault(c, op, Fault::illegal_instruction, 0, "barrier number above 15");
  Barrier& bar = c.block->barriers[id];
  bar.expected = threads;
  bar.arrived += threads != 0 && c.mask == w.live ? lanes : popcount(c.mask);
  if (op->aux != 1) {
    bar.waiting += popcount(c.mask);
    if (op->aux >= 2) bar.count += popcount(*reg<std::uint32_t>(c, op->r[3]) & c.mask);
    Split& s = split(w, w.current);
    s.pc = op;
    s.state = Split::State::at_barrier;
    s.barrier = static_cast<std::uint8_t>(id);
  }
  if (bar.arrived >= (threads != 0 ? threads : c.block->threads)) finish_barrier(*c.block, id);
  if (op->aux == 1) return op + 1;
  if (split(w, w.current).state == Split::State::ready) {
    if (!takes_turns(w)) return switch_to(c, w.current);
    // Behind a barrier all warps start alike: who came last is not ahead.
    c.budget = slice_budget;
    return end_turn(w);
  }
  return schedule(c);
}

bool wait_for_lanes(Context& c, const Op* op, std::uint32_t need, const Op*& out) {
  Warp& w = *c.warp;
  need &= w.live & ~c.mask;
  if (need == 0 || w.used <= 1 || c.forced_sync) return false;
  std::uint32_t coming = 0;
  bool ready = false;
  Split& own = split(w, w.current);
  for (const Split& s : w.splits) {
    if (&s == &own) continue;
    if (s.state == Split::State::ready) ready = true;
    if (s.state == Split::State::at_sync && s.pc == op && s.frame == own.frame) coming |= s.mask;
  }
  if (!ready && coming == 0) return false;
  own.pc = op;
  own.state = Split::State::at_sync;
  if ((need & ~coming) == 0) run_gathered(c, op, own.frame);
  out = schedule(c);
  return true;
}

const Op* op_yield(Context& c, const Op* op) {
  return spend(c, op + 1);
}
const Op* op_unsupported(Context& c, const Op* op) {
  raise_fault(c, op, Fault::unsupported);
}
const Op* op_nothing(Context&, const Op* op) {
  return op + 1;
}

}  // namespace softgpu::exec
