// Stream capture and graphs.
#include "daemon/worker/session.hpp"

namespace vgpu::worker {
namespace {
constexpr std::uint32_t max_dependencies = 4096;
constexpr std::size_t max_nodes = 1u << 20;
}  // namespace

void Session::note_node(std::uint64_t handle) {
  if (const std::uint64_t* const node = handles_.find(HandleKind::graph_node, handle)) nodes_[*node] = handle;
}

CUresult Session::write_nodes(const std::vector<CUgraphNode>& nodes, const ArenaSpan& span) {
  const std::span<std::byte> out = arena_bytes(span);
  if (out.size() < nodes.size() * sizeof(std::uint64_t))
    return CUDA_SUCCESS;  // the caller only wants the count
  std::vector<std::uint64_t> fresh(nodes.size());
  if (nodes.empty()) return CUDA_SUCCESS;
  std::memcpy(fresh.data(), out.data(), fresh.size() * sizeof(std::uint64_t));
  std::size_t next = 0;
  std::vector<std::uint64_t> handles;
  for (const CUgraphNode node : nodes) {
    const auto known = nodes_.find(reinterpret_cast<std::uint64_t>(node));
    if (known != nodes_.end()) {
      handles.push_back(known->second);
      continue;
    }
    const std::uint64_t handle = fresh[next++];
    if (!can_bind(HandleKind::graph_node, handle)) return CUDA_ERROR_INVALID_HANDLE;
    bind(HandleKind::graph_node, handle, node);
    handles.push_back(handle);
  }
  std::memcpy(out.data(), handles.data(), handles.size() * sizeof(std::uint64_t));
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
  fence_dirty_streams();
  const CUresult result = driver_.cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED);
  if (result == CUDA_SUCCESS) ++captures_;
  return result;
}

CUresult Session::handle(const record::cuStreamEndCapture& record, reply::cuStreamEndCapture&, Tail) {
  if (driver_.cuStreamEndCapture == nullptr) return unsupported(record.header.call);
  CUstream stream = nullptr;
  if (!resolve(record.stream, stream) || !can_bind(HandleKind::graph, record.graph))
    return CUDA_ERROR_INVALID_HANDLE;
  CUgraph graph = nullptr;
  const CUresult result = driver_.cuStreamEndCapture(stream, &graph);
  // Also a capture that failed has ended, unless the stream was not capturing or another must end it.
  if (captures_ != 0 && result != CUDA_ERROR_ILLEGAL_STATE && result != CUDA_ERROR_INVALID_VALUE &&
      result != CUDA_ERROR_STREAM_CAPTURE_UNMATCHED && result != CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD) {
    --captures_;
  }
  if (result == CUDA_SUCCESS && graph != nullptr) bind(HandleKind::graph, record.graph, graph);
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
  if (can_bind(HandleKind::graph, record.graph) && graph != nullptr)
    bind(HandleKind::graph, record.graph, graph);
  return write_nodes(
      nodes != nullptr ? std::vector<CUgraphNode>(nodes, nodes + count) : std::vector<CUgraphNode>(),
      record.nodes);
}

CUresult Session::handle(const record::cuStreamUpdateCaptureDependencies_v2& record,
                         reply::cuStreamUpdateCaptureDependencies_v2&, Tail tail) {
  if (driver_.cuStreamUpdateCaptureDependencies_v2 == nullptr) return unsupported(record.header.call);
  CUstream stream = nullptr;
  std::vector<CUgraphNode> nodes;
  if (!resolve(record.stream, stream)) return CUDA_ERROR_INVALID_HANDLE;
  if (const CUresult result = read_dependencies(record.dependency_count, tail, nodes);
      result != CUDA_SUCCESS) {
    return result;
  }
  return driver_.cuStreamUpdateCaptureDependencies_v2(stream, nodes.data(), nullptr, nodes.size(),
                                                      record.flags);
}

CUresult Session::handle(const record::cuGraphDestroy& record, reply::cuGraphDestroy&, Tail) {
  if (driver_.cuGraphDestroy == nullptr) return unsupported(record.header.call);
  CUgraph graph = nullptr;
  if (!resolve(record.graph, graph)) return CUDA_ERROR_INVALID_HANDLE;
  std::size_t count = 0;
  if (driver_.cuGraphGetNodes != nullptr && driver_.cuGraphGetNodes(graph, nullptr, &count) == CUDA_SUCCESS &&
      count != 0 && !nodes_.empty() && count < max_nodes) {
    std::vector<CUgraphNode> nodes(count);
    if (driver_.cuGraphGetNodes(graph, nodes.data(), &count) == CUDA_SUCCESS) {
      for (const CUgraphNode node : nodes) {
        const auto known = nodes_.find(reinterpret_cast<std::uint64_t>(node));
        if (known == nodes_.end()) continue;
        handles_.forget(HandleKind::graph_node, known->second);
        nodes_.erase(known);
      }
    }
  }
  handles_.forget(HandleKind::graph, record.graph);
  return driver_.cuGraphDestroy(graph);
}

CUresult Session::handle(const record::cuGraphExecDestroy& record, reply::cuGraphExecDestroy&, Tail) {
  if (driver_.cuGraphExecDestroy == nullptr) return unsupported(record.header.call);
  CUgraphExec exec = nullptr;
  if (!resolve(record.exec, exec)) return CUDA_ERROR_INVALID_HANDLE;
  handles_.forget(HandleKind::graph_exec, record.exec);
  return driver_.cuGraphExecDestroy(exec);
}

CUresult Session::handle(const record::cuGraphExecUpdate_v2& record, reply::cuGraphExecUpdate_v2& reply,
                         Tail) {
  if (driver_.cuGraphExecUpdate_v2 == nullptr) return unsupported(record.header.call);
  CUgraphExec exec = nullptr;
  CUgraph graph = nullptr;
  if (!resolve(record.exec, exec) || !resolve(record.graph, graph)) return CUDA_ERROR_INVALID_HANDLE;
  CUgraphExecUpdateResultInfo info{};
  const CUresult result = driver_.cuGraphExecUpdate_v2(exec, graph, &info);
  reply.result = static_cast<std::uint32_t>(info.result);
  return result;
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

CUresult Session::handle(const record::cuGraphNodeGetDependencies_v2& record,
                         reply::cuGraphNodeGetDependencies_v2& reply, Tail) {
  if (driver_.cuGraphNodeGetDependencies_v2 == nullptr) return unsupported(record.header.call);
  CUgraphNode node = nullptr;
  if (!resolve(record.node, node)) return CUDA_ERROR_INVALID_HANDLE;
  std::size_t count = 0;
  CUresult result = driver_.cuGraphNodeGetDependencies_v2(node, nullptr, nullptr, &count);
  if (result != CUDA_SUCCESS) return result;
  reply.node_count = count;
  if (count == 0 || count > max_nodes) return CUDA_SUCCESS;
  std::vector<CUgraphNode> nodes(count);
  std::vector<CUgraphEdgeData> edges(count);
  result = driver_.cuGraphNodeGetDependencies_v2(node, nodes.data(), edges.data(), &count);
  return result == CUDA_SUCCESS ? write_nodes(nodes, record.nodes) : result;
}

CUresult Session::handle(const record::cuGraphDestroyNode& record, reply::cuGraphDestroyNode&, Tail) {
  if (driver_.cuGraphDestroyNode == nullptr) return unsupported(record.header.call);
  CUgraphNode node = nullptr;
  if (!resolve(record.node, node)) return CUDA_ERROR_INVALID_HANDLE;
  handles_.forget(HandleKind::graph_node, record.node);
  nodes_.erase(reinterpret_cast<std::uint64_t>(node));
  return driver_.cuGraphDestroyNode(node);
}

CUresult Session::handle(const record::cuGraphAddDependencies_v2& record, reply::cuGraphAddDependencies_v2&,
                         Tail tail) {
  if (driver_.cuGraphAddDependencies_v2 == nullptr) return unsupported(record.header.call);
  CUgraph graph = nullptr;
  std::vector<CUgraphNode> from;
  std::vector<CUgraphNode> to;
  if (!resolve(record.graph, graph)) return CUDA_ERROR_INVALID_HANDLE;
  CUresult result = read_dependencies(record.count, tail, from);
  if (result == CUDA_SUCCESS) result = read_dependencies(record.count, tail, to);
  if (result != CUDA_SUCCESS) return result;
  return driver_.cuGraphAddDependencies_v2(graph, from.data(), to.data(), nullptr, from.size());
}

template <class Record>
CUresult Session::kernel_node_params(const Record& record, Tail tail, CUDA_KERNEL_NODE_PARAMS& params,
                                     void** extra, std::size_t& size) const {
  if (tail.size() < record.param_bytes) return CUDA_ERROR_INVALID_VALUE;
  if (const std::uint64_t* const kernel = handles_.find(HandleKind::kernel, record.function)) {
    params.kern = reinterpret_cast<CUkernel>(*kernel);
  } else if (!resolve(record.function, params.func)) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  params.gridDimX = record.grid_x;
  params.gridDimY = record.grid_y;
  params.gridDimZ = record.grid_z;
  params.blockDimX = record.block_x;
  params.blockDimY = record.block_y;
  params.blockDimZ = record.block_z;
  params.sharedMemBytes = record.dynamic_shared;
  size = record.param_bytes;
  extra[0] = CU_LAUNCH_PARAM_BUFFER_POINTER;
  extra[1] = const_cast<std::byte*>(tail.data());
  extra[2] = CU_LAUNCH_PARAM_BUFFER_SIZE;
  extra[3] = &size;
  extra[4] = CU_LAUNCH_PARAM_END;
  params.extra = size != 0 ? extra : nullptr;
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuGraphAddEmptyNode& record, reply::cuGraphAddEmptyNode&, Tail tail) {
  if (driver_.cuGraphAddEmptyNode == nullptr) return unsupported(record.header.call);
  CUgraph graph = nullptr;
  std::vector<CUgraphNode> after;
  if (!resolve(record.graph, graph) || !can_bind(HandleKind::graph_node, record.node)) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  CUresult result = read_dependencies(record.dependency_count, tail, after);
  if (result != CUDA_SUCCESS) return result;
  CUgraphNode node = nullptr;
  result = driver_.cuGraphAddEmptyNode(&node, graph, after.data(), after.size());
  if (result == CUDA_SUCCESS) bind(HandleKind::graph_node, record.node, node);
  return result;
}

CUresult Session::handle(const record::cuGraphAddKernelNode_v2& record, reply::cuGraphAddKernelNode_v2&,
                         Tail tail) {
  if (driver_.cuGraphAddKernelNode_v2 == nullptr) return unsupported(record.header.call);
  CUgraph graph = nullptr;
  std::vector<CUgraphNode> after;
  if (!resolve(record.graph, graph) || !can_bind(HandleKind::graph_node, record.node)) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  CUresult result = read_dependencies(record.dependency_count, tail, after);
  CUDA_KERNEL_NODE_PARAMS params{};
  void* extra[5];
  std::size_t size = 0;
  if (result == CUDA_SUCCESS) result = kernel_node_params(record, tail, params, extra, size);
  if (result != CUDA_SUCCESS) return result;
  CUgraphNode node = nullptr;
  result = driver_.cuGraphAddKernelNode_v2(&node, graph, after.data(), after.size(), &params);
  if (result == CUDA_SUCCESS) bind(HandleKind::graph_node, record.node, node);
  return result;
}

CUresult Session::handle(const record::cuGraphKernelNodeSetParams_v2& record,
                         reply::cuGraphKernelNodeSetParams_v2&, Tail tail) {
  if (driver_.cuGraphKernelNodeSetParams_v2 == nullptr) return unsupported(record.header.call);
  CUgraphNode node = nullptr;
  if (!resolve(record.node, node)) return CUDA_ERROR_INVALID_HANDLE;
  CUDA_KERNEL_NODE_PARAMS params{};
  void* extra[5];
  std::size_t size = 0;
  const CUresult result = kernel_node_params(record, tail, params, extra, size);
  return result == CUDA_SUCCESS ? driver_.cuGraphKernelNodeSetParams_v2(node, &params) : result;
}

CUresult Session::handle(const record::cuGraphExecKernelNodeSetParams_v2& record,
                         reply::cuGraphExecKernelNodeSetParams_v2&, Tail tail) {
  if (driver_.cuGraphExecKernelNodeSetParams_v2 == nullptr) return unsupported(record.header.call);
  CUgraphExec exec = nullptr;
  CUgraphNode node = nullptr;
  if (!resolve(record.exec, exec) || !resolve(record.node, node)) return CUDA_ERROR_INVALID_HANDLE;
  CUDA_KERNEL_NODE_PARAMS params{};
  void* extra[5];
  std::size_t size = 0;
  const CUresult result = kernel_node_params(record, tail, params, extra, size);
  return result == CUDA_SUCCESS ? driver_.cuGraphExecKernelNodeSetParams_v2(exec, node, &params) : result;
}

CUresult Session::handle(const record::cuGraphAddMemcpyNode& record, reply::cuGraphAddMemcpyNode&,
                         Tail tail) {
  if (driver_.cuGraphAddMemcpyNode == nullptr) return unsupported(record.header.call);
  CUgraph graph = nullptr;
  std::vector<CUgraphNode> after;
  if (!resolve(record.graph, graph) || !can_bind(HandleKind::graph_node, record.node)) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  CUresult result = read_dependencies(record.dependency_count, tail, after);
  CUDA_MEMCPY3D copy = record.copy;
  if (result == CUDA_SUCCESS) result = fix_up_copy(copy, {}, {});
  if (result != CUDA_SUCCESS) return result;
  CUgraphNode node = nullptr;
  result = driver_.cuGraphAddMemcpyNode(&node, graph, after.data(), after.size(), &copy,
                                        contexts_[context_index_]);
  if (result == CUDA_SUCCESS) bind(HandleKind::graph_node, record.node, node);
  return result;
}

CUresult Session::handle(const record::cuGraphAddMemsetNode& record, reply::cuGraphAddMemsetNode&,
                         Tail tail) {
  if (driver_.cuGraphAddMemsetNode == nullptr) return unsupported(record.header.call);
  CUgraph graph = nullptr;
  std::vector<CUgraphNode> after;
  if (!resolve(record.graph, graph) || !can_bind(HandleKind::graph_node, record.node)) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  CUresult result = read_dependencies(record.dependency_count, tail, after);
  if (result != CUDA_SUCCESS) return result;
  const CUDA_MEMSET_NODE_PARAMS& set = record.memset;
  __extension__ using Wide = unsigned __int128;
  const Wide bytes = set.height > 1 ? static_cast<Wide>(set.height - 1) * set.pitch +
                                          static_cast<Wide>(set.width) * set.elementSize
                                    : static_cast<Wide>(set.width) * set.elementSize;
  if (bytes >> 47 != 0 || !reachable(set.dst, static_cast<std::uint64_t>(bytes)))
    return CUDA_ERROR_INVALID_VALUE;
  CUgraphNode node = nullptr;
  result = driver_.cuGraphAddMemsetNode(&node, graph, after.data(), after.size(), &record.memset,
                                        contexts_[context_index_]);
  if (result == CUDA_SUCCESS) bind(HandleKind::graph_node, record.node, node);
  return result;
}

CUresult Session::handle(const record::cuGraphAddHostNode& record, reply::cuGraphAddHostNode&, Tail tail) {
  if (driver_.cuGraphAddHostNode == nullptr) return unsupported(record.header.call);
  CUgraph graph = nullptr;
  std::vector<CUgraphNode> after;
  if (!resolve(record.graph, graph) || !can_bind(HandleKind::graph_node, record.node)) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  CUresult result = read_dependencies(record.dependency_count, tail, after);
  if (result != CUDA_SUCCESS) return result;
  auto call = std::make_unique<HostCall>(HostCall{this, Upcall{0, 0, record.function, record.user, 0}, true});
  CUDA_HOST_NODE_PARAMS params{};
  params.fn = &Session::run_host_call;
  params.userData = call.get();
  CUgraphNode node = nullptr;
  result = driver_.cuGraphAddHostNode(&node, graph, after.data(), after.size(), &params);
  if (result != CUDA_SUCCESS) return result;
  bind(HandleKind::graph_node, record.node, node);
  const std::lock_guard lock(host_calls_mutex_);
  kept_host_calls_.push_back(std::move(call));
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuGraphAddChildGraphNode& record, reply::cuGraphAddChildGraphNode&,
                         Tail tail) {
  if (driver_.cuGraphAddChildGraphNode == nullptr) return unsupported(record.header.call);
  CUgraph graph = nullptr;
  CUgraph child = nullptr;
  std::vector<CUgraphNode> after;
  if (!resolve(record.graph, graph) || !resolve(record.child, child) ||
      !can_bind(HandleKind::graph_node, record.node)) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  CUresult result = read_dependencies(record.dependency_count, tail, after);
  if (result != CUDA_SUCCESS) return result;
  CUgraphNode node = nullptr;
  result = driver_.cuGraphAddChildGraphNode(&node, graph, after.data(), after.size(), child);
  if (result == CUDA_SUCCESS) bind(HandleKind::graph_node, record.node, node);
  return result;
}

}  // namespace vgpu::worker
