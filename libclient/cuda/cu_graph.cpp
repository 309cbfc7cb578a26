// Graphs as a whole: made, cloned, instantiated, updated, listed and ended in the worker. Their nodes:
// cu_graph_nodes.cpp. Launch, upload and some queries are generated.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "libclient/cuda/graph_calls.hpp"
#include "libclient/cuda/node_list.hpp"
#include "libclient/cuda/upcalls.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

struct Instantiated {
  CUgraphInstantiateResult result = CUDA_GRAPH_INSTANTIATE_ERROR;
  CUgraphNode error_node = nullptr;
};

// The handle a failed call named, of a node that may be new here; the other one goes back.
CUgraphNode named_node(Call& call, std::uint64_t fresh, std::uint64_t named) {
  if (named != fresh) call.forget(fresh);
  return from_bits<CUgraphNode>(named);
}

CUresult instantiate(CUgraphExec* out, CUgraph graph, unsigned long long flags, Instantiated& detail) {
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_graph(call, graph); result != CUDA_SUCCESS) return result;
  record::cuGraphInstantiateWithFlags record;
  record.exec = call.mint(HandleKind::graph_exec);
  record.graph = bits(graph);
  record.flags = flags;
  record.fresh_node = call.mint(HandleKind::graph_node);
  reply::cuGraphInstantiateWithFlags reply;
  CUresult result = call.ask(record, reply);
  detail.error_node = named_node(call, record.fresh_node, reply.error_node);
  if (result == CUDA_SUCCESS) {
    detail.result = static_cast<CUgraphInstantiateResult>(reply.result);
    result = static_cast<CUresult>(reply.status);
  }
  return hand_out(call.process().graph_execs, record.exec, result, out);
}

CUresult update(CUgraphExec exec, CUgraph graph, CUgraphExecUpdateResultInfo& info) {
  info = {CU_GRAPH_EXEC_UPDATE_ERROR, nullptr, nullptr};
  Call call;
  if (const CUresult result = check_exec(call, exec); result != CUDA_SUCCESS) return result;
  if (call.process().graphs.find(bits(graph)) == nullptr) return CUDA_ERROR_INVALID_VALUE;
  record::cuGraphExecUpdate_v2 record;
  record.exec = bits(exec);
  record.graph = bits(graph);
  record.fresh_node = call.mint(HandleKind::graph_node);
  record.fresh_from = call.mint(HandleKind::graph_node);
  reply::cuGraphExecUpdate_v2 reply;
  const CUresult result = call.ask(record, reply);
  info.errorNode = named_node(call, record.fresh_node, reply.error_node);
  info.errorFromNode = named_node(call, record.fresh_from, reply.error_from);
  if (result != CUDA_SUCCESS) return result;
  info.result = static_cast<CUgraphExecUpdateResult>(reply.result);
  return static_cast<CUresult>(reply.status);
}

// What the program knows of a list: hidden nodes left out, a copy in the place of the node that completes it.
void visible_nodes(Call& call, std::vector<std::uint64_t>& list) {
  const auto gone = [&](std::uint64_t& handle) {
    const GraphNode* const node = call.process().graph_nodes.find(handle);
    if (node == nullptr || !node->hidden) return false;
    if (node->completes == 0) return true;
    handle = node->completes;
    return false;
  };
  std::vector<std::uint64_t> kept;
  for (std::uint64_t handle : list) {
    if (gone(handle) || std::find(kept.begin(), kept.end(), handle) != kept.end()) continue;
    kept.push_back(handle);
  }
  list = std::move(kept);
}

bool has_hidden(Call& call, std::uint64_t graph) {
  const std::lock_guard lock(call.process().graphs_mutex);
  const Graph* const object = call.process().graphs.find(graph);
  return object != nullptr && object->hidden != 0;
}

// All nodes of a list. `edges`: where to the data of the edges to them, one for every `per_edge` nodes; or
// nullptr.
template <class Record, class Answer>
CUresult fetch_nodes(Call& call, std::uint64_t graph, Record& record, Answer& reply,
                     std::vector<std::uint64_t>& list, std::vector<CUgraphEdgeData>* edges = nullptr,
                     std::size_t per_edge = 1) {
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS || reply.node_count == 0)
    return result;
  const std::size_t total = reply.node_count;
  EdgeBlock block;
  if constexpr (requires { record.edges; }) {
    if (edges != nullptr && !block.lease(call, total / per_edge, record.edges))
      return CUDA_ERROR_OUT_OF_MEMORY;
  }
  if (const CUresult result = ask_nodes(call, record, reply, total, list); result != CUDA_SUCCESS)
    return result;
  // Another thread may have changed the graph in between: what was not listed is not there.
  if (reply.node_count > total) return CUDA_ERROR_INVALID_VALUE;
  for (const std::uint64_t node : list) adopt_node(call, graph, node);
  if (edges != nullptr) {
    edges->resize(list.size() / per_edge);
    block.read(edges->data(), edges->size());
  }
  return CUDA_SUCCESS;
}

// A list query: how many nodes there are, and as many of them as the caller has room for.
template <class Record, class Answer>
CUresult list_nodes(Call& call, std::uint64_t graph, Record& record, Answer& reply, CUgraphNode* nodes,
                    CUgraphEdgeData* edges, std::size_t* count) {
  if (count == nullptr || (nodes == nullptr && edges != nullptr)) return CUDA_ERROR_INVALID_VALUE;
  const bool hidden = has_hidden(call, graph);
  if (nodes == nullptr && !hidden) {
    const CUresult result = call.ask(record, reply);
    if (result == CUDA_SUCCESS) *count = reply.node_count;
    return result;
  }
  std::vector<std::uint64_t> list;
  std::vector<CUgraphEdgeData> data;
  const CUresult result = fetch_nodes(call, graph, record, reply, list, edges != nullptr ? &data : nullptr);
  if (result != CUDA_SUCCESS) return result;
  if (hidden) {
    visible_nodes(call, list);
    data.assign(list.size(), {});
  }
  if (nodes == nullptr) {
    *count = list.size();
    return CUDA_SUCCESS;
  }
  for (std::size_t i = 0; i < *count; ++i) {
    nodes[i] = from_bits<CUgraphNode>(i < list.size() ? list[i] : 0);
    if (edges != nullptr) edges[i] = i < data.size() ? data[i] : CUgraphEdgeData{};
  }
  *count = std::min(*count, list.size());
  return CUDA_SUCCESS;
}

template <class Record, class Answer>
CUresult list_neighbours(CUgraphNode node, CUgraphNode* nodes, CUgraphEdgeData* edges, std::size_t* count) {
  Call call;
  if (const CUresult result = check_node(call, node); result != CUDA_SUCCESS) return result;
  const GraphNode* const object = call.process().graph_nodes.find(bits(node));
  Record record;
  // What comes behind a copy that a host node completes comes behind that node.
  constexpr bool kBehind = std::is_same_v<Record, record::cuGraphNodeGetDependentNodes_v2>;
  record.node = kBehind && object != nullptr && object->completion != 0 ? object->completion : bits(node);
  Answer reply;
  return list_nodes(call, object != nullptr ? object->graph : 0, record, reply, nodes, edges, count);
}

CUresult list_edges(CUgraph graph, CUgraphNode* from, CUgraphNode* to, CUgraphEdgeData* edges,
                    std::size_t* count) {
  if (count == nullptr || (from == nullptr) != (to == nullptr) || (from == nullptr && edges != nullptr))
    return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_graph(call, graph); result != CUDA_SUCCESS) return result;
  record::cuGraphGetEdges_v2 record;
  record.graph = bits(graph);
  reply::cuGraphGetEdges_v2 reply;
  const bool hidden = has_hidden(call, bits(graph));
  if (from == nullptr && !hidden) {
    const CUresult result = call.ask(record, reply);
    if (result == CUDA_SUCCESS) *count = reply.node_count / 2;
    return result;
  }
  // All sources, then all targets.
  std::vector<std::uint64_t> ends;
  std::vector<CUgraphEdgeData> data;
  const CUresult result =
      fetch_nodes(call, bits(graph), record, reply, ends, edges != nullptr ? &data : nullptr, 2);
  if (result != CUDA_SUCCESS) return result;
  struct Edge {
    std::uint64_t from, to;
    CUgraphEdgeData data;
  };
  std::vector<Edge> all;
  const std::size_t half = ends.size() / 2;
  for (std::size_t i = 0; i < half; ++i) {
    Edge edge{ends[i], ends[half + i], i < data.size() ? data[i] : CUgraphEdgeData{}};
    const GraphNode* const source = call.process().graph_nodes.find(edge.from);
    const GraphNode* const target = call.process().graph_nodes.find(edge.to);
    // The edges at a hidden node are the copy's own business, but for those that leave it for others.
    if (target != nullptr && target->hidden) continue;
    if (source != nullptr && source->hidden) {
      if (source->completes == 0) continue;
      edge.from = source->completes;
    }
    all.push_back(edge);
  }
  if (from == nullptr) {
    *count = all.size();
    return CUDA_SUCCESS;
  }
  for (std::size_t i = 0; i < *count; ++i) {
    from[i] = from_bits<CUgraphNode>(i < all.size() ? all[i].from : 0);
    to[i] = from_bits<CUgraphNode>(i < all.size() ? all[i].to : 0);
    if (edges != nullptr) edges[i] = i < all.size() ? all[i].data : CUgraphEdgeData{};
  }
  *count = std::min(*count, all.size());
  return CUDA_SUCCESS;
}

// Edges added or removed, in as many records as it takes.
template <class Record>
CUresult change_edges(CUgraph graph, const CUgraphNode* from, const CUgraphNode* to,
                      const CUgraphEdgeData* edges, std::size_t count) {
  if (count != 0 && (from == nullptr || to == nullptr)) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_graph(call, graph); result != CUDA_SUCCESS) return result;
  constexpr std::size_t kAtOnce = 2048;
  for (std::size_t at = 0; at < count; at += kAtOnce) {
    const std::size_t part = std::min(kAtOnce, count - at);
    Record record;
    record.graph = bits(graph);
    record.count = static_cast<std::uint32_t>(part);
    record.edges = edges != nullptr ? 1 : 0;
    std::vector<std::byte> tail;
    append_sources(call, tail, from + at, part);
    append(tail, to + at, part);
    if (edges != nullptr) append(tail, edges + at, part);
    if (const CUresult result = call.ask(record, tail); result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

CUresult print_dot(CUgraph graph, const char* path, unsigned flags) {
  if (path == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_graph(call, graph); result != CUDA_SUCCESS) return result;
  record::cuGraphDebugDotPrint record;
  record.graph = bits(graph);
  record.flags = flags;
  reply::cuGraphDebugDotPrint reply;
  std::vector<char> text;
  std::uint64_t room = 256 << 10;
  while (text.empty()) {
    ArenaLease block(call.connection(), room);
    if (!block) return CUDA_ERROR_DEVICE_UNAVAILABLE;
    record.text = block.span(room);
    const CUresult result = call.ask(record, reply);
    if (result == CUDA_SUCCESS && reply.bytes <= room) {
      const char* const data = reinterpret_cast<const char*>(block.data());
      text.assign(data, data + reply.bytes);
    }
    block.discard();
    if (result != CUDA_SUCCESS) return result;
    if (reply.bytes <= room) break;
    if (reply.bytes > call.connection().largest_block()) return CUDA_ERROR_OUT_OF_MEMORY;
    room = reply.bytes;
  }
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path, "we"), &std::fclose);
  if (!file) return CUDA_ERROR_OPERATING_SYSTEM;
  return std::fwrite(text.data(), 1, text.size(), file.get()) == text.size() ? CUDA_SUCCESS
                                                                             : CUDA_ERROR_OPERATING_SYSTEM;
}

}  // namespace
}  // namespace vgpu::client

using namespace vgpu::client;
namespace record = vgpu::record;
namespace reply = vgpu::reply;

VGPU_EXPORT CUresult cuGraphCreate(CUgraph* phGraph, unsigned int flags) {
  if (phGraph == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  record::cuGraphCreate record;
  record.graph = call.mint(vgpu::HandleKind::graph);
  record.flags = flags;
  return hand_out(call.process().graphs, record.graph, call.post(record), phGraph);
}

VGPU_EXPORT CUresult cuGraphDestroy(CUgraph hGraph) {
  Call call;
  if (const CUresult result = check_graph(call, hGraph); result != CUDA_SUCCESS) return result;
  if (call.process().graphs.find(bits(hGraph))->owned) return CUDA_ERROR_INVALID_VALUE;
  forget_graph(call, bits(hGraph));
  record::cuGraphDestroy record;
  record.graph = bits(hGraph);
  return call.post(record);
}

VGPU_EXPORT CUresult cuGraphClone(CUgraph* phGraphClone, CUgraph originalGraph) {
  if (phGraphClone == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_graph(call, originalGraph); result != CUDA_SUCCESS) return result;
  record::cuGraphClone record;
  record.graph = call.mint(vgpu::HandleKind::graph);
  record.original = bits(originalGraph);
  return hand_out(call.process().graphs, record.graph, call.ask(record), phGraphClone);
}

VGPU_EXPORT CUresult cuGraphNodeFindInClone(CUgraphNode* phNode, CUgraphNode hOriginalNode,
                                            CUgraph hClonedGraph) {
  if (phNode == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_graph(call, hClonedGraph); result != CUDA_SUCCESS) return result;
  if (call.process().graph_nodes.find(bits(hOriginalNode)) == nullptr) return CUDA_ERROR_INVALID_VALUE;
  record::cuGraphNodeFindInClone record;
  record.original = bits(hOriginalNode);
  record.clone = bits(hClonedGraph);
  record.fresh_node = call.mint(vgpu::HandleKind::graph_node);
  reply::cuGraphNodeFindInClone reply;
  const CUresult result = call.ask(record, reply);
  if (reply.node != record.fresh_node) call.forget(record.fresh_node);
  if (result != CUDA_SUCCESS) return result;
  adopt_node(call, bits(hClonedGraph), reply.node);
  *phNode = from_bits<CUgraphNode>(reply.node);
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuGraphInstantiate(CUgraphExec* phGraphExec, CUgraph hGraph, CUgraphNode* phErrorNode,
                                        char* logBuffer, size_t bufferSize) {
  if (logBuffer != nullptr && bufferSize != 0) *logBuffer = '\0';
  Instantiated detail;
  const CUresult result = instantiate(phGraphExec, hGraph, 0, detail);
  if (phErrorNode != nullptr) *phErrorNode = detail.error_node;
  return result;
}
VGPU_EXPORT CUresult cuGraphInstantiate_v2(CUgraphExec* phGraphExec, CUgraph hGraph, CUgraphNode* phErrorNode,
                                           char* logBuffer, size_t bufferSize) {
  return cuGraphInstantiate(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize);
}
VGPU_EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec* phGraphExec, CUgraph hGraph,
                                                 unsigned long long flags) {
  Instantiated detail;
  return instantiate(phGraphExec, hGraph, flags, detail);
}
VGPU_EXPORT CUresult cuGraphInstantiateWithParams(CUgraphExec* phGraphExec, CUgraph hGraph,
                                                  CUDA_GRAPH_INSTANTIATE_PARAMS* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto flags = params->flags & ~static_cast<cuuint64_t>(CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD);
  Instantiated detail;
  const CUresult result = instantiate(phGraphExec, hGraph, flags, detail);
  params->hErrNode_out = detail.error_node;
  params->result_out = detail.result;
  if (result != CUDA_SUCCESS || flags == params->flags) return result;
  return cuGraphUpload(*phGraphExec, params->hUploadStream);
}
VGPU_EXPORT CUresult cuGraphInstantiateWithParams_ptsz(CUgraphExec* phGraphExec, CUgraph hGraph,
                                                       CUDA_GRAPH_INSTANTIATE_PARAMS* params) {
  return cuGraphInstantiateWithParams(phGraphExec, hGraph, params);
}

VGPU_EXPORT CUresult cuGraphExecDestroy(CUgraphExec hGraphExec) {
  Call call;
  if (const CUresult result = check_exec(call, hGraphExec); result != CUDA_SUCCESS) return result;
  call.forget(bits(hGraphExec));
  record::cuGraphExecDestroy record;
  record.exec = bits(hGraphExec);
  return call.post(record);
}

VGPU_EXPORT CUresult cuGraphExecUpdate(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphNode* hErrorNode_out,
                                       CUgraphExecUpdateResult* updateResult_out) {
  CUgraphExecUpdateResultInfo info{};
  const CUresult result = update(hGraphExec, hGraph, info);
  if (hErrorNode_out != nullptr) *hErrorNode_out = info.errorNode;
  if (updateResult_out != nullptr) *updateResult_out = info.result;
  return result;
}
VGPU_EXPORT CUresult cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph,
                                          CUgraphExecUpdateResultInfo* resultInfo) {
  if (resultInfo == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return update(hGraphExec, hGraph, *resultInfo);
}

VGPU_EXPORT CUresult cuGraphGetNodes(CUgraph hGraph, CUgraphNode* nodes, size_t* numNodes) {
  Call call;
  if (const CUresult result = check_graph(call, hGraph); result != CUDA_SUCCESS) return result;
  record::cuGraphGetNodes record;
  record.graph = bits(hGraph);
  reply::cuGraphGetNodes reply;
  return list_nodes(call, bits(hGraph), record, reply, nodes, nullptr, numNodes);
}

VGPU_EXPORT CUresult cuGraphGetRootNodes(CUgraph hGraph, CUgraphNode* rootNodes, size_t* numRootNodes) {
  Call call;
  if (const CUresult result = check_graph(call, hGraph); result != CUDA_SUCCESS) return result;
  record::cuGraphGetRootNodes record;
  record.graph = bits(hGraph);
  reply::cuGraphGetRootNodes reply;
  return list_nodes(call, bits(hGraph), record, reply, rootNodes, nullptr, numRootNodes);
}

VGPU_EXPORT CUresult cuGraphGetEdges(CUgraph hGraph, CUgraphNode* from, CUgraphNode* to, size_t* numEdges) {
  return list_edges(hGraph, from, to, nullptr, numEdges);
}
VGPU_EXPORT CUresult cuGraphGetEdges_v2(CUgraph hGraph, CUgraphNode* from, CUgraphNode* to,
                                        CUgraphEdgeData* edgeData, size_t* numEdges) {
  return list_edges(hGraph, from, to, edgeData, numEdges);
}

VGPU_EXPORT CUresult cuGraphNodeGetDependencies(CUgraphNode hNode, CUgraphNode* dependencies,
                                                size_t* numDependencies) {
  return list_neighbours<record::cuGraphNodeGetDependencies_v2, reply::cuGraphNodeGetDependencies_v2>(
      hNode, dependencies, nullptr, numDependencies);
}
VGPU_EXPORT CUresult cuGraphNodeGetDependencies_v2(CUgraphNode hNode, CUgraphNode* dependencies,
                                                   CUgraphEdgeData* edgeData, size_t* numDependencies) {
  return list_neighbours<record::cuGraphNodeGetDependencies_v2, reply::cuGraphNodeGetDependencies_v2>(
      hNode, dependencies, edgeData, numDependencies);
}
VGPU_EXPORT CUresult cuGraphNodeGetDependentNodes(CUgraphNode hNode, CUgraphNode* dependentNodes,
                                                  size_t* numDependentNodes) {
  return list_neighbours<record::cuGraphNodeGetDependentNodes_v2, reply::cuGraphNodeGetDependentNodes_v2>(
      hNode, dependentNodes, nullptr, numDependentNodes);
}
VGPU_EXPORT CUresult cuGraphNodeGetDependentNodes_v2(CUgraphNode hNode, CUgraphNode* dependentNodes,
                                                     CUgraphEdgeData* edgeData, size_t* numDependentNodes) {
  return list_neighbours<record::cuGraphNodeGetDependentNodes_v2, reply::cuGraphNodeGetDependentNodes_v2>(
      hNode, dependentNodes, edgeData, numDependentNodes);
}

VGPU_EXPORT CUresult cuGraphDestroyNode(CUgraphNode hNode) {
  Call call;
  if (const CUresult result = check_node(call, hNode); result != CUDA_SUCCESS) return result;
  call.forget(bits(hNode));
  record::cuGraphDestroyNode record;
  record.node = bits(hNode);
  return call.post(record);
}

VGPU_EXPORT CUresult cuGraphAddDependencies(CUgraph hGraph, const CUgraphNode* from, const CUgraphNode* to,
                                            size_t numDependencies) {
  return change_edges<record::cuGraphAddDependencies_v2>(hGraph, from, to, nullptr, numDependencies);
}
VGPU_EXPORT CUresult cuGraphAddDependencies_v2(CUgraph hGraph, const CUgraphNode* from, const CUgraphNode* to,
                                               const CUgraphEdgeData* edgeData, size_t numDependencies) {
  return change_edges<record::cuGraphAddDependencies_v2>(hGraph, from, to, edgeData, numDependencies);
}
VGPU_EXPORT CUresult cuGraphRemoveDependencies(CUgraph hGraph, const CUgraphNode* from, const CUgraphNode* to,
                                               size_t numDependencies) {
  return change_edges<record::cuGraphRemoveDependencies_v2>(hGraph, from, to, nullptr, numDependencies);
}
VGPU_EXPORT CUresult cuGraphRemoveDependencies_v2(CUgraph hGraph, const CUgraphNode* from,
                                                  const CUgraphNode* to, const CUgraphEdgeData* edgeData,
                                                  size_t numDependencies) {
  return change_edges<record::cuGraphRemoveDependencies_v2>(hGraph, from, to, edgeData, numDependencies);
}

VGPU_EXPORT CUresult cuGraphDebugDotPrint(CUgraph hGraph, const char* path, unsigned int flags) {
  return print_dot(hGraph, path, flags);
}

VGPU_EXPORT CUresult cuGraphConditionalHandleCreate(CUgraphConditionalHandle* pHandle_out, CUgraph hGraph,
                                                    CUcontext, unsigned int defaultLaunchValue,
                                                    unsigned int flags) {
  if (pHandle_out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_graph(call, hGraph); result != CUDA_SUCCESS) return result;
  record::cuGraphConditionalHandleCreate record;
  record.graph = bits(hGraph);
  record.default_value = defaultLaunchValue;
  record.flags = flags;
  reply::cuGraphConditionalHandleCreate reply;
  const CUresult result = call.ask(record, reply);
  if (result == CUDA_SUCCESS) *pHandle_out = reply.handle;
  return result;
}

VGPU_EXPORT CUresult cuUserObjectCreate(CUuserObject* object_out, void* ptr, CUhostFn destroy,
                                        unsigned int initialRefcount, unsigned int flags) {
  if (object_out == nullptr || destroy == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter_without_context(); result != CUDA_SUCCESS) return result;
  if (!start_upcalls(call.process())) return CUDA_ERROR_OPERATING_SYSTEM;
  record::cuUserObjectCreate record;
  record.object = call.process().user_objects.create().second;
  if (record.object == 0) return CUDA_ERROR_OUT_OF_MEMORY;
  record.pointer = bits(ptr);
  record.destroy = reinterpret_cast<std::uint64_t>(destroy);
  record.count = initialRefcount;
  record.flags = flags;
  return hand_out(call.process().user_objects, record.object, call.ask(record), object_out);
}
