#include "libclient/cuda/graph_calls.hpp"

namespace vgpu::client {

CUresult check_graph(Call& call, CUgraph graph) {
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  return call.process().graphs.find(bits(graph)) != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult check_exec(Call& call, CUgraphExec exec) {
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  return call.process().graph_execs.find(bits(exec)) != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult check_node(Call& call, CUgraphNode node) {
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  return call.process().graph_nodes.find(bits(node)) != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

void append_sources(Call& call, std::vector<std::byte>& tail, const CUgraphNode* nodes, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const GraphNode* const node = call.process().graph_nodes.find(bits(nodes[i]));
    const std::uint64_t source = node != nullptr && node->completion != 0 ? node->completion : bits(nodes[i]);
    append(tail, &source, 1);
  }
}

std::uint64_t mint_node(Call& call, std::uint64_t graph) {
  const std::uint64_t node = call.mint(HandleKind::graph_node);
  adopt_node(call, graph, node);
  return node;
}

void adopt_node(Call& call, std::uint64_t graph, std::uint64_t node) {
  Process& process = call.process();
  const std::lock_guard lock(process.graphs_mutex);
  GraphNode* const object = process.graph_nodes.find(node);
  Graph* const owner = process.graphs.find(graph);
  if (object == nullptr || owner == nullptr || object->graph == graph) return;
  object->graph = graph;
  owner->nodes.push_back(node);
}

void forget_graph(Call& call, std::uint64_t graph) {
  Process& process = call.process();
  std::vector<std::uint64_t> nodes;
  {
    const std::lock_guard lock(process.graphs_mutex);
    if (Graph* const object = process.graphs.find(graph)) nodes = std::move(object->nodes);
  }
  for (const std::uint64_t node : nodes) process.graph_nodes.destroy(node);
  process.graphs.destroy(graph);
}

}  // namespace vgpu::client
