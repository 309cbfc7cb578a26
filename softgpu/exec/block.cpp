// A block from its start to its end: its frames, its warps in turn.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>

#include "softgpu/exec/fault.hpp"
#include "softgpu/exec/splits.hpp"

namespace softgpu::exec {
namespace {

// Warps that share memory go on side by side, as they do in hardware, none some hundred instructions ahead of
// the others: kernels whose barriers do not order all that they do rely on it (docs/decisions.md, 72).
constexpr std::int64_t turn_instructions = 64;

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
