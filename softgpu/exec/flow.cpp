// Lays drafts out as ops: finds basic blocks and rejoin points, gives registers places by liveness.
#include <algorithm>
#include <bit>
#include <cstring>
#include <set>

#include "softgpu/exec/builder.hpp"
#include "softgpu/exec/machine.hpp"

namespace softgpu::exec {

namespace {

struct Basic {
  std::uint32_t begin = 0, end = 0;  ///< drafts
  std::vector<std::uint32_t> next, before;
};

struct Graph {
  std::vector<Basic> blocks;
  std::vector<std::uint32_t> of_draft;
};

bool ends_block(const Draft& d) {
  return d.flow != Draft::Flow::next;
}

Graph build_graph(const Builder& b) {
  const auto& drafts = b.drafts;
  const std::size_t n = drafts.size();
  std::vector<char> leader(n + 1, 0);
  leader[0] = 1;
  auto position = [&](std::int32_t label) {
    return static_cast<std::size_t>(b.label_positions[static_cast<std::size_t>(label)]);
  };
  for (std::size_t i = 0; i < n; ++i) {
    if (!ends_block(drafts[i])) continue;
    leader[i + 1] = 1;
    if (drafts[i].label >= 0) leader[position(drafts[i].label)] = 1;
    for (auto l : drafts[i].labels) leader[position(l)] = 1;
  }
  Graph g;
  g.of_draft.resize(n + 1);
  for (std::size_t i = 0; i < n; ++i) {
    if (leader[i] != 0) {
      if (!g.blocks.empty()) g.blocks.back().end = static_cast<std::uint32_t>(i);
      g.blocks.push_back({.begin = static_cast<std::uint32_t>(i)});
    }
    g.of_draft[i] = static_cast<std::uint32_t>(g.blocks.size() - 1);
  }
  g.blocks.back().end = static_cast<std::uint32_t>(n);
  for (std::uint32_t k = 0; k < g.blocks.size(); ++k) {
    Basic& blk = g.blocks[k];
    const Draft& last = drafts[blk.end - 1];
    auto edge = [&](std::size_t at) {
      if (at >= n) return;
      const std::uint32_t t = g.of_draft[at];
      if (std::find(blk.next.begin(), blk.next.end(), t) == blk.next.end()) blk.next.push_back(t);
    };
    if (last.flow == Draft::Flow::next || last.flow == Draft::Flow::branch) edge(blk.end);
    if (last.label >= 0) edge(position(last.label));
    for (auto l : last.labels) edge(position(l));
  }
  for (std::uint32_t k = 0; k < g.blocks.size(); ++k)
    for (auto t : g.blocks[k].next) g.blocks[t].before.push_back(k);
  return g;
}

// Immediate post-dominators; -1 = none. Blocks that end the function early are taken as dead ends, so that
// code with early returns still rejoins: the last block that ends the function is the root.
std::vector<std::int32_t> post_dominators(const Builder& b, const Graph& g) {
  const std::size_t n = g.blocks.size();
  std::vector<std::int32_t> idom(n, -1);
  std::vector<char> reachable(n, 0);
  std::vector<std::uint32_t> stack{0};
  reachable[0] = 1;
  while (!stack.empty()) {
    const auto k = stack.back();
    stack.pop_back();
    for (auto t : g.blocks[k].next)
      if (reachable[t] == 0) reachable[t] = 1, stack.push_back(t);
  }
  std::int32_t root = -1;
  for (std::size_t k = n; k-- > 0;) {
    const Draft& last = b.drafts[g.blocks[k].end - 1];
    if (reachable[k] != 0 && g.blocks[k].next.empty() && last.op.fn != op_trap) {
      root = static_cast<std::int32_t>(k);
      break;
    }
  }
  if (root < 0) return idom;
  // Post-order of the reverse graph from the root.
  std::vector<std::int32_t> order(n, -1);
  std::vector<std::uint32_t> post;
  std::vector<std::pair<std::uint32_t, std::size_t>> walk{{static_cast<std::uint32_t>(root), 0}};
  std::vector<char> seen(n, 0);
  seen[static_cast<std::size_t>(root)] = 1;
  while (!walk.empty()) {
    auto& [k, e] = walk.back();
    if (e < g.blocks[k].before.size()) {
      const auto t = g.blocks[k].before[e++];
      if (seen[t] == 0) {
        seen[t] = 1;
        walk.emplace_back(t, 0);
      }
    } else {
      order[k] = static_cast<std::int32_t>(post.size());
      post.push_back(k);
      walk.pop_back();
    }
  }
  idom[static_cast<std::size_t>(root)] = root;
  auto meet = [&](std::int32_t x, std::int32_t y) {
    while (x != y) {
      while (order[static_cast<std::size_t>(x)] < order[static_cast<std::size_t>(y)])
        x = idom[static_cast<std::size_t>(x)];
      while (order[static_cast<std::size_t>(y)] < order[static_cast<std::size_t>(x)])
        y = idom[static_cast<std::size_t>(y)];
    }
    return x;
  };
  for (bool changed = true; changed;) {
    changed = false;
    for (std::size_t i = post.size(); i-- > 0;) {
      const auto k = post[i];
      if (static_cast<std::int32_t>(k) == root) continue;
      std::int32_t d = -1;
      for (auto t : g.blocks[k].next) {
        if (idom[t] < 0) continue;
        d = d < 0 ? static_cast<std::int32_t>(t) : meet(d, static_cast<std::int32_t>(t));
      }
      if (d != idom[k]) idom[k] = d, changed = true;
    }
  }
  idom[static_cast<std::size_t>(root)] = -1;
  return idom;
}

// Gives every virtual register a byte offset; registers whose lives do not meet share one.
struct Places {
  std::vector<std::uint32_t> offset;
  std::uint32_t size = 0;
  std::uint32_t words = 0;  ///< 32-bit registers a lane, constants aside
};

Places place(const Builder& b, const Graph& g) {
  const std::size_t regs = b.vregs.size(), blocks = g.blocks.size(), chunk = (regs + 63) / 64;
  using Bits = std::vector<std::uint64_t>;
  std::vector<Bits> in(blocks, Bits(chunk)), gen(blocks, Bits(chunk)), kill(blocks, Bits(chunk));
  auto bit = [](Bits& s, std::size_t v) { s[v / 64] |= std::uint64_t{1} << (v % 64); };
  auto test = [](const Bits& s, std::size_t v) { return (s[v / 64] >> (v % 64) & 1) != 0; };
  for (std::size_t k = 0; k < blocks; ++k) {
    for (std::size_t i = g.blocks[k].begin; i < g.blocks[k].end; ++i) {
      const Draft& d = b.drafts[i];
      for (unsigned f = 0; f < 10; ++f)
        if ((d.uses >> f & 1) != 0 && !test(kill[k], d.op.r[f])) bit(gen[k], d.op.r[f]);
      for (unsigned f = 0; f < 10; ++f)
        if ((d.defs >> f & 1) != 0 && !d.partial) bit(kill[k], d.op.r[f]);
    }
  }
  std::vector<Bits> out(blocks, Bits(chunk));
  for (bool changed = true; changed;) {
    changed = false;
    for (std::size_t k = blocks; k-- > 0;) {
      for (std::size_t w = 0; w < chunk; ++w) {
        std::uint64_t o = 0;
        for (auto t : g.blocks[k].next) o |= in[t][w];
        out[k][w] = o;
        const std::uint64_t v = gen[k][w] | (o & ~kill[k][w]);
        if (v != in[k][w]) in[k][w] = v, changed = true;
      }
    }
  }
  constexpr std::uint32_t never = 0xffffffffU;
  std::vector<std::uint32_t> first(regs, never), last(regs, 0);
  auto touch = [&](std::size_t v, std::size_t at) {
    first[v] = std::min(first[v], static_cast<std::uint32_t>(at));
    last[v] = std::max(last[v], static_cast<std::uint32_t>(at));
  };
  for (std::size_t k = 0; k < blocks; ++k) {
    for (std::size_t w = 0; w < chunk; ++w) {
      for (std::uint64_t m = in[k][w]; m != 0; m &= m - 1)
        touch(w * 64 + static_cast<std::size_t>(std::countr_zero(m)), g.blocks[k].begin);
      for (std::uint64_t m = out[k][w]; m != 0; m &= m - 1)
        touch(w * 64 + static_cast<std::size_t>(std::countr_zero(m)), g.blocks[k].end);
    }
    for (std::size_t i = g.blocks[k].begin; i < g.blocks[k].end; ++i) {
      const Draft& d = b.drafts[i];
      for (unsigned f = 0; f < 10; ++f)
        if (((d.uses | d.defs) >> f & 1) != 0) touch(d.op.r[f], i);
    }
  }
  // Extension ops belong to the op before them: all their operands live at once.
  Places p;
  p.offset.assign(regs, 0);
  auto bytes_of = [](const VregInfo& v) { return v.bytes == 0 ? 4U : v.bytes * lanes; };
  std::vector<std::uint32_t> order;
  for (std::uint32_t v = 0; v < regs; ++v) {
    if (b.vregs[v].pinned || (b.vregs[v].constant && first[v] != never)) {
      if (b.vregs[v].bytes != 0) p.size = (p.size + 63) / 64 * 64;
      p.offset[v] = p.size;
      p.size += bytes_of(b.vregs[v]);
    } else if (first[v] != never) {
      order.push_back(v);
    }
  }
  std::stable_sort(order.begin(), order.end(), [&](auto x, auto y) { return first[x] < first[y]; });
  std::vector<std::uint32_t> spare[9];
  std::multimap<std::uint32_t, std::uint32_t> active;  // last use -> register
  for (const auto v : order) {
    // A place is free for definitions strictly after its last use: handlers may write before they have read
    // all.
    while (!active.empty() && active.begin()->first < first[v]) {
      const auto u = active.begin()->second;
      spare[b.vregs[u].bytes].push_back(p.offset[u]);
      active.erase(active.begin());
    }
    auto& list = spare[b.vregs[v].bytes];
    if (!list.empty()) {
      p.offset[v] = list.back();
      list.pop_back();
    } else {
      if (b.vregs[v].bytes != 0) p.size = (p.size + 63) / 64 * 64;
      p.offset[v] = p.size;
      p.size += bytes_of(b.vregs[v]);
      p.words += b.vregs[v].bytes == 8 ? 2U : b.vregs[v].bytes == 0 ? 0U : 1U;
    }
    active.emplace(last[v], v);
  }
  return p;
}

}  // namespace

void lower(Builder& b, FunctionCode& code) {
  const Graph g = build_graph(b);
  const std::vector<std::int32_t> rejoin = post_dominators(b, g);
  const Places places = place(b, g);
  code.frame_bytes = (places.size + 63) / 64 * 64;
  code.registers = places.words;
  code.local_bytes = b.local_bytes;
  code.dynamic_stack = b.dynamic_stack;
  for (std::size_t v = 0; v < b.vregs.size(); ++v) {
    const VregInfo& r = b.vregs[v];
    if (!r.constant) continue;
    if (r.bytes == 8) code.constants64.emplace_back(places.offset[v], r.value);
    if (r.bytes == 4) code.constants32.emplace_back(places.offset[v], r.value);
    if (r.bytes == 2) code.constants16.emplace_back(places.offset[v], static_cast<std::uint32_t>(r.value));
    if (r.bytes == 0) code.constant_predicates.emplace_back(places.offset[v], r.value != 0);
  }
  for (auto [v, bytes] : b.params)
    code.params.push_back({bytes != 0 ? places.offset[v] : 0, (bytes + 3) / 4});
  for (auto [v, bytes] : b.results)
    code.results.push_back({bytes != 0 ? places.offset[v] : 0, (bytes + 3) / 4});

  // Every block starts with op_block; positions shift by the number of blocks up to there.
  std::vector<std::uint32_t> start(g.blocks.size());
  for (std::uint32_t k = 0; k < g.blocks.size(); ++k) start[k] = g.blocks[k].begin + k;
  auto block_at = [&](std::int32_t label) {
    const auto at = static_cast<std::size_t>(b.label_positions[static_cast<std::size_t>(label)]);
    return g.of_draft[at];
  };
  // A loop that polls memory is expensive, so that warps which spin give way soon.
  auto spin_cost = [&](std::uint32_t from, std::uint32_t to) -> std::uint16_t {
    if (to - from > 64) return 1;
    for (std::uint32_t i = from; i < to; ++i)
      if (b.drafts[i].op.csr == 0xffff) return 256;
    return 1;
  };
  code.ops.reserve(b.drafts.size() + g.blocks.size());
  for (std::uint32_t k = 0; k < g.blocks.size(); ++k) {
    const Basic& blk = g.blocks[k];
    Op head;
    head.fn = op_block;
    head.line = b.drafts[blk.begin].op.line;
    std::uint64_t count = 0;
    for (std::uint32_t i = blk.begin; i < blk.end; ++i) {
      const Handler fn = b.drafts[i].op.fn;
      count += fn != nullptr && fn != op_guard && fn != op_guard_not ? 1U : 0U;
    }
    head.imm = count;
    code.ops.push_back(head);
    for (std::uint32_t i = blk.begin; i < blk.end; ++i) {
      const Draft& d = b.drafts[i];
      Op op = d.op;
      for (unsigned f = 0; f < 10; ++f)
        if (((d.uses | d.defs) >> f & 1) != 0) op.r[f] = places.offset[d.op.r[f]];
      const auto here = static_cast<std::int64_t>(code.ops.size());
      if (d.flow == Draft::Flow::branch || d.flow == Draft::Flow::jump) {
        const std::uint32_t t = block_at(d.label);
        op.r[1] = static_cast<std::uint32_t>(static_cast<std::int64_t>(start[t]) - here);
        if (g.blocks[t].begin <= i) {
          op.aux = spin_cost(g.blocks[t].begin, i);
          op.fn = op.fn == op_branch       ? op_branch_back
                  : op.fn == op_branch_not ? op_branch_back_not
                  : op.fn == op_jump       ? op_jump_back
                                           : op.fn;
        }
      }
      if (d.flow == Draft::Flow::table) {
        op.imm = code.tables.size();
        op.aux = static_cast<std::uint16_t>(d.labels.size());
        for (auto l : d.labels) code.tables.push_back(static_cast<std::int32_t>(start[block_at(l)]));
      }
      if (d.flow == Draft::Flow::branch || d.flow == Draft::Flow::table) {
        op.r[2] = rejoin[k] < 0
                      ? 0
                      : static_cast<std::uint32_t>(
                            static_cast<std::int64_t>(start[static_cast<std::size_t>(rejoin[k])]) - here);
      }
      if (op.csr == 0xffff) op.csr = 0;
      code.ops.push_back(op);
    }
  }
  code.ready = true;
}

}  // namespace softgpu::exec
