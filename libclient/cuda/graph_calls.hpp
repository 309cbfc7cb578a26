// What the calls on graphs and those on their nodes share: checks of handles, dependencies in a record's
// tail, and which nodes belong to which graph. Never: waits.
#pragma once

#include <cuda.h>

#include <cstring>
#include <vector>

#include "libclient/cuda/stub_runtime.hpp"
#include "protocol/record.hpp"

namespace vgpu::client {

/// Dependencies that one record carries at most.
inline constexpr std::size_t kMostDependencies = 4096;

CUresult check_graph(Call& call, CUgraph graph);
CUresult check_exec(Call& call, CUgraphExec exec);
CUresult check_node(Call& call, CUgraphNode node);

/// Appends bytes as they are.
template <class T>
void append(std::vector<std::byte>& tail, const T* values, std::size_t count) {
  const auto bytes = std::as_bytes(std::span(values, count));
  tail.insert(tail.end(), bytes.begin(), bytes.end());
}

/// Appends nodes on which something depends: of a copy that a host node completes, that node.
void append_sources(Call& call, std::vector<std::byte>& tail, const CUgraphNode* nodes, std::size_t count);

/// True when a record with this tail fits the ring.
template <class Record>
bool fits(const Record&, const std::vector<std::byte>& tail) {
  return sizeof(Record) + tail.size() <= max_record_bytes;
}

/// A new node's handle, noted as one of `graph`'s.
std::uint64_t mint_node(Call& call, std::uint64_t graph);
/// Notes that a node which a list named is one of `graph`'s.
void adopt_node(Call& call, std::uint64_t graph, std::uint64_t node);
/// Forgets a graph and its nodes.
void forget_graph(Call& call, std::uint64_t graph);

}  // namespace vgpu::client
