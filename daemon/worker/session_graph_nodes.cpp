// Graph nodes: their parameters from and to the form in which they cross the channel, adding and changing
// them. One function a direction serves all types.
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/worker/launch_attributes.hpp"
#include "daemon/worker/session.hpp"
#include "protocol/graph_node.hpp"

namespace vgpu::worker {
namespace {

constexpr std::uint32_t max_access = 16;

template <class T>
bool take(Session::Tail& tail, T& value) {
  if (tail.size() < sizeof value) return false;
  std::memcpy(static_cast<void*>(&value), tail.data(), sizeof value);
  tail = tail.subspan(sizeof value);
  return true;
}

template <class T>
bool take_list(Session::Tail& tail, std::uint32_t count, std::uint32_t most, std::vector<T>& list) {
  if (count > most || tail.size() < count * sizeof(T)) return false;
  list.resize(count);
  if (count != 0) std::memcpy(list.data(), tail.data(), count * sizeof(T));
  tail = tail.subspan(count * sizeof(T));
  return true;
}

template <class T>
void append(std::vector<std::byte>& out, const T& value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

/// The packed parameters of a node that was made with them: the driver answers in the form in which it was
/// asked.
void read_packed(void* const* extra, std::vector<std::byte>& packed) {
  const void* data = nullptr;
  const std::size_t* bytes = nullptr;
  constexpr int most_entries = 8;
  for (int i = 0; i < most_entries && extra[0] != CU_LAUNCH_PARAM_END; ++i, extra += 2) {
    if (extra[0] == CU_LAUNCH_PARAM_BUFFER_POINTER) data = extra[1];
    if (extra[0] == CU_LAUNCH_PARAM_BUFFER_SIZE) bytes = static_cast<const std::size_t*>(extra[1]);
  }
  if (data == nullptr || bytes == nullptr || *bytes > max_record_bytes) return;
  packed.resize(*bytes);
  std::memcpy(packed.data(), data, *bytes);
}

}  // namespace

CUresult Session::kernel_node(NodeParams& out, Tail& tail) const {
  KernelNode node;
  if (!take(tail, node) || tail.size() < node.param_bytes) return CUDA_ERROR_INVALID_VALUE;
  auto& params = out.params.kernel;
  if (const std::uint64_t* const kernel = handles_.find(HandleKind::kernel, node.function)) {
    params.kern = reinterpret_cast<CUkernel>(*kernel);
  } else if (!resolve(node.function, params.func)) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  params.gridDimX = node.grid[0];
  params.gridDimY = node.grid[1];
  params.gridDimZ = node.grid[2];
  params.blockDimX = node.block[0];
  params.blockDimY = node.block[1];
  params.blockDimZ = node.block[2];
  params.sharedMemBytes = node.dynamic_shared;
  out.param_bytes = node.param_bytes;
  out.extra[0] = CU_LAUNCH_PARAM_BUFFER_POINTER;
  out.extra[1] = const_cast<std::byte*>(tail.data());
  out.extra[2] = CU_LAUNCH_PARAM_BUFFER_SIZE;
  out.extra[3] = &out.param_bytes;
  out.extra[4] = CU_LAUNCH_PARAM_END;
  params.extra = node.param_bytes != 0 ? out.extra : nullptr;
  tail = tail.subspan(node.param_bytes);
  return CUDA_SUCCESS;
}

CUresult Session::memset_node(NodeParams& out, Tail& tail) const {
  CUDA_MEMSET_NODE_PARAMS set;
  if (!take(tail, set)) return CUDA_ERROR_INVALID_VALUE;
  __extension__ using Wide = unsigned __int128;
  const Wide bytes = set.height > 1 ? static_cast<Wide>(set.height - 1) * set.pitch +
                                          static_cast<Wide>(set.width) * set.elementSize
                                    : static_cast<Wide>(set.width) * set.elementSize;
  if (bytes >> 47 != 0 || !reachable(set.dst, static_cast<std::uint64_t>(bytes)))
    return CUDA_ERROR_INVALID_VALUE;
  auto& params = out.params.memset;
  params.dst = set.dst;
  params.pitch = set.pitch;
  params.value = set.value;
  params.elementSize = set.elementSize;
  params.width = set.width;
  params.height = set.height;
  params.ctx = contexts_.current();
  return CUDA_SUCCESS;
}

CUresult Session::read_node(std::uint32_t type, Tail tail, NodeParams& out) {
  out.params.type = static_cast<CUgraphNodeType>(type);
  switch (type) {
    case CU_GRAPH_NODE_TYPE_EMPTY:
      return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_KERNEL:
      return kernel_node(out, tail);
    case CU_GRAPH_NODE_TYPE_MEMSET:
      return memset_node(out, tail);
    case CU_GRAPH_NODE_TYPE_MEMCPY: {
      CUDA_MEMCPY3D copy;
      if (!take(tail, copy)) return CUDA_ERROR_INVALID_VALUE;
      if (const CUresult result = fix_up_copy(copy, {}, {}); result != CUDA_SUCCESS) return result;
      out.params.memcpy.copyParams = copy;
      out.params.memcpy.copyCtx = contexts_.current();
      return CUDA_SUCCESS;
    }
    case CU_GRAPH_NODE_TYPE_HOST: {
      HostNode node;
      if (!take(tail, node)) return CUDA_ERROR_INVALID_VALUE;
      out.host = host_calls_.for_graph(Upcall{0, 0, node.function, node.user, 0});
      out.params.host.fn = &HostCalls::run;
      out.params.host.userData = out.host.get();
      return CUDA_SUCCESS;
    }
    case CU_GRAPH_NODE_TYPE_GRAPH:
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
    case CU_GRAPH_NODE_TYPE_MEM_FREE: {
      NamedNode node;
      if (!take(tail, node)) return CUDA_ERROR_INVALID_VALUE;
      if (type == CU_GRAPH_NODE_TYPE_MEM_FREE) {
        out.params.free.dptr = node.handle;
        return CUDA_SUCCESS;
      }
      const bool known = type == CU_GRAPH_NODE_TYPE_GRAPH ? resolve(node.handle, out.params.graph.graph)
                         : type == CU_GRAPH_NODE_TYPE_WAIT_EVENT
                             ? resolve(node.handle, out.params.eventWait.event)
                             : resolve(node.handle, out.params.eventRecord.event);
      out.child = type == CU_GRAPH_NODE_TYPE_GRAPH ? node.handle : 0;
      return known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
    }
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC: {
      AllocationNode node;
      if (!take(tail, node) || !take_list(tail, node.access_count, max_access, out.access))
        return CUDA_ERROR_INVALID_VALUE;
      auto& params = out.params.alloc;
      params.poolProps = node.props;
      params.poolProps.win32SecurityAttributes = nullptr;
      const OwnDevice* const owner = contexts_.device(node.props.location.id);
      if (params.poolProps.location.type != CU_MEM_LOCATION_TYPE_DEVICE || owner == nullptr) {
        return CUDA_ERROR_INVALID_VALUE;
      }
      out.owner = owner;
      to_driver(params.poolProps);
      for (CUmemAccessDesc& access : out.access) to_driver(access);
      params.accessDescs = out.access.empty() ? nullptr : out.access.data();
      params.accessDescCount = out.access.size();
      params.bytesize = node.bytes;
      return CUDA_SUCCESS;
    }
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP: {
      BatchNode node;
      if (!take(tail, node) || !take_list(tail, node.count, max_batch_operations, out.operations))
        return CUDA_ERROR_INVALID_VALUE;
      auto& params = out.params.memOp;
      params.ctx = contexts_.current();
      params.count = node.count;
      params.paramArray = out.operations.data();
      params.flags = node.flags;
      graphs_hold_ = true;
      return CUDA_SUCCESS;
    }
    case CU_GRAPH_NODE_TYPE_CONDITIONAL: {
      ConditionalNode node;
      if (!take(tail, node) || node.size == 0 ||
          !take_list(tail, node.size, max_conditional_bodies, out.bodies))
        return CUDA_ERROR_INVALID_VALUE;
      // The driver follows the number.
      if (!graphs_.knows_conditional(node.handle)) return CUDA_ERROR_INVALID_VALUE;
      for (const std::uint64_t body : out.bodies) {
        if (!can_bind(HandleKind::graph, body)) return CUDA_ERROR_INVALID_HANDLE;
      }
      auto& params = out.params.conditional;
      params.handle = node.handle;
      params.type = static_cast<CUgraphConditionalNodeType>(node.type);
      params.size = node.size;
      params.ctx = contexts_.current();
      return CUDA_SUCCESS;
    }
    default:
      return CUDA_ERROR_NOT_SUPPORTED;
  }
}

void Session::keep(std::unique_ptr<HostCalls::Call> call) {
  if (call == nullptr) return;
  graphs_hold_ = true;
  host_calls_.keep(std::move(call));
}

CUresult Session::handle(const record::cuGraphAddNode_v2& record, reply::cuGraphAddNode_v2& reply,
                         Tail tail) {
  if (driver_.cuGraphAddNode_v2 == nullptr) return unsupported(record.header.call);
  CUgraph graph = nullptr;
  std::vector<CUgraphNode> after;
  std::vector<CUgraphEdgeData> edges;
  if (!resolve(record.graph, graph) || !can_bind(HandleKind::graph_node, record.node)) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  NodeParams params;
  CUresult result = read_dependencies(record.dependency_count, tail, after);
  if (result == CUDA_SUCCESS) result = read_edges(record.edges != 0, after.size(), tail, edges);
  if (result == CUDA_SUCCESS) result = read_node(record.type, tail, params);
  if (result != CUDA_SUCCESS) return result;
  CUgraphNode node = nullptr;
  const auto add_node = [&] {
    return driver_.cuGraphAddNode_v2(&node, graph, after.data(), edges.empty() ? nullptr : edges.data(),
                                     after.size(), &params.params);
  };
  const GraphObjects::Name name{record.graph};
  CUdeviceptr pointer = 0;
  if (record.type == CU_GRAPH_NODE_TYPE_MEM_ALLOC) {
    result = allocate(
        [&](CUdeviceptr& at) {
          const CUresult added = add_node();
          at = params.params.alloc.dptr;
          return added;
        },
        params.params.alloc.bytesize, pointer, allocation_on(*params.owner), name);
  } else {
    result = add_node();
  }
  if (result != CUDA_SUCCESS) return result;
  reply.dptr = pointer;
  bind(HandleKind::graph_node, record.node, node);
  keep(std::move(params.host));
  if (record.type == CU_GRAPH_NODE_TYPE_MEM_FREE) {
    graphs_.add_free(name, params.params.free.dptr);
  } else if (params.child != 0) {
    graphs_.share_memory(params.child, record.graph);
  } else if (record.type == CU_GRAPH_NODE_TYPE_CONDITIONAL &&
             params.params.conditional.phGraph_out != nullptr) {
    for (std::size_t i = 0; i < params.bodies.size(); ++i) {
      bind(HandleKind::graph, params.bodies[i], params.params.conditional.phGraph_out[i]);
    }
  }
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuGraphNodeSetParams& record, reply::cuGraphNodeSetParams&,
                         Tail tail) {
  if (driver_.cuGraphNodeSetParams == nullptr) return unsupported(record.header.call);
  CUgraphNode node = nullptr;
  if (!resolve(record.node, node)) return CUDA_ERROR_INVALID_HANDLE;
  NodeParams params;
  CUresult result = read_node(record.type, tail, params);
  if (result == CUDA_SUCCESS) result = driver_.cuGraphNodeSetParams(node, &params.params);
  if (result == CUDA_SUCCESS) keep(std::move(params.host));
  return result;
}

CUresult Session::handle(const record::cuGraphExecNodeSetParams& record, reply::cuGraphExecNodeSetParams&,
                         Tail tail) {
  if (driver_.cuGraphExecNodeSetParams == nullptr) return unsupported(record.header.call);
  CUgraphExec exec = nullptr;
  CUgraphNode node = nullptr;
  if (!resolve(record.exec, exec) || !resolve(record.node, node)) return CUDA_ERROR_INVALID_HANDLE;
  NodeParams params;
  CUresult result = read_node(record.type, tail, params);
  if (result == CUDA_SUCCESS) result = driver_.cuGraphExecNodeSetParams(exec, node, &params.params);
  if (result == CUDA_SUCCESS) keep(std::move(params.host));
  return result;
}

std::uint64_t Session::handle_of_function(CUfunction function, CUkernel kernel) const {
  if (kernel != nullptr) {
    if (const auto found = handles_.handle_of(HandleKind::kernel, reinterpret_cast<std::uint64_t>(kernel)))
      return found;
  }
  const auto value = reinterpret_cast<std::uint64_t>(function);
  if (function == nullptr) return 0;
  if (const auto found = handles_.handle_of(HandleKind::function, value)) return found;
  if (const auto found = handles_.handle_of(HandleKind::kernel, value)) return found;
  // A kernel that was launched by its library's handle: the driver tells its function in this context.
  if (driver_.cuKernelGetFunction == nullptr) return 0;
  return handles_.find_handle(HandleKind::kernel, [&](std::uint64_t known) {
    CUfunction of = nullptr;
    return driver_.cuKernelGetFunction(&of, reinterpret_cast<CUkernel>(known)) == CUDA_SUCCESS &&
           of == function;
  });
}

CUresult Session::write_kernel_node(CUgraphNode node, std::vector<std::byte>& out) {
  if (driver_.cuGraphKernelNodeGetParams_v2 == nullptr || driver_.cuFuncGetParamInfo == nullptr)
    return CUDA_ERROR_NOT_SUPPORTED;
  CUDA_KERNEL_NODE_PARAMS params{};
  if (const CUresult result = driver_.cuGraphKernelNodeGetParams_v2(node, &params); result != CUDA_SUCCESS)
    return result;
  KernelNode answer;
  answer.function = handle_of_function(params.func, params.kern);
  if (answer.function == 0) return CUDA_ERROR_NOT_SUPPORTED;
  const std::uint32_t grid[] = {params.gridDimX, params.gridDimY, params.gridDimZ};
  const std::uint32_t block[] = {params.blockDimX, params.blockDimY, params.blockDimZ};
  std::memcpy(answer.grid, grid, sizeof grid);
  std::memcpy(answer.block, block, sizeof block);
  answer.dynamic_shared = params.sharedMemBytes;
  std::vector<std::byte> packed;
  const bool by_kernel =
      params.func == nullptr && params.kern != nullptr && driver_.cuKernelGetParamInfo != nullptr;
  for (std::size_t i = 0; params.kernelParams != nullptr && i < 4096; ++i) {
    std::size_t offset = 0;
    std::size_t size = 0;
    const CUresult result = by_kernel ? driver_.cuKernelGetParamInfo(params.kern, i, &offset, &size)
                                      : driver_.cuFuncGetParamInfo(params.func, i, &offset, &size);
    if (result != CUDA_SUCCESS) break;
    if (packed.size() < offset + size) packed.resize(offset + size);
    std::memcpy(packed.data() + offset, params.kernelParams[i], size);
  }
  if (params.kernelParams == nullptr && params.extra != nullptr) read_packed(params.extra, packed);
  answer.param_bytes = static_cast<std::uint32_t>(packed.size());
  append(out, answer);
  out.insert(out.end(), packed.begin(), packed.end());
  return CUDA_SUCCESS;
}

CUresult Session::write_node(CUgraphNode node, CUgraphNodeType type, std::uint64_t fresh,
                             std::vector<std::byte>& out) {
  CUresult result = CUDA_ERROR_NOT_SUPPORTED;
  switch (static_cast<int>(type)) {
    case CU_GRAPH_NODE_TYPE_EMPTY:
      return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_KERNEL:
      return write_kernel_node(node, out);
    case CU_GRAPH_NODE_TYPE_MEMCPY: {
      CUDA_MEMCPY3D copy{};
      if (driver_.cuGraphMemcpyNodeGetParams == nullptr) return result;
      result = driver_.cuGraphMemcpyNodeGetParams(node, &copy);
      append(out, copy);
      return result;
    }
    case CU_GRAPH_NODE_TYPE_MEMSET: {
      CUDA_MEMSET_NODE_PARAMS set{};
      if (driver_.cuGraphMemsetNodeGetParams == nullptr) return result;
      result = driver_.cuGraphMemsetNodeGetParams(node, &set);
      append(out, set);
      return result;
    }
    case CU_GRAPH_NODE_TYPE_HOST: {
      CUDA_HOST_NODE_PARAMS host{};
      if (driver_.cuGraphHostNodeGetParams == nullptr) return result;
      result = driver_.cuGraphHostNodeGetParams(node, &host);
      if (result != CUDA_SUCCESS) return result;
      const std::optional<Upcall> call = host_calls_.kept(host.userData);
      if (!call) return CUDA_ERROR_NOT_SUPPORTED;
      append(out, HostNode{call->function, call->user});
      return CUDA_SUCCESS;
    }
    case CU_GRAPH_NODE_TYPE_GRAPH: {
      CUgraph child = nullptr;
      if (driver_.cuGraphChildGraphNodeGetGraph == nullptr) return result;
      result = driver_.cuGraphChildGraphNodeGetGraph(node, &child);
      if (result != CUDA_SUCCESS) return result;
      std::uint64_t handle = handles_.handle_of(HandleKind::graph, reinterpret_cast<std::uint64_t>(child));
      if (handle == 0) {
        if (!can_bind(HandleKind::graph, fresh)) return CUDA_ERROR_INVALID_HANDLE;
        bind(HandleKind::graph, fresh, child);
        handle = fresh;
      }
      append(out, NamedNode{handle});
      return CUDA_SUCCESS;
    }
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD: {
      const auto get = type == CU_GRAPH_NODE_TYPE_WAIT_EVENT ? driver_.cuGraphEventWaitNodeGetEvent
                                                             : driver_.cuGraphEventRecordNodeGetEvent;
      CUevent event = nullptr;
      if (get == nullptr) return result;
      result = get(node, &event);
      if (result != CUDA_SUCCESS) return result;
      append(out, NamedNode{handles_.handle_of(HandleKind::event, reinterpret_cast<std::uint64_t>(event))});
      return CUDA_SUCCESS;
    }
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC: {
      CUDA_MEM_ALLOC_NODE_PARAMS params{};
      if (driver_.cuGraphMemAllocNodeGetParams == nullptr) return result;
      result = driver_.cuGraphMemAllocNodeGetParams(node, &params);
      AllocationNode answer;
      answer.props = params.poolProps;
      if (answer.props.location.type == CU_MEM_LOCATION_TYPE_DEVICE) answer.props.location.id = 0;
      answer.bytes = params.bytesize;
      answer.address = params.dptr;
      append(out, answer);
      return result;
    }
    case CU_GRAPH_NODE_TYPE_MEM_FREE: {
      CUdeviceptr pointer = 0;
      if (driver_.cuGraphMemFreeNodeGetParams == nullptr) return result;
      result = driver_.cuGraphMemFreeNodeGetParams(node, &pointer);
      append(out, NamedNode{pointer});
      return result;
    }
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP: {
      CUDA_BATCH_MEM_OP_NODE_PARAMS params{};
      if (driver_.cuGraphBatchMemOpNodeGetParams == nullptr) return result;
      result = driver_.cuGraphBatchMemOpNodeGetParams(node, &params);
      if (result != CUDA_SUCCESS) return result;
      append(out, BatchNode{params.paramArray != nullptr ? params.count : 0, params.flags});
      for (unsigned i = 0; params.paramArray != nullptr && i < params.count; ++i)
        append(out, params.paramArray[i]);
      return CUDA_SUCCESS;
    }
    default:
      return CUDA_ERROR_NOT_SUPPORTED;
  }
}

CUresult Session::handle(const record::graph_node_params& record, reply::graph_node_params& reply, Tail) {
  if (driver_.cuGraphNodeGetType == nullptr) return unsupported(record.header.call);
  CUgraphNode node = nullptr;
  if (!resolve(record.node, node)) return CUDA_ERROR_INVALID_HANDLE;
  CUgraphNodeType type = CU_GRAPH_NODE_TYPE_EMPTY;
  CUresult result = driver_.cuGraphNodeGetType(node, &type);
  if (result != CUDA_SUCCESS) return result;
  if (record.type != static_cast<std::uint32_t>(type)) return CUDA_ERROR_INVALID_VALUE;
  std::vector<std::byte> answer;
  result = write_node(node, type, record.fresh, answer);
  if (result != CUDA_SUCCESS) return result;
  const std::span<std::byte> out = arena_bytes(record.block);
  if (answer.size() > out.size()) return CUDA_ERROR_OUT_OF_MEMORY;
  if (!answer.empty()) std::memcpy(out.data(), answer.data(), answer.size());
  reply.bytes = answer.size();
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuGraphKernelNodeSetAttribute& record,
                         reply::cuGraphKernelNodeSetAttribute&, Tail) {
  if (driver_.cuGraphKernelNodeSetAttribute == nullptr) return unsupported(record.header.call);
  CUgraphNode node = nullptr;
  if (!resolve(record.hNode, node)) return CUDA_ERROR_INVALID_HANDLE;
  const auto attribute = static_cast<CUkernelNodeAttrID>(record.attr);
  CUkernelNodeAttrValue value = record.value;
  if (!attribute_allowed(attribute)) return CUDA_ERROR_NOT_SUPPORTED;
  return driver_.cuGraphKernelNodeSetAttribute(node, attribute, &value);
}

CUresult Session::handle(const record::cuGraphConditionalHandleCreate& record,
                         reply::cuGraphConditionalHandleCreate& reply, Tail) {
  if (driver_.cuGraphConditionalHandleCreate == nullptr) return unsupported(record.header.call);
  CUgraph graph = nullptr;
  if (!resolve(record.graph, graph)) return CUDA_ERROR_INVALID_HANDLE;
  if (!graphs_.may_add_conditional()) return CUDA_ERROR_OUT_OF_MEMORY;
  CUgraphConditionalHandle handle = 0;
  const CUresult result = driver_.cuGraphConditionalHandleCreate(&handle, graph, contexts_.current(),
                                                                 record.default_value, record.flags);
  if (result != CUDA_SUCCESS) return result;
  graphs_.add_conditional(handle);
  reply.handle = handle;
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuGraphDebugDotPrint& record, reply::cuGraphDebugDotPrint& reply,
                         Tail) {
  if (driver_.cuGraphDebugDotPrint == nullptr) return unsupported(record.header.call);
  CUgraph graph = nullptr;
  if (!resolve(record.graph, graph)) return CUDA_ERROR_INVALID_HANDLE;
  // The driver writes a file; the client gets its text.
  const UniqueFd file(memfd_create("vgpud-dot", MFD_CLOEXEC));
  if (!file) return CUDA_ERROR_OUT_OF_MEMORY;
  const std::string path = "/proc/self/fd/" + std::to_string(file.get());
  const CUresult result = driver_.cuGraphDebugDotPrint(graph, path.c_str(), record.flags);
  if (result != CUDA_SUCCESS) return result;
  const off_t size = lseek(file.get(), 0, SEEK_END);
  if (size < 0) return CUDA_ERROR_OPERATING_SYSTEM;
  reply.bytes = static_cast<std::uint64_t>(size);
  const std::span<std::byte> out = arena_bytes(record.text);
  if (reply.bytes > out.size()) return CUDA_SUCCESS;
  const ssize_t got = pread(file.get(), out.data(), reply.bytes, 0);
  return got == size ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
}

}  // namespace vgpu::worker
