// Graph nodes of all types in their generic form: added, changed in a graph or an executable, and asked for
// their parameters. Older calls' forms are cu_graph_nodes.cpp's business.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <vector>

#include "libclient/cuda/objects.hpp"
#include "libclient/cuda/stub_runtime.hpp"

namespace vgpu::client {

inline CUgraphNodeParams of_type(CUgraphNodeType type) {
  CUgraphNodeParams params{};
  params.type = type;
  return params;
}

/// cuGraphAddNode_v2; `edges` may be null. A copy of pageable memory becomes one of pinned memory with a host
/// node before or behind it, which is hidden from the program. Where the type has results they are in
/// `params`.
CUresult add_node(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies,
                  const CUgraphEdgeData* edges, std::size_t count, CUgraphNodeParams& params);
/// cuGraphNodeSetParams.
CUresult set_node(CUgraphNode node, const CUgraphNodeParams& params);
/// cuGraphExecNodeSetParams.
CUresult set_exec_node(CUgraphExec exec, CUgraphNode node, const CUgraphNodeParams& params);

/// The parameters of a node of this type, as records carry them (protocol/graph_node.hpp), and the node.
CUresult get_node(Call& call, CUgraphNode node, CUgraphNodeType type, GraphNode*& object,
                  std::vector<std::byte>& out);

}  // namespace vgpu::client
