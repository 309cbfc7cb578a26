// Lists of graph nodes that come back from the worker: it fills a block of freshly minted handles with those
// of known nodes and takes the others, in order, for nodes it names for the first time.
#pragma once

#include <cuda.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

#include "libclient/cuda/arena_block.hpp"
#include "libclient/cuda/stub_runtime.hpp"

namespace vgpu::client {

/// Sends `record` (which has a field `nodes`) and gathers at most `capacity` nodes. The count in the reply is
/// that of all nodes.
template <class Record, class Answer>
CUresult ask_nodes(Call& call, Record& record, Answer& reply, std::size_t capacity,
                   std::vector<std::uint64_t>& out) {
  out.clear();
  if (capacity == 0) return call.ask(record, reply);
  const std::uint64_t bytes = capacity * sizeof(std::uint64_t);
  if (bytes > call.connection().largest_block()) return CUDA_ERROR_OUT_OF_MEMORY;
  ArenaLease block(call.connection(), bytes);
  if (!block) return CUDA_ERROR_DEVICE_UNAVAILABLE;
  std::vector<std::uint64_t> minted(capacity);
  for (std::uint64_t& handle : minted) handle = call.mint(HandleKind::graph_node);
  std::memcpy(block.data(), minted.data(), bytes);
  record.nodes = block.span(bytes);
  const CUresult result = call.ask(record, reply);
  if (result == CUDA_SUCCESS) {
    out.resize(std::min<std::size_t>(capacity, reply.node_count));
    std::memcpy(out.data(), block.data(), out.size() * sizeof(std::uint64_t));
  }
  block.discard();
  std::vector<std::uint64_t> used = out;
  std::sort(used.begin(), used.end());
  for (const std::uint64_t handle : minted) {
    if (!std::binary_search(used.begin(), used.end(), handle)) call.forget(handle);
  }
  return result;
}

/// The data of a list's edges, which the worker writes into a block of their own.
class EdgeBlock {
 public:
  /// Leases a block for `capacity` edges and names it in the record; false when the worker is gone.
  bool lease(Call& call, std::size_t capacity, ArenaSpan& span) {
    if (capacity == 0) return true;
    const std::uint64_t bytes = capacity * sizeof(CUgraphEdgeData);
    if (bytes > call.connection().largest_block()) return false;
    block_ = ArenaLease(call.connection(), bytes);
    if (!block_) return false;
    std::memset(block_.data(), 0, bytes);
    span = block_.span(bytes);
    return true;
  }
  /// Copies the first `count` edges out.
  void read(CUgraphEdgeData* edges, std::size_t count) const {
    if (block_ && count != 0) std::memcpy(edges, block_.data(), count * sizeof *edges);
  }
  ~EdgeBlock() {
    if (block_) block_.discard();
  }
  EdgeBlock() = default;
  EdgeBlock(const EdgeBlock&) = delete;
  EdgeBlock& operator=(const EdgeBlock&) = delete;

 private:
  ArenaLease block_;
};

}  // namespace vgpu::client
