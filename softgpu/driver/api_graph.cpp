// cuGraph*: making, cloning, instantiating, updating and launching graphs. Nodes' calls stand in
// api_graph_nodes.cpp.
#include <algorithm>
#include <fstream>

#include "softgpu/driver/api.hpp"
#include "softgpu/driver/graph.hpp"
#include "softgpu/driver/graph_api.hpp"
#include "softgpu/driver/module.hpp"

using namespace softgpu;

namespace {

const char* type_name(CUgraphNodeType type) {
  switch (type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
      return "kernel";
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      return "memcpy";
    case CU_GRAPH_NODE_TYPE_MEMSET:
      return "memset";
    case CU_GRAPH_NODE_TYPE_HOST:
      return "host";
    case CU_GRAPH_NODE_TYPE_GRAPH:
      return "graph";
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
      return "event wait";
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
      return "event record";
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
      return "alloc";
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
      return "free";
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
      return "memory operation";
    default:
      return "empty";
  }
}

// Fills an array of the program's: with null only the count.
template <class Put>
CUresult list(std::size_t total, bool wanted, std::size_t* count, Put put) {
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!wanted) {
    *count = total;
    return CUDA_SUCCESS;
  }
  for (std::size_t i = 0; i < *count; ++i) put(i);
  *count = std::min(*count, total);
  return CUDA_SUCCESS;
}

CUresult list_nodes(const std::vector<GraphNode*>& nodes, CUgraphNode* out, CUgraphEdgeData* edges,
                    std::size_t* count) {
  return list(nodes.size(), out != nullptr, count, [&](std::size_t i) {
    out[i] = i < nodes.size() ? nodes[i]->handle() : nullptr;
    if (edges != nullptr) edges[i] = {};
  });
}

CUresult list_edges(CUgraph handle, CUgraphNode* from, CUgraphNode* to, CUgraphEdgeData* edges,
                    std::size_t* count) {
  return on_graph(handle, [&](Driver&, Graph& graph) -> CUresult {
    if ((from == nullptr) != (to == nullptr)) return CUDA_ERROR_INVALID_VALUE;
    std::vector<std::pair<GraphNode*, GraphNode*>> all;
    for (const auto& node : graph.nodes) {
      for (GraphNode* const earlier : node->before) all.emplace_back(earlier, node.get());
    }
    return list(all.size(), from != nullptr, count, [&](std::size_t i) {
      from[i] = i < all.size() ? all[i].first->handle() : nullptr;
      to[i] = i < all.size() ? all[i].second->handle() : nullptr;
      if (edges != nullptr) edges[i] = {};
    });
  });
}

CUresult change_edges(CUgraph handle, const CUgraphNode* from, const CUgraphNode* to, std::size_t count,
                      bool add) {
  return on_graph(handle, [&](Driver&, Graph& graph) -> CUresult {
    if (count != 0 && (from == nullptr || to == nullptr)) return CUDA_ERROR_INVALID_VALUE;
    for (std::size_t i = 0; i < count; ++i) {
      GraphNode* const first = find_node(from[i]);
      GraphNode* const second = find_node(to[i]);
      const bool mine =
          first != nullptr && second != nullptr && first->graph == &graph && second->graph == &graph;
      if (!mine || first == second) return CUDA_ERROR_INVALID_VALUE;
      if (!add && graph.has_memory_nodes()) return CUDA_ERROR_NOT_SUPPORTED;
      const bool changed = add ? graph.connect(first, second) : graph.disconnect(first, second);
      if (!changed) return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
  });
}

CUresult make_exec(CUgraphExec* out, CUgraph handle, std::uint64_t flags) {
  return in_context([&](Driver& driver, Context& context) -> CUresult {
    constexpr std::uint64_t known = CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH |
                                    CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD |
                                    CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if ((flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH) != 0) return CUDA_ERROR_NOT_SUPPORTED;
    if ((flags & ~known) != 0) return CUDA_ERROR_INVALID_VALUE;
    const auto graph = driver.graphs.find(handle);
    if (graph == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const std::unique_lock lock(driver.graph_mutex);
    const bool alone = graph->has_memory_nodes();
    if (alone && !graph->instance.expired()) return CUDA_ERROR_NOT_SUPPORTED;
    std::shared_ptr<GraphExec> exec;
    if (const CUresult error = instantiate(context, *graph, flags, exec); error != CUDA_SUCCESS) return error;
    exec->source = graph;
    if (alone) graph->instance = exec;
    *out = exec->handle();
    driver.graph_execs.add(std::move(exec));
    return CUDA_SUCCESS;
  });
}

}  // namespace

SOFTGPU_API cuGraphCreate(CUgraph* out, unsigned flags) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (out == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
    *out = reinterpret_cast<CUgraph>(driver.graphs.add(std::make_shared<Graph>()));
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuGraphDestroy(CUgraph handle) {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto graph = driver.graphs.find(handle);
    if (graph == nullptr || graph->owned_by_node) return CUDA_ERROR_INVALID_VALUE;
    driver.graphs.remove(handle);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuGraphClone(CUgraph* out, CUgraph handle) {
  return on_graph(handle, [&](Driver& driver, Graph& graph) -> CUresult {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (graph.has_memory_nodes()) return CUDA_ERROR_NOT_SUPPORTED;
    *out = reinterpret_cast<CUgraph>(driver.graphs.add(graph.clone()));
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuGraphNodeFindInClone(CUgraphNode* out, CUgraphNode original, CUgraph clone) {
  return on_graph(clone, [&](Driver&, Graph& graph) -> CUresult {
    if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    for (const auto& node : graph.nodes) {
      if (node->cloned_from == nullptr || node->cloned_from != find_node(original)) continue;
      *out = node->handle();
      return CUDA_SUCCESS;
    }
    return CUDA_ERROR_INVALID_VALUE;
  });
}

SOFTGPU_API cuGraphGetNodes(CUgraph handle, CUgraphNode* nodes, std::size_t* count) {
  return on_graph(handle, [&](Driver&, Graph& graph) -> CUresult {
    std::vector<GraphNode*> all;
    for (const auto& node : graph.nodes) all.push_back(node.get());
    return list_nodes(all, nodes, nullptr, count);
  });
}

SOFTGPU_API cuGraphGetRootNodes(CUgraph handle, CUgraphNode* nodes, std::size_t* count) {
  return on_graph(handle, [&](Driver&, Graph& graph) -> CUresult {
    std::vector<GraphNode*> roots;
    for (const auto& node : graph.nodes) {
      if (node->before.empty()) roots.push_back(node.get());
    }
    return list_nodes(roots, nodes, nullptr, count);
  });
}

SOFTGPU_API cuGraphGetEdges(CUgraph graph, CUgraphNode* from, CUgraphNode* to, std::size_t* count) {
  return list_edges(graph, from, to, nullptr, count);
}
SOFTGPU_API cuGraphGetEdges_v2(CUgraph graph, CUgraphNode* from, CUgraphNode* to, CUgraphEdgeData* edges,
                               std::size_t* count) {
  return list_edges(graph, from, to, edges, count);
}

SOFTGPU_API cuGraphNodeGetDependencies_v2(CUgraphNode handle, CUgraphNode* out, CUgraphEdgeData* edges,
                                          std::size_t* count) {
  return on_node(handle,
                 [&](Driver&, GraphNode& node) { return list_nodes(node.before, out, edges, count); });
}
SOFTGPU_API cuGraphNodeGetDependencies(CUgraphNode node, CUgraphNode* out, std::size_t* count) {
  return cuGraphNodeGetDependencies_v2(node, out, nullptr, count);
}
SOFTGPU_API cuGraphNodeGetDependentNodes_v2(CUgraphNode handle, CUgraphNode* out, CUgraphEdgeData* edges,
                                            std::size_t* count) {
  return on_node(handle, [&](Driver&, GraphNode& node) { return list_nodes(node.after, out, edges, count); });
}
SOFTGPU_API cuGraphNodeGetDependentNodes(CUgraphNode node, CUgraphNode* out, std::size_t* count) {
  return cuGraphNodeGetDependentNodes_v2(node, out, nullptr, count);
}

SOFTGPU_API cuGraphAddDependencies(CUgraph graph, const CUgraphNode* from, const CUgraphNode* to,
                                   std::size_t count) {
  return change_edges(graph, from, to, count, true);
}
SOFTGPU_API cuGraphAddDependencies_v2(CUgraph graph, const CUgraphNode* from, const CUgraphNode* to,
                                      const CUgraphEdgeData*, std::size_t count) {
  return change_edges(graph, from, to, count, true);
}
SOFTGPU_API cuGraphRemoveDependencies(CUgraph graph, const CUgraphNode* from, const CUgraphNode* to,
                                      std::size_t count) {
  return change_edges(graph, from, to, count, false);
}
SOFTGPU_API cuGraphRemoveDependencies_v2(CUgraph graph, const CUgraphNode* from, const CUgraphNode* to,
                                         const CUgraphEdgeData*, std::size_t count) {
  return change_edges(graph, from, to, count, false);
}

SOFTGPU_API cuGraphDestroyNode(CUgraphNode handle) {
  return on_node(handle, [&](Driver&, GraphNode& node) -> CUresult {
    if (node.graph->has_memory_nodes()) return CUDA_ERROR_NOT_SUPPORTED;
    node.graph->remove(&node);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuGraphNodeGetType(CUgraphNode handle, CUgraphNodeType* type) {
  return on_node(handle, [&](Driver&, GraphNode& node) -> CUresult {
    if (type == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *type = node_type(*node.work);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuGraphInstantiateWithFlags(CUgraphExec* out, CUgraph graph, unsigned long long flags) {
  return make_exec(out, graph, flags);
}
SOFTGPU_API cuGraphInstantiate(CUgraphExec* out, CUgraph graph, CUgraphNode* error_node, char* log,
                               std::size_t size) {
  if (error_node != nullptr) *error_node = nullptr;
  if (log != nullptr && size != 0) *log = '\0';
  return make_exec(out, graph, 0);
}
SOFTGPU_API cuGraphInstantiate_v2(CUgraphExec* out, CUgraph graph, CUgraphNode* error_node, char* log,
                                  std::size_t size) {
  return cuGraphInstantiate(out, graph, error_node, log, size);
}
SOFTGPU_API cuGraphInstantiateWithParams(CUgraphExec* out, CUgraph graph,
                                         CUDA_GRAPH_INSTANTIATE_PARAMS* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = make_exec(out, graph, params->flags);
  params->hErrNode_out = nullptr;
  params->result_out = result == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS : CUDA_GRAPH_INSTANTIATE_ERROR;
  return result;
}
SOFTGPU_API cuGraphInstantiateWithParams_ptsz(CUgraphExec* out, CUgraph graph,
                                              CUDA_GRAPH_INSTANTIATE_PARAMS* params) {
  return cuGraphInstantiateWithParams(out, graph, params);
}

SOFTGPU_API cuGraphExecGetFlags(CUgraphExec handle, cuuint64_t* flags) {
  return on_exec(handle, [&](Driver&, GraphExec& exec) -> CUresult {
    if (flags == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *flags = exec.flags;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuGraphExecDestroy(CUgraphExec handle) {
  return with_driver([&](Driver& driver) -> CUresult {
    return driver.graph_execs.remove(handle) != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

SOFTGPU_API cuGraphLaunch(CUgraphExec handle, CUstream stream_handle) {
  return on_stream(stream_handle, [&](Driver& driver, Context&, Stream& stream) -> CUresult {
    const auto exec = driver.graph_execs.find(handle);
    if (exec == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (stream.capturing.load()) return refuse_capturing(stream);
    if (const CUresult error = refuse_implicit(stream); error != CUDA_SUCCESS) return error;
    const std::unique_lock lock(driver.graph_mutex);
    return launch(*exec, stream);
  });
}
SOFTGPU_API cuGraphLaunch_ptsz(CUgraphExec exec, CUstream stream) {
  return cuGraphLaunch(exec, per_thread(stream));
}

SOFTGPU_API cuGraphUpload(CUgraphExec handle, CUstream stream_handle) {
  return on_stream(stream_handle, [&](Driver& driver, Context&, Stream& stream) -> CUresult {
    if (driver.graph_execs.find(handle) == nullptr) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(stream, EmptyWork{});  // there is nothing to upload to
  });
}
SOFTGPU_API cuGraphUpload_ptsz(CUgraphExec exec, CUstream stream) {
  return cuGraphUpload(exec, per_thread(stream));
}

SOFTGPU_API cuGraphExecUpdate_v2(CUgraphExec handle, CUgraph graph_handle,
                                 CUgraphExecUpdateResultInfo* info) {
  return on_exec(handle, [&](Driver& driver, GraphExec& exec) -> CUresult {
    const auto graph = driver.graphs.find(graph_handle);
    if (graph == nullptr || info == nullptr) return CUDA_ERROR_INVALID_VALUE;
    return update(exec, *graph, *info);
  });
}
SOFTGPU_API cuGraphExecUpdate(CUgraphExec exec, CUgraph graph, CUgraphNode* error_node,
                              CUgraphExecUpdateResult* out) {
  CUgraphExecUpdateResultInfo info{};
  const CUresult result = cuGraphExecUpdate_v2(exec, graph, &info);
  if (error_node != nullptr) *error_node = info.errorNode;
  if (out != nullptr) *out = info.result;
  return result;
}

SOFTGPU_API cuGraphNodeSetEnabled(CUgraphExec handle, CUgraphNode node, unsigned enabled) {
  return on_exec(handle, [&](Driver&, GraphExec& exec) -> CUresult {
    const auto found = exec.index.find(reinterpret_cast<GraphNode*>(node));
    if (found == exec.index.end()) return CUDA_ERROR_INVALID_VALUE;
    const CUgraphNodeType type = node_type(*exec.nodes[found->second].work);
    const bool can = type == CU_GRAPH_NODE_TYPE_KERNEL || type == CU_GRAPH_NODE_TYPE_MEMCPY ||
                     type == CU_GRAPH_NODE_TYPE_MEMSET;
    if (!can) return CUDA_ERROR_INVALID_VALUE;
    exec.nodes[found->second].enabled = enabled != 0;
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuGraphNodeGetEnabled(CUgraphExec handle, CUgraphNode node, unsigned* enabled) {
  return on_exec(handle, [&](Driver&, GraphExec& exec) -> CUresult {
    const auto found = exec.index.find(reinterpret_cast<GraphNode*>(node));
    if (found == exec.index.end() || enabled == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *enabled = exec.nodes[found->second].enabled ? 1 : 0;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuGraphDebugDotPrint(CUgraph handle, const char* path, unsigned) {
  return on_graph(handle, [&](Driver&, Graph& graph) -> CUresult {
    if (path == nullptr) return CUDA_ERROR_INVALID_VALUE;
    std::ofstream out(path);
    out << "digraph graph {\n";
    for (std::size_t i = 0; i < graph.nodes.size(); ++i) {
      const GraphNode& node = *graph.nodes[i];
      out << "  n" << &node << " [label=\"" << i << ": " << type_name(node_type(*node.work));
      if (const auto* const kernel = std::get_if<KernelWork>(node.work.get()))
        out << ' ' << kernel->function->name;
      out << "\"];\n";
      for (const GraphNode* const earlier : node.before) out << "  n" << earlier << " -> n" << &node << ";\n";
    }
    out << "}\n";
    return out.good() ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
  });
}

SOFTGPU_API cuUserObjectCreate(CUuserObject* out, void* pointer, CUhostFn destroy, unsigned count,
                               unsigned flags) {
  return with_driver([&](Driver& driver) -> CUresult {
    if (out == nullptr || destroy == nullptr || count == 0 || flags != CU_USER_OBJECT_NO_DESTRUCTOR_SYNC) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    auto object = std::make_shared<UserObject>();
    object->pointer = pointer;
    object->destroy = destroy;
    object->references.store(count);
    *out = reinterpret_cast<CUuserObject>(driver.user_objects.add(std::move(object)));
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuUserObjectRetain(CUuserObject handle, unsigned count) {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto object = driver.user_objects.find(handle);
    if (object == nullptr || count == 0) return CUDA_ERROR_INVALID_VALUE;
    object->references.fetch_add(count);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuUserObjectRelease(CUuserObject handle, unsigned count) {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto object = driver.user_objects.find(handle);
    if (object == nullptr || count == 0 || object->references.load() < count) return CUDA_ERROR_INVALID_VALUE;
    drop_references(driver, *object, count);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuGraphRetainUserObject(CUgraph graph_handle, CUuserObject handle, unsigned count,
                                    unsigned flags) {
  return on_graph(graph_handle, [&](Driver& driver, Graph& graph) -> CUresult {
    const auto object = driver.user_objects.find(handle);
    if (object == nullptr || count == 0 || (flags & ~unsigned{CU_GRAPH_USER_OBJECT_MOVE}) != 0) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    if ((flags & CU_GRAPH_USER_OBJECT_MOVE) == 0) object->references.fetch_add(count);
    graph.user_objects[object.get()] += count;
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuGraphReleaseUserObject(CUgraph graph_handle, CUuserObject handle, unsigned count) {
  return on_graph(graph_handle, [&](Driver& driver, Graph& graph) -> CUresult {
    const auto object = driver.user_objects.find(handle);
    const auto held = graph.user_objects.find(object.get());
    if (object == nullptr || held == graph.user_objects.end() || held->second < count)
      return CUDA_ERROR_INVALID_VALUE;
    held->second -= count;
    if (held->second == 0) graph.user_objects.erase(held);
    drop_references(driver, *object, count);
    return CUDA_SUCCESS;
  });
}
