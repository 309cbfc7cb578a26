// Stream capture and graphs as a whole; their nodes: session_graph_nodes.cpp.
#include <algorithm>

#include "daemon/worker/session.hpp"

namespace vgpu::worker {
namespace {
constexpr std::uint32_t max_dependencies = 4096;
constexpr std::size_t max_nodes = 1u << 20;
}  // namespace

void Session::note_node(std::uint64_t handle) {
  CUgraphNode node = nullptr;
  if (resolve(handle, node)) graphs_.name_node(node, handle);
}

CUresult Session::name_node(CUgraphNode node, std::uint64_t fresh, std::uint64_t& handle) {
  handle = node != nullptr ? graphs_.handle_of(node) : 0;
  if (handle != 0 || node == nullptr) return CUDA_SUCCESS;
  if (!can_bind(HandleKind::graph_node, fresh)) return CUDA_ERROR_INVALID_HANDLE;
  bind(HandleKind::graph_node, fresh, node);
  handle = fresh;
  return CUDA_SUCCESS;
}

CUresult Session::write_nodes(const std::vector<CUgraphNode>& nodes, const ArenaSpan& span) {
  const std::span<std::byte> out = arena_bytes(span);
  if (out.size() < nodes.size() * sizeof(std::uint64_t))
    return CUDA_SUCCESS;  // the caller only wants the count
  if (nodes.empty()) return CUDA_SUCCESS;
  std::vector<std::uint64_t> fresh(nodes.size());
  std::memcpy(fresh.data(), out.data(), fresh.size() * sizeof(std::uint64_t));
  std::size_t next = 0;
  std::vector<std::uint64_t> handles(nodes.size());
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (const CUresult result = name_node(nodes[i], fresh[next], handles[i]); result != CUDA_SUCCESS)
      return result;
    if (handles[i] == fresh[next]) ++next;
  }
  std::memcpy(out.data(), handles.data(), handles.size() * sizeof(std::uint64_t));
  return CUDA_SUCCESS;
}

CUresult Session::write_edges(const std::vector<CUgraphEdgeData>& edges, const ArenaSpan& nodes,
                              const ArenaSpan& span) {
  if (span.bytes == 0) {
    // Who asks for nodes without the data of their edges must hear that there is some.
    const bool plain = std::all_of(edges.begin(), edges.end(), [](const CUgraphEdgeData& edge) {
      return edge.from_port == 0 && edge.to_port == 0 && edge.type == 0;
    });
    return plain || nodes.bytes == 0 ? CUDA_SUCCESS : CUDA_ERROR_LOSSY_QUERY;
  }
  const std::span<std::byte> out = arena_bytes(span);
  if (out.size() >= edges.size() * sizeof(CUgraphEdgeData) && !edges.empty())
    std::memcpy(out.data(), edges.data(), edges.size() * sizeof(CUgraphEdgeData));
  return CUDA_SUCCESS;
}

CUresult Session::read_edges(bool present, std::size_t count, Tail& tail,
                             std::vector<CUgraphEdgeData>& edges) const {
  static_assert(sizeof(CUgraphEdgeData) == sizeof(std::uint64_t));
  if (!present) return CUDA_SUCCESS;
  if (tail.size() < count * sizeof(CUgraphEdgeData)) return CUDA_ERROR_INVALID_VALUE;
  edges.resize(count);
  if (count != 0) std::memcpy(edges.data(), tail.data(), count * sizeof(CUgraphEdgeData));
  tail = tail.subspan(count * sizeof(CUgraphEdgeData));
  return CUDA_SUCCESS;
}

CUresult Session::read_dependencies(std::uint32_t count, Tail& tail, std::vector<CUgraphNode>& nodes) const {
  if (count > max_dependencies || tail.size() < count * sizeof(std::uint64_t))
    return CUDA_ERROR_INVALID_VALUE;
  nodes.resize(count);
  for (CUgraphNode& node : nodes) {
    std::uint64_t handle = 0;
    std::memcpy(&handle, tail.data(), sizeof handle);
    tail = tail.subspan(sizeof handle);
    if (!resolve(handle, node)) return CUDA_ERROR_INVALID_HANDLE;
  }
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuStreamBeginCapture_v2& record, reply::cuStreamBeginCapture_v2&,
                         Tail) {
  if (driver_.cuStreamBeginCapture_v2 == nullptr) return unsupported(record.header.call);
  CUstream stream = nullptr;
  if (!resolve(record.stream, stream)) return CUDA_ERROR_INVALID_HANDLE;
  // No fence can be recorded during a capture: what is in flight must not wait for one at the gate.
  fence_busy_streams();
  if (captures_ == 0) graphs_.forget_captured();  // a stream was destroyed while it captured
  const CUresult result = driver_.cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED);
  if (result == CUDA_SUCCESS) ++captures_;
  return result;
}

CUresult Session::handle(const record::cuStreamBeginCaptureToGraph& record,
                         reply::cuStreamBeginCaptureToGraph&, Tail tail) {
  if (driver_.cuStreamBeginCaptureToGraph == nullptr) return unsupported(record.header.call);
  CUstream stream = nullptr;
  CUgraph graph = nullptr;
  std::vector<CUgraphNode> after;
  std::vector<CUgraphEdgeData> edges;
  if (!resolve(record.stream, stream) || !resolve(record.graph, graph)) return CUDA_ERROR_INVALID_HANDLE;
  CUresult result = read_dependencies(record.dependency_count, tail, after);
  if (result == CUDA_SUCCESS) result = read_edges(record.edges != 0, after.size(), tail, edges);
  if (result != CUDA_SUCCESS) return result;
  result = driver_.cuStreamBeginCaptureToGraph(stream, graph, after.empty() ? nullptr : after.data(),
                                               edges.empty() ? nullptr : edges.data(), after.size(),
                                               CU_STREAM_CAPTURE_MODE_RELAXED);
  if (result == CUDA_SUCCESS) ++captures_;
  return result;
}

void Session::name_captured(CUgraph graph, std::uint64_t fresh, std::uint64_t& handle) {
  bind(HandleKind::graph, fresh, graph);
  graphs_.name_captured(graph, fresh);
  handle = fresh;
}

CUresult Session::handle(const record::cuStreamEndCapture& record, reply::cuStreamEndCapture& reply, Tail) {
  if (driver_.cuStreamEndCapture == nullptr) return unsupported(record.header.call);
  CUstream stream = nullptr;
  if (!resolve(record.stream, stream) || !can_bind(HandleKind::graph, record.fresh_graph))
    return CUDA_ERROR_INVALID_HANDLE;
  CUgraph graph = nullptr;
  const CUresult result = driver_.cuStreamEndCapture(stream, &graph);
  // Also a capture that failed has ended, unless the stream was not capturing or another must end it.
  if (captures_ != 0 && result != CUDA_ERROR_ILLEGAL_STATE && result != CUDA_ERROR_INVALID_VALUE &&
      result != CUDA_ERROR_STREAM_CAPTURE_UNMATCHED && result != CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD) {
    --captures_;
  }
  if (result == CUDA_SUCCESS && graph != nullptr) {
    // A capture into a graph of the client's ends with that graph.
    reply.graph = handles_.handle_of(HandleKind::graph, reinterpret_cast<std::uint64_t>(graph));
    if (reply.graph == 0) name_captured(graph, record.fresh_graph, reply.graph);
  }
  if (captures_ == 0) graphs_.forget_captured();
  return result;
}

CUresult Session::handle(const record::cuStreamGetCaptureInfo_v3& record,
                         reply::cuStreamGetCaptureInfo_v3& reply, Tail) {
  CUstream stream = nullptr;
  if (!resolve(record.stream, stream)) return CUDA_ERROR_INVALID_HANDLE;
  if (driver_.cuStreamGetCaptureInfo_v3 == nullptr) return unsupported(record.header.call);
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  cuuint64_t id = 0;
  CUgraph graph = nullptr;
  const CUgraphNode* nodes = nullptr;
  const CUgraphEdgeData* edges = nullptr;
  std::size_t count = 0;
  const CUresult result =
      driver_.cuStreamGetCaptureInfo_v3(stream, &status, &id, &graph, &nodes, &edges, &count);
  reply.status = static_cast<std::int32_t>(status);
  reply.id = id;
  if (result != CUDA_SUCCESS || status != CU_STREAM_CAPTURE_STATUS_ACTIVE) return result;
  reply.node_count = count;
  if (graph != nullptr) {
    reply.graph = handles_.handle_of(HandleKind::graph, reinterpret_cast<std::uint64_t>(graph));
    if (reply.graph == 0 && can_bind(HandleKind::graph, record.fresh_graph)) {
      name_captured(graph, record.fresh_graph, reply.graph);
    }
  }
  if (nodes == nullptr || count == 0) return CUDA_SUCCESS;
  if (edges != nullptr) {
    const CUresult lossless = write_edges({edges, edges + count}, record.nodes, record.edges);
    if (lossless != CUDA_SUCCESS) return lossless;
  }
  return write_nodes({nodes, nodes + count}, record.nodes);
}

CUresult Session::handle(const record::cuStreamUpdateCaptureDependencies_v2& record,
                         reply::cuStreamUpdateCaptureDependencies_v2&, Tail tail) {
  if (driver_.cuStreamUpdateCaptureDependencies_v2 == nullptr) return unsupported(record.header.call);
  CUstream stream = nullptr;
  std::vector<CUgraphNode> nodes;
  std::vector<CUgraphEdgeData> edges;
  if (!resolve(record.stream, stream)) return CUDA_ERROR_INVALID_HANDLE;
  CUresult result = read_dependencies(record.dependency_count, tail, nodes);
  if (result == CUDA_SUCCESS) result = read_edges(record.edges != 0, nodes.size(), tail, edges);
  if (result != CUDA_SUCCESS) return result;
  return driver_.cuStreamUpdateCaptureDependencies_v2(
      stream, nodes.data(), edges.empty() ? nullptr : edges.data(), nodes.size(), record.flags);
}

CUresult Session::handle(const record::cuGraphDestroy& record, reply::cuGraphDestroy&, Tail) {
  if (driver_.cuGraphDestroy == nullptr) return unsupported(record.header.call);
  CUgraph graph = nullptr;
  if (!resolve(record.graph, graph)) return CUDA_ERROR_INVALID_HANDLE;
  std::size_t count = 0;
  if (driver_.cuGraphGetNodes != nullptr && driver_.cuGraphGetNodes(graph, nullptr, &count) == CUDA_SUCCESS &&
      count != 0 && graphs_.names_nodes() && count < max_nodes) {
    std::vector<CUgraphNode> nodes(count);
    if (driver_.cuGraphGetNodes(graph, nodes.data(), &count) == CUDA_SUCCESS) {
      for (const CUgraphNode node : nodes) {
        const std::uint64_t handle = graphs_.handle_of(node);
        if (handle == 0) continue;
        handles_.forget(HandleKind::graph_node, handle);
        graphs_.forget_node(node);
      }
    }
  }
  handles_.forget(HandleKind::graph, record.graph);
  graphs_.forget_memory(record.graph);
  return driver_.cuGraphDestroy(graph);
}

CUresult Session::handle(const record::cuGraphExecDestroy& record, reply::cuGraphExecDestroy&, Tail) {
  if (driver_.cuGraphExecDestroy == nullptr) return unsupported(record.header.call);
  CUgraphExec exec = nullptr;
  if (!resolve(record.exec, exec)) return CUDA_ERROR_INVALID_HANDLE;
  handles_.forget(HandleKind::graph_exec, record.exec);
  graphs_.forget_memory(record.exec);
  return driver_.cuGraphExecDestroy(exec);
}

CUresult Session::handle(const record::cuGraphClone& record, reply::cuGraphClone&, Tail) {
  if (driver_.cuGraphClone == nullptr) return unsupported(record.header.call);
  CUgraph original = nullptr;
  if (!resolve(record.original, original) || !can_bind(HandleKind::graph, record.graph))
    return CUDA_ERROR_INVALID_HANDLE;
  CUgraph graph = nullptr;
  const CUresult result = driver_.cuGraphClone(&graph, original);
  if (result != CUDA_SUCCESS) return result;
  bind(HandleKind::graph, record.graph, graph);
  graphs_.share_memory(record.original, record.graph);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuGraphInstantiateWithFlags& record,
                         reply::cuGraphInstantiateWithFlags& reply, Tail) {
  CUgraph graph = nullptr;
  if (!resolve(record.graph, graph) || !can_bind(HandleKind::graph_exec, record.exec))
    return CUDA_ERROR_INVALID_HANDLE;
  // The client's handles mean nothing to a kernel that would launch the graph.
  if ((record.flags & CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH) != 0) return unsupported(record.header.call);
  if (driver_.cuGraphInstantiateWithParams == nullptr) return unsupported(record.header.call);
  CUDA_GRAPH_INSTANTIATE_PARAMS params{};
  params.flags = record.flags;
  CUgraphExec exec = nullptr;
  const CUresult result = driver_.cuGraphInstantiateWithParams(&exec, graph, &params);
  // What went wrong where is part of the answer, so the answer itself succeeds.
  reply.status = static_cast<std::int32_t>(result);
  reply.result = static_cast<std::uint32_t>(params.result_out);
  if (result != CUDA_SUCCESS) return name_node(params.hErrNode_out, record.fresh_node, reply.error_node);
  bind(HandleKind::graph_exec, record.exec, exec);
  graphs_.share_memory(record.graph, record.exec);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuGraphExecUpdate_v2& record, reply::cuGraphExecUpdate_v2& reply,
                         Tail) {
  if (driver_.cuGraphExecUpdate_v2 == nullptr) return unsupported(record.header.call);
  CUgraphExec exec = nullptr;
  CUgraph graph = nullptr;
  if (!resolve(record.exec, exec) || !resolve(record.graph, graph)) return CUDA_ERROR_INVALID_HANDLE;
  CUgraphExecUpdateResultInfo info{};
  const CUresult result = driver_.cuGraphExecUpdate_v2(exec, graph, &info);
  reply.status = static_cast<std::int32_t>(result);
  reply.result = static_cast<std::uint32_t>(info.result);
  if (result == CUDA_SUCCESS) {
    graphs_.share_memory(record.graph, record.exec);
    return CUDA_SUCCESS;
  }
  const CUresult named = name_node(info.errorNode, record.fresh_node, reply.error_node);
  return named != CUDA_SUCCESS ? named : name_node(info.errorFromNode, record.fresh_from, reply.error_from);
}

CUresult Session::handle(const record::cuGraphNodeFindInClone& record, reply::cuGraphNodeFindInClone& reply,
                         Tail) {
  if (driver_.cuGraphNodeFindInClone == nullptr) return unsupported(record.header.call);
  CUgraphNode original = nullptr;
  CUgraph clone = nullptr;
  if (!resolve(record.original, original) || !resolve(record.clone, clone)) return CUDA_ERROR_INVALID_HANDLE;
  CUgraphNode node = nullptr;
  const CUresult result = driver_.cuGraphNodeFindInClone(&node, original, clone);
  return result == CUDA_SUCCESS ? name_node(node, record.fresh_node, reply.node) : result;
}

CUresult Session::handle(const record::cuGraphGetNodes& record, reply::cuGraphGetNodes& reply, Tail) {
  if (driver_.cuGraphGetNodes == nullptr) return unsupported(record.header.call);
  CUgraph graph = nullptr;
  if (!resolve(record.graph, graph)) return CUDA_ERROR_INVALID_HANDLE;
  std::size_t count = 0;
  CUresult result = driver_.cuGraphGetNodes(graph, nullptr, &count);
  if (result != CUDA_SUCCESS) return result;
  reply.node_count = count;
  if (count == 0 || count > max_nodes) return CUDA_SUCCESS;
  std::vector<CUgraphNode> nodes(count);
  result = driver_.cuGraphGetNodes(graph, nodes.data(), &count);
  return result == CUDA_SUCCESS ? write_nodes(nodes, record.nodes) : result;
}

CUresult Session::handle(const record::cuGraphGetRootNodes& record, reply::cuGraphGetRootNodes& reply, Tail) {
  if (driver_.cuGraphGetRootNodes == nullptr) return unsupported(record.header.call);
  CUgraph graph = nullptr;
  if (!resolve(record.graph, graph)) return CUDA_ERROR_INVALID_HANDLE;
  std::size_t count = 0;
  CUresult result = driver_.cuGraphGetRootNodes(graph, nullptr, &count);
  if (result != CUDA_SUCCESS) return result;
  reply.node_count = count;
  if (count == 0 || count > max_nodes) return CUDA_SUCCESS;
  std::vector<CUgraphNode> nodes(count);
  result = driver_.cuGraphGetRootNodes(graph, nodes.data(), &count);
  return result == CUDA_SUCCESS ? write_nodes(nodes, record.nodes) : result;
}

template <class Record, class Reply, class List>
CUresult Session::neighbours(const Record& record, Reply& reply, List list) {
  if (list == nullptr) return unsupported(record.header.call);
  CUgraphNode node = nullptr;
  if (!resolve(record.node, node)) return CUDA_ERROR_INVALID_HANDLE;
  std::size_t count = 0;
  CUresult result = list(node, nullptr, nullptr, &count);
  if (result != CUDA_SUCCESS) return result;
  reply.node_count = count;
  if (count == 0 || count > max_nodes) return CUDA_SUCCESS;
  std::vector<CUgraphNode> nodes(count);
  std::vector<CUgraphEdgeData> edges(count);
  result = list(node, nodes.data(), edges.data(), &count);
  if (result == CUDA_SUCCESS) result = write_edges(edges, record.nodes, record.edges);
  return result == CUDA_SUCCESS ? write_nodes(nodes, record.nodes) : result;
}

CUresult Session::handle(const record::cuGraphNodeGetDependencies_v2& record,
                         reply::cuGraphNodeGetDependencies_v2& reply, Tail) {
  return neighbours(record, reply, driver_.cuGraphNodeGetDependencies_v2);
}

CUresult Session::handle(const record::cuGraphNodeGetDependentNodes_v2& record,
                         reply::cuGraphNodeGetDependentNodes_v2& reply, Tail) {
  return neighbours(record, reply, driver_.cuGraphNodeGetDependentNodes_v2);
}

CUresult Session::handle(const record::cuGraphGetEdges_v2& record, reply::cuGraphGetEdges_v2& reply, Tail) {
  if (driver_.cuGraphGetEdges_v2 == nullptr) return unsupported(record.header.call);
  CUgraph graph = nullptr;
  if (!resolve(record.graph, graph)) return CUDA_ERROR_INVALID_HANDLE;
  std::size_t count = 0;
  CUresult result = driver_.cuGraphGetEdges_v2(graph, nullptr, nullptr, nullptr, &count);
  if (result != CUDA_SUCCESS) return result;
  reply.node_count = 2 * count;
  if (count == 0 || count > max_nodes) return CUDA_SUCCESS;
  std::vector<CUgraphNode> nodes(2 * count);
  std::vector<CUgraphEdgeData> edges(count);
  result = driver_.cuGraphGetEdges_v2(graph, nodes.data(), nodes.data() + count, edges.data(), &count);
  if (result == CUDA_SUCCESS) result = write_edges(edges, record.nodes, record.edges);
  return result == CUDA_SUCCESS ? write_nodes(nodes, record.nodes) : result;
}

CUresult Session::handle(const record::cuGraphDestroyNode& record, reply::cuGraphDestroyNode&, Tail) {
  if (driver_.cuGraphDestroyNode == nullptr) return unsupported(record.header.call);
  CUgraphNode node = nullptr;
  if (!resolve(record.node, node)) return CUDA_ERROR_INVALID_HANDLE;
  handles_.forget(HandleKind::graph_node, record.node);
  graphs_.forget_node(node);
  return driver_.cuGraphDestroyNode(node);
}

template <class Record, class Change>
CUresult Session::change_edges(const Record& record, Tail tail, Change change) {
  if (change == nullptr) return unsupported(record.header.call);
  CUgraph graph = nullptr;
  std::vector<CUgraphNode> from;
  std::vector<CUgraphNode> to;
  std::vector<CUgraphEdgeData> edges;
  if (!resolve(record.graph, graph)) return CUDA_ERROR_INVALID_HANDLE;
  CUresult result = read_dependencies(record.count, tail, from);
  if (result == CUDA_SUCCESS) result = read_dependencies(record.count, tail, to);
  if (result == CUDA_SUCCESS) result = read_edges(record.edges != 0, from.size(), tail, edges);
  if (result != CUDA_SUCCESS) return result;
  return change(graph, from.data(), to.data(), edges.empty() ? nullptr : edges.data(), from.size());
}

CUresult Session::handle(const record::cuGraphAddDependencies_v2& record, reply::cuGraphAddDependencies_v2&,
                         Tail tail) {
  return change_edges(record, tail, driver_.cuGraphAddDependencies_v2);
}

CUresult Session::handle(const record::cuGraphRemoveDependencies_v2& record,
                         reply::cuGraphRemoveDependencies_v2&, Tail tail) {
  return change_edges(record, tail, driver_.cuGraphRemoveDependencies_v2);
}

CUresult Session::handle(const record::cuUserObjectCreate& record, reply::cuUserObjectCreate&, Tail) {
  if (driver_.cuUserObjectCreate == nullptr) return unsupported(record.header.call);
  if (!Handle::is(record.object, HandleKind::user_object) || graphs_.user_object(record.object) != nullptr)
    return CUDA_ERROR_INVALID_HANDLE;
  if (!graphs_.may_add_user_object()) return CUDA_ERROR_OUT_OF_MEMORY;
  auto call = host_calls_.for_destructor(Upcall{0, 0, record.destroy, record.pointer, 0});
  CUuserObject object = nullptr;
  const CUresult result =
      driver_.cuUserObjectCreate(&object, call.get(), &HostCalls::run_destructor, record.count, record.flags);
  if (result != CUDA_SUCCESS) return result;
  host_calls_.expect(std::move(call));
  graphs_.add_user_object(record.object, {object, record.count});
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuUserObjectRetain& record, reply::cuUserObjectRetain&, Tail) {
  if (driver_.cuUserObjectRetain == nullptr) return unsupported(record.header.call);
  GraphObjects::UserObject* const known = graphs_.user_object(record.object);
  if (known == nullptr || record.count > INT32_MAX) return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = driver_.cuUserObjectRetain(known->object, record.count);
  if (result == CUDA_SUCCESS) known->owned += record.count;
  return result;
}

CUresult Session::handle(const record::cuUserObjectRelease& record, reply::cuUserObjectRelease&, Tail) {
  if (driver_.cuUserObjectRelease == nullptr) return unsupported(record.header.call);
  const GraphObjects::UserObject* const known = graphs_.user_object(record.object);
  if (known == nullptr || record.count == 0 || record.count > known->owned) return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = driver_.cuUserObjectRelease(known->object, record.count);
  if (result == CUDA_SUCCESS) graphs_.disown(record.object, record.count);
  return result;
}

CUresult Session::handle(const record::cuGraphRetainUserObject& record, reply::cuGraphRetainUserObject&,
                         Tail) {
  if (driver_.cuGraphRetainUserObject == nullptr) return unsupported(record.header.call);
  CUgraph graph = nullptr;
  if (!resolve(record.graph, graph)) return CUDA_ERROR_INVALID_HANDLE;
  const GraphObjects::UserObject* const known = graphs_.user_object(record.object);
  const bool move = (record.flags & CU_GRAPH_USER_OBJECT_MOVE) != 0;
  if (known == nullptr || record.count > INT32_MAX || (move && record.count > known->owned))
    return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = driver_.cuGraphRetainUserObject(graph, known->object, record.count, record.flags);
  if (result == CUDA_SUCCESS && move) graphs_.disown(record.object, record.count);
  return result;
}

CUresult Session::handle(const record::cuGraphReleaseUserObject& record, reply::cuGraphReleaseUserObject&,
                         Tail) {
  if (driver_.cuGraphReleaseUserObject == nullptr) return unsupported(record.header.call);
  CUgraph graph = nullptr;
  if (!resolve(record.graph, graph)) return CUDA_ERROR_INVALID_HANDLE;
  const GraphObjects::UserObject* const known = graphs_.user_object(record.object);
  if (known == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return driver_.cuGraphReleaseUserObject(graph, known->object, record.count);
}

}  // namespace vgpu::worker
