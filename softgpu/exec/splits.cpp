#include "softgpu/exec/splits.hpp"

#include <algorithm>

#include "softgpu/exec/fault.hpp"

namespace softgpu::exec {

std::int32_t new_split(Warp& w) {
  ++w.used;
  for (std::size_t i = 0; i < w.splits.size(); ++i)
    if (w.splits[i].state == Split::State::free) return static_cast<std::int32_t>(i);
  w.splits.emplace_back();
  return static_cast<std::int32_t>(w.splits.size() - 1);
}

namespace {

void release_frame(Context& c, Frame* f) {
  if (--f->references == 0) c.frames->give(f);
}

}  // namespace

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

const Op* diverge(Context& c, const Op* a, std::uint32_t first, const Op* b, const Op* rejoin) {
  Warp& w = *c.warp;
  const std::int32_t i = w.current;
  const std::uint32_t second = c.mask & ~first;
  // The first lanes become a split beside this one, which keeps the rest.
  const auto split_off = [&] {
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
  };
  if (rejoin != nullptr && rejoin == c.rejoin) {
    // The parent already waits there: lanes that go straight to it have arrived.
    if (a == rejoin || b == rejoin) {
      Split& s = split(w, i);
      s.mask = c.mask = a == rejoin ? second : first;
      return a == rejoin ? b : a;
    }
    split_off();
    split(w, i).pc = b;
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
    split_off();
    return b;
  }
  split(w, i).pc = rejoin;
  split(w, i).state = Split::State::waiting;
  if (a != rejoin) child(a, first);
  if (b != rejoin) return switch_to(c, child(b, second));
  return schedule(c);
}

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

const Op* end_turn(Warp& w) {
  w.turned = true;
  return nullptr;
}

std::int32_t leave(Warp& w, std::uint32_t mask) {
  std::int32_t p = split(w, w.current).parent;
  while (p >= 0 && split(w, p).call == nullptr) {
    split(w, p).mask &= ~mask;
    p = split(w, p).parent;
  }
  return p;
}

}  // namespace softgpu::exec
