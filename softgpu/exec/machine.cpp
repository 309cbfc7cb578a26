#include "softgpu/exec/machine.hpp"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>

#include "softgpu/exec/fault.hpp"
#include "softgpu/memory/address_space.hpp"

namespace softgpu::exec {

namespace {

constexpr std::int64_t slice_budget = 1 << 16;
// Warps that share memory go on side by side, as they do in hardware, none some hundred instructions ahead of
// the others: kernels whose barriers do not order all that they do rely on it (docs/decisions.md, 72).
constexpr std::int64_t turn_instructions = 64;
constexpr std::uint32_t frame_stack_charge = 16;

std::uint32_t popcount(std::uint32_t m) {
  return static_cast<std::uint32_t>(std::popcount(m));
}

const Op* at(const Op* op, std::uint32_t distance) {
  return op + static_cast<std::int32_t>(distance);
}

Split& split(Warp& w, std::int32_t i) {
  return w.splits[static_cast<std::size_t>(i)];
}

std::int32_t new_split(Warp& w) {
  ++w.used;
  for (std::size_t i = 0; i < w.splits.size(); ++i)
    if (w.splits[i].state == Split::State::free) return static_cast<std::int32_t>(i);
  w.splits.emplace_back();
  return static_cast<std::int32_t>(w.splits.size() - 1);
}

void release_frame(Context& c, Frame* f) {
  if (--f->references == 0) c.frames->give(f);
}

// Frees a split without children and wakes the parent that waited for it alone.
void kill(Context& c, Warp& w, std::int32_t i) {
  for (;;) {
    Split& s = split(w, i);
    const std::int32_t parent = s.parent;
    release_frame(c, s.frame);
    s.state = Split::State::free;
    s.call = nullptr;
    --w.used;
    if (parent < 0) return;
    Split& p = split(w, parent);
    if (--p.children != 0) return;
    if (p.mask != 0) {
      p.state = Split::State::ready;
      p.call = nullptr;
      return;
    }
    i = parent;
  }
}

const Op* switch_to(Context& c, std::int32_t i) {
  Warp& w = *c.warp;
  Split& s = split(w, i);
  w.current = i;
  c.frame = s.frame->data;
  c.mask = s.mask;
  c.rejoin = s.rejoin;
  return s.pc;
}

// Runs a warp-synchronous op for every split that waits at the same place in the same frame.
void run_gathered(Context& c, const Op* op, Frame* frame) {
  Warp& w = *c.warp;
  std::uint32_t mask = 0;
  for (const Split& s : w.splits)
    if (s.state == Split::State::at_sync && s.pc == op && s.frame == frame) mask |= s.mask;
  c.frame = frame->data;
  c.mask = mask;
  c.forced_sync = true;
  const Op* next = op->fn(c, op);
  c.forced_sync = false;
  for (Split& s : w.splits) {
    if (s.state == Split::State::at_sync && s.pc == op && s.frame == frame) {
      s.pc = next;
      s.state = Split::State::ready;
    }
  }
}

const Op* schedule(Context& c) {
  Warp& w = *c.warp;
  for (;;) {
    for (std::size_t i = w.splits.size(); i-- > 0;)
      if (w.splits[i].state == Split::State::ready) return switch_to(c, static_cast<std::int32_t>(i));
    bool gathered = false;
    for (const Split& s : w.splits) {
      if (s.state == Split::State::at_sync) {
        run_gathered(c, s.pc, s.frame);
        gathered = true;
        break;
      }
    }
    if (!gathered) return nullptr;
  }
}

// Divides the running split: `first` lanes go to `a`, the rest to `b`; they meet again at `rejoin`.
const Op* diverge(Context& c, const Op* a, std::uint32_t first, const Op* b, const Op* rejoin) {
  Warp& w = *c.warp;
  const std::int32_t i = w.current;
  const std::uint32_t second = c.mask & ~first;
  if (rejoin != nullptr && rejoin == c.rejoin) {
    // The parent already waits there: lanes that go straight to it have arrived.
    if (a == rejoin || b == rejoin) {
      Split& s = split(w, i);
      s.mask = c.mask = a == rejoin ? second : first;
      return a == rejoin ? b : a;
    }
    const std::int32_t n = new_split(w);
    Split& s = split(w, i);
    Split& t = split(w, n);
    t = s;
    t.pc = a;
    t.mask = first;
    t.state = Split::State::ready;
    t.children = 0;
    ++t.frame->references;
    if (t.parent >= 0) ++split(w, t.parent).children;
    s.mask = c.mask = second;
    s.pc = b;
    return b;
  }
  // This split waits at the rejoin point (or, without one, lives on only as the bookkeeper of its lanes).
  auto child = [&](const Op* pc, std::uint32_t mask) {
    const std::int32_t n = new_split(w);
    Split& s = split(w, i);
    Split& t = split(w, n);
    t = Split{.pc = pc,
              .rejoin = rejoin,
              .mask = mask,
              .parent = i,
              .state = Split::State::ready,
              .frame = s.frame};
    ++s.frame->references;
    ++s.children;
    return n;
  };
  if (rejoin == nullptr) {
    const std::int32_t n = new_split(w);
    Split& s = split(w, i);
    Split& t = split(w, n);
    t = s;
    t.pc = a;
    t.mask = first;
    t.state = Split::State::ready;
    t.children = 0;
    ++t.frame->references;
    if (t.parent >= 0) ++split(w, t.parent).children;
    s.mask = c.mask = second;
    return b;
  }
  split(w, i).pc = rejoin;
  split(w, i).state = Split::State::waiting;
  if (a != rejoin) child(a, first);
  if (b != rejoin) return switch_to(c, child(b, second));
  return schedule(c);
}

// The budget is spent: lanes that wait at rejoin points for this warp's other lanes go on alone, in case the
// lanes that still run spin for something only they can give.
void release_arrived(Context& c) {
  Warp& w = *c.warp;
  std::uint32_t busy = 0;
  for (const Split& s : w.splits)
    if (s.state != Split::State::free && s.children == 0) busy |= s.mask;
  for (std::size_t i = 0; i < w.splits.size(); ++i) {
    if (w.splits[i].state != Split::State::waiting || w.splits[i].children == 0) continue;
    // Lanes of this waiting split that no descendant holds.
    std::uint32_t held = busy;
    for (std::size_t k = 0; k < w.splits.size(); ++k) {
      if (k == i || w.splits[k].state != Split::State::waiting) continue;
      for (std::int32_t p = w.splits[k].parent; p >= 0; p = split(w, p).parent)
        if (p == static_cast<std::int32_t>(i)) held |= w.splits[k].mask;
    }
    const std::uint32_t arrived = w.splits[i].mask & ~held;
    if (arrived == 0) continue;
    const std::int32_t n = new_split(w);
    Split& s = w.splits[i];
    Split& t = split(w, n);
    t = Split{.pc = s.pc,
              .rejoin = s.rejoin,
              .mask = arrived,
              .parent = s.parent,
              .state = Split::State::ready,
              .frame = s.frame};
    ++t.frame->references;
    if (t.parent >= 0) ++split(w, t.parent).children;
    s.mask &= ~arrived;
    busy |= arrived;
  }
}

const Op* spend(Context& c, const Op* target) {
  Warp& w = *c.warp;
  split(w, w.current).pc = target;
  if (w.used > 1) release_arrived(c);
  c.yielded = true;
  return nullptr;
}

bool takes_turns(const Warp& w) {
  return w.block->warps.size() > 1 && w.block->shared_size != 0;
}

// Lets the block's other warps go on; this one resumes with the running split at its pc.
const Op* end_turn(Warp& w) {
  w.turned = true;
  return nullptr;
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

void check_barriers(Block& block) {
  for (std::uint32_t id = 0; id < block.barriers.size(); ++id) {
    const Barrier& bar = block.barriers[id];
    if (bar.arrived != 0 && bar.arrived >= (bar.expected != 0 ? bar.expected : block.threads))
      finish_barrier(block, id);
  }
}

// Takes lanes out of the running split's ancestors, up to and not including the first call.
std::int32_t leave(Warp& w, std::uint32_t mask) {
  std::int32_t p = split(w, w.current).parent;
  while (p >= 0 && split(w, p).call == nullptr) {
    split(w, p).mask &= ~mask;
    p = split(w, p).parent;
  }
  return p;
}

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

Frame* FramePool::take(const FunctionCode& code) {
  auto& list = free_[&code];
  if (!list.empty()) {
    Frame* f = list.back();
    list.pop_back();
    return f;
  }
  auto f = std::make_unique<Frame>();
  f->code = &code;
  f->data = static_cast<std::byte*>(std::aligned_alloc(64, (code.frame_bytes + 127) / 64 * 64));
  if (f->data == nullptr) throw std::bad_alloc();
  std::memset(f->data, 0, code.frame_bytes);
  for (auto [offset, value] : code.constants64)
    std::fill_n(reinterpret_cast<std::uint64_t*>(f->data + offset), lanes, value);
  for (auto [offset, value] : code.constants32)
    std::fill_n(reinterpret_cast<std::uint32_t*>(f->data + offset), lanes, static_cast<std::uint32_t>(value));
  for (auto [offset, value] : code.constants16)
    std::fill_n(reinterpret_cast<std::uint16_t*>(f->data + offset), lanes, static_cast<std::uint16_t>(value));
  for (auto [offset, value] : code.constant_predicates)
    *reinterpret_cast<std::uint32_t*>(f->data + offset) = value ? all_lanes : 0;
  all_.push_back(std::move(f));
  return all_.back().get();
}
void FramePool::give(Frame* frame) {
  free_[frame->code].push_back(frame);
}
FramePool::~FramePool() {
  for (auto& f : all_) std::free(f->data);
}

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

namespace {
template <class T>
void put(Context& c, const Op* op, T value) {
  T* d = reg<T>(c, op->r[0]);
  for (unsigned i = 0; i < lanes; ++i) d[i] = (c.mask >> i & 1) != 0 ? value : d[i];
}
Frame& frame_of(Context& c) {
  return *split(*c.warp, c.warp->current).frame;
}
}  // namespace

const Op* op_local_address64(Context& c, const Op* op) {
  put<std::uint64_t>(c, op, frame_of(c).local_base + op->imm);
  return op + 1;
}
const Op* op_local_address32(Context& c, const Op* op) {
  put<std::uint32_t>(c, op, frame_of(c).local_base + static_cast<std::uint32_t>(op->imm));
  return op + 1;
}
const Op* op_param_address(Context& c, const Op* op) {
  put<std::uint64_t>(c, op, reinterpret_cast<std::uint64_t>(c.grid->params.data()) + op->imm);
  return op + 1;
}
const Op* op_alloca(Context& c, const Op* op) {
  Frame& f = frame_of(c);
  std::uint64_t most = 0;
  for (unsigned i = 0; i < lanes; ++i) {
    if ((c.mask >> i & 1) == 0) continue;
    const std::uint64_t n =
        op->aux == 8 ? reg<std::uint64_t>(c, op->r[1])[i] : reg<std::uint32_t>(c, op->r[1])[i];
    most = std::max(most, n);
  }
  const std::uint64_t align = std::max<std::uint64_t>(op->imm, 16);
  const std::uint64_t base = (f.local_top + align - 1) / align * align;
  if (most > c.grid->code->stack_bytes || base + most > c.grid->code->stack_bytes)
    raise_fault(c, op, Fault::stack_overflow, 0, "alloca beyond a thread's local memory");
  f.local_top = static_cast<std::uint32_t>(base + most);
  if (op->aux == 8) {
    put<std::uint64_t>(c, op, base);
  } else {
    put<std::uint32_t>(c, op, static_cast<std::uint32_t>(base));
  }
  return op + 1;
}
const Op* op_stacksave(Context& c, const Op* op) {
  if (op->aux == 8) {
    put<std::uint64_t>(c, op, frame_of(c).local_top);
  } else {
    put<std::uint32_t>(c, op, frame_of(c).local_top);
  }
  return op + 1;
}
const Op* op_stackrestore(Context& c, const Op* op) {
  Frame& f = frame_of(c);
  std::uint64_t most = 0;
  for (unsigned i = 0; i < lanes; ++i) {
    if ((c.mask >> i & 1) == 0) continue;
    const std::uint64_t n =
        op->aux == 8 ? reg<std::uint64_t>(c, op->r[0])[i] : reg<std::uint32_t>(c, op->r[0])[i];
    most = std::max(most, n);
  }
  if (f.references == 1 && most >= f.local_base && most <= f.local_top)
    f.local_top = static_cast<std::uint32_t>(most);
  return op + 1;
}
const Op* op_widen_u32(Context& c, const Op* op) {
  auto* d = reg<std::uint64_t>(c, op->r[0]);
  const auto* a = reg<std::uint32_t>(c, op->r[1]);
  for (unsigned i = 0; i < lanes; ++i) d[i] = (c.mask >> i & 1) != 0 ? a[i] : d[i];
  return op + 1;
}
const Op* op_narrow_u64(Context& c, const Op* op) {
  auto* d = reg<std::uint32_t>(c, op->r[0]);
  const auto* a = reg<std::uint64_t>(c, op->r[1]);
  for (unsigned i = 0; i < lanes; ++i)
    d[i] = (c.mask >> i & 1) != 0 ? static_cast<std::uint32_t>(a[i]) : d[i];
  return op + 1;
}
const Op* op_narrow_u32_u16(Context& c, const Op* op) {
  auto* d = reg<std::uint16_t>(c, op->r[0]);
  const auto* a = reg<std::uint32_t>(c, op->r[1]);
  for (unsigned i = 0; i < lanes; ++i)
    d[i] = (c.mask >> i & 1) != 0 ? static_cast<std::uint16_t>(a[i]) : d[i];
  return op + 1;
}

void start_block(Context& c, Block& block, GridRun& grid, std::uint64_t index) {
  const std::uint32_t threads = grid.block.x * grid.block.y * grid.block.z;
  const std::uint32_t warps = (threads + lanes - 1) / lanes;
  const std::uint64_t row = std::uint64_t{grid.grid.x} * grid.grid.y;
  block.grid = &grid;
  block.id = {static_cast<std::uint32_t>(index % grid.grid.x),
              static_cast<std::uint32_t>(index / grid.grid.x % grid.grid.y),
              static_cast<std::uint32_t>(index / row)};
  block.threads = threads;
  block.next_warp = 0;
  block.barriers.fill({});
  const KernelCode& code = *grid.code;
  if (block.warps.empty()) {
    block.shared_size = code.static_shared + grid.dynamic_shared;
    block.shared_storage.resize(block.shared_size + 192);
    block.shared = block.shared_storage.data();
    block.shared += (128 - reinterpret_cast<std::uintptr_t>(block.shared) % 128) % 128;
    const std::size_t stride = code.stack_bytes == 0 ? 0 : code.stack_bytes + 64;
    if (stride != 0) {
      block.local_storage_size = stride * lanes * warps;
      block.local_memory = Pages(block.local_storage_size);
      block.local_storage = block.local_memory.data();
    }
    for (std::uint32_t w = 0; w < warps; ++w) {
      auto warp = std::make_unique<Warp>();
      warp->block = &block;
      warp->index = w;
      warp->local = block.local_storage + stride * lanes * w;
      for (unsigned i = 0; i < lanes; ++i) {
        const std::uint32_t t = w * lanes + i;
        warp->tid_x[i] = t % grid.block.x;
        warp->tid_y[i] = t / grid.block.x % grid.block.y;
        warp->tid_z[i] = t / grid.block.x / grid.block.y;
        if (t < threads) warp->initial |= 1U << i;
      }
      block.warps.push_back(std::move(warp));
    }
  }
  for (auto& w : block.warps) {
    for (Split& s : w->splits) s = {};
    if (w->splits.empty()) w->splits.emplace_back();
    Frame* f = c.frames->take(*code.entry);
    f->references = 1;
    f->local_base = 0;
    f->local_top = code.entry->local_bytes;
    w->splits[0] =
        Split{.pc = code.entry->ops.data(), .mask = w->initial, .state = Split::State::ready, .frame = f};
    w->used = 1;
    w->current = 0;
    w->live = w->initial;
    w->budget = slice_budget;
    w->turned = false;
  }
}

namespace {

enum class WarpEnd : std::uint8_t { stopped, yielded };

WarpEnd run_warp(Context& c, Warp& w) {
  c.warp = &w;
  c.local = w.local;
  c.budget = w.budget;
  c.turn = takes_turns(w) ? turn_instructions : std::numeric_limits<std::int64_t>::max();
  c.yielded = false;
  // The next ready split after the one that ran last, so that splits that spin take turns.
  const Op* op = w.turned ? switch_to(c, w.current) : nullptr;
  w.turned = false;
  const std::size_t n = w.splits.size();
  for (std::size_t k = 1; k <= n && op == nullptr; ++k) {
    const std::size_t i = (static_cast<std::size_t>(w.current) + k) % n;
    if (w.splits[i].state == Split::State::ready) {
      op = switch_to(c, static_cast<std::int32_t>(i));
    }
  }
  if (op == nullptr) op = schedule(c);
  while (op != nullptr) op = op->fn(c, op);
  w.budget = w.turned ? c.budget : slice_budget;
  return c.yielded ? WarpEnd::yielded : WarpEnd::stopped;
}

bool has_ready(const Warp& w) {
  return std::any_of(w.splits.begin(), w.splits.end(), [](const Split& s) {
    return s.state == Split::State::ready || s.state == Split::State::at_sync;
  });
}

}  // namespace

BlockState run_block(Context& c, Block& block) {
  GridRun& grid = *block.grid;
  c.block = &block;
  c.grid = &grid;
  c.shared = block.shared;
  c.shared_size = block.shared_size;
  c.local_stride = grid.code->stack_bytes == 0 ? 0 : grid.code->stack_bytes + 64;
  return guarded(c, [&]() -> BlockState {
    bool released = false;
    for (;;) {
      if (grid.stop.load(std::memory_order_relaxed)) return BlockState::faulted;
      if (grid.cancel != nullptr && grid.cancel->load(std::memory_order_relaxed))
        raise_fault(c, nullptr, Fault::launch_timeout, 0, "the launch was cancelled");
      bool progress = false, spun = false, any = false;
      for (auto& w : block.warps) {
        if (w->live == 0) continue;
        any = true;
        if (!has_ready(*w)) continue;
        if (run_warp(c, *w) == WarpEnd::yielded) {
          spun = true;
        } else {
          progress = true;
        }
        released = false;
      }
      if (!any) return BlockState::finished;
      if (progress) continue;
      if (spun) return BlockState::yielded;
      // Every lane waits: at a barrier whose other threads wait at rejoin points for these. Let those go on.
      if (released)
        raise_fault(c, nullptr, Fault::trap, 0,
                    "deadlock: every thread of a block waits at a barrier that cannot complete");
      released = true;
      for (auto& w : block.warps) {
        if (w->live == 0) continue;
        c.warp = w.get();
        release_arrived(c);
      }
      check_barriers(block);
    }
  });
}

}  // namespace softgpu::exec
