// Graph nodes of all types: added, changed in a graph or an executable, and asked for their parameters. Every
// older call is a form of cuGraphAddNode, cuGraphNodeSetParams or cuGraphExecNodeSetParams.
#include <cstring>
#include <vector>

#include "cudaabi/unsupported.hpp"
#include "libclient/cuda/arena_block.hpp"
#include "libclient/cuda/copy.hpp"
#include "libclient/cuda/graph_bounce.hpp"
#include "libclient/cuda/graph_calls.hpp"
#include "libclient/cuda/images.hpp"
#include "libclient/cuda/upcalls.hpp"
#include "protocol/graph_node.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

CUresult refuse(const char* what) {
  return static_cast<CUresult>(cudaabi::note_unsupported(what));
}

// Host memory of a node must stay where the worker sees it, since it is read at each launch.
bool shareable(const Process& process, const CUDA_MEMCPY3D& copy) {
  const auto visible = [&](CUmemorytype type, const void* host, CUdeviceptr device) {
    if (type == CU_MEMORYTYPE_HOST) return shared_address(process, bits(host), 1) == bits(host);
    if (type == CU_MEMORYTYPE_UNIFIED) return process.memory.find(device).has_value();
    return true;
  };
  return visible(copy.srcMemoryType, copy.srcHost, copy.srcDevice) &&
         visible(copy.dstMemoryType, copy.dstHost, copy.dstDevice);
}

template <class Params>
CUresult write_kernel(Call& call, CUfunction handle, const Params& params, std::vector<std::byte>& tail) {
  const Function* function = find_function(call.process(), bits(handle));
  if (function == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const std::size_t bytes = function->layout.total_bytes();
  KernelNode node;
  node.function = bits(handle);
  const std::uint32_t grid[] = {params.gridDimX, params.gridDimY, params.gridDimZ};
  const std::uint32_t block[] = {params.blockDimX, params.blockDimY, params.blockDimZ};
  std::memcpy(node.grid, grid, sizeof grid);
  std::memcpy(node.block, block, sizeof block);
  node.dynamic_shared = params.sharedMemBytes;
  node.param_bytes = static_cast<std::uint32_t>(bytes);
  append(tail, &node, 1);
  const std::size_t at = tail.size();
  tail.resize(at + bytes);
  if (params.extra != nullptr) {
    ExtraBuffer extra;
    if (const CUresult result = read_extra(params.extra, extra); result != CUDA_SUCCESS) return result;
    if (extra.bytes < bytes) return CUDA_ERROR_INVALID_VALUE;
    if (bytes != 0) std::memcpy(tail.data() + at, extra.data, bytes);
  } else {
    if (bytes != 0 && params.kernelParams == nullptr) return CUDA_ERROR_INVALID_VALUE;
    function->layout.pack(params.kernelParams, tail.data() + at);
  }
  return CUDA_SUCCESS;
}

// The newer forms may name a CUkernel instead of a function.
template <class Params>
CUfunction function_of(const Params& params) {
  return params.func != nullptr ? params.func : reinterpret_cast<CUfunction>(params.kern);
}

template <class Params>
CUresult write_memset(const Params& params, std::vector<std::byte>& tail) {
  const CUDA_MEMSET_NODE_PARAMS set{params.dst,         params.pitch, params.value,
                                    params.elementSize, params.width, params.height};
  append(tail, &set, 1);
  return CUDA_SUCCESS;
}

CUresult write_named(std::uint64_t handle, std::vector<std::byte>& tail) {
  const NamedNode node{handle};
  append(tail, &node, 1);
  return CUDA_SUCCESS;
}

template <class Params>
CUresult write_allocation(const Params& params, std::vector<std::byte>& tail) {
  constexpr std::size_t kMostAccess = 16;
  if (params.accessDescCount > kMostAccess || (params.accessDescCount != 0 && params.accessDescs == nullptr))
    return CUDA_ERROR_INVALID_VALUE;
  AllocationNode node;
  node.props = params.poolProps;
  node.bytes = params.bytesize;
  node.access_count = static_cast<std::uint32_t>(params.accessDescCount);
  append(tail, &node, 1);
  append(tail, params.accessDescs, params.accessDescCount);
  return CUDA_SUCCESS;
}

// A node's parameters as records carry them. `bodies`: handles for a conditional node's graphs.
CUresult write_node(Call& call, const CUgraphNodeParams& params, const std::vector<std::uint64_t>& bodies,
                    std::vector<std::byte>& tail) {
  Process& process = call.process();
  switch (static_cast<int>(params.type)) {
    case CU_GRAPH_NODE_TYPE_EMPTY:
      return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_KERNEL:
      return write_kernel(call, function_of(params.kernel), params.kernel, tail);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      if (!shareable(process, params.memcpy.copyParams))
        return refuse("changing a graph's copy to pageable memory");
      append(tail, &params.memcpy.copyParams, 1);
      return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_MEMSET:
      return write_memset(params.memset, tail);
    case CU_GRAPH_NODE_TYPE_HOST: {
      if (params.host.fn == nullptr) return CUDA_ERROR_INVALID_VALUE;
      if (!start_upcalls(process)) return CUDA_ERROR_OPERATING_SYSTEM;
      const HostNode node{reinterpret_cast<std::uint64_t>(params.host.fn), bits(params.host.userData)};
      append(tail, &node, 1);
      return CUDA_SUCCESS;
    }
    case CU_GRAPH_NODE_TYPE_GRAPH:
      if (process.graphs.find(bits(params.graph.graph)) == nullptr) return CUDA_ERROR_INVALID_VALUE;
      if (params.graph.ownership != CU_GRAPH_CHILD_GRAPH_OWNERSHIP_CLONE)
        return refuse("child graphs that move to their parent");
      return write_named(bits(params.graph.graph), tail);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD: {
      const CUevent event =
          params.type == CU_GRAPH_NODE_TYPE_WAIT_EVENT ? params.eventWait.event : params.eventRecord.event;
      if (process.events.find(bits(event)) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
      return write_named(bits(event), tail);
    }
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
      return write_allocation(params.alloc, tail);
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
      return write_named(params.free.dptr, tail);
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP: {
      if (params.memOp.count > max_batch_operations ||
          (params.memOp.count != 0 && params.memOp.paramArray == nullptr)) {
        return CUDA_ERROR_INVALID_VALUE;
      }
      const BatchNode node{params.memOp.count, params.memOp.flags};
      append(tail, &node, 1);
      append(tail, params.memOp.paramArray, params.memOp.count);
      return CUDA_SUCCESS;
    }
    case CU_GRAPH_NODE_TYPE_CONDITIONAL: {
      const ConditionalNode node{params.conditional.handle,
                                 static_cast<std::uint32_t>(params.conditional.type),
                                 static_cast<std::uint32_t>(bodies.size())};
      append(tail, &node, 1);
      append(tail, bodies.data(), bodies.size());
      return CUDA_SUCCESS;
    }
    default:
      return refuse("graph nodes of external semaphores");
  }
}

CUresult add_plain_node(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies,
                        const CUgraphEdgeData* edges, std::size_t count, CUgraphNodeParams& params) {
  if (out == nullptr || (dependencies == nullptr && count != 0) || count > kMostDependencies)
    return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_graph(call, graph); result != CUDA_SUCCESS) return result;
  record::cuGraphAddNode_v2 record;
  record.graph = bits(graph);
  record.dependency_count = static_cast<std::uint32_t>(count);
  record.edges = edges != nullptr ? 1 : 0;
  record.type = static_cast<std::uint32_t>(params.type);
  std::vector<std::byte> tail;
  append_sources(call, tail, dependencies, count);
  if (edges != nullptr) append(tail, edges, count);
  std::vector<std::uint64_t> bodies;
  if (params.type == CU_GRAPH_NODE_TYPE_CONDITIONAL) {
    if (params.conditional.size == 0 || params.conditional.size > max_conditional_bodies)
      return CUDA_ERROR_INVALID_VALUE;
    bodies.resize(params.conditional.size);
    for (std::uint64_t& body : bodies) body = call.mint(HandleKind::graph);
  }
  CUresult result = write_node(call, params, bodies, tail);
  if (result == CUDA_SUCCESS && !fits(record, tail))
    result = refuse("graph nodes with very many dependencies");
  reply::cuGraphAddNode_v2 reply;
  if (result == CUDA_SUCCESS) {
    record.node = mint_node(call, bits(graph));
    result = call.ask(record, reply, tail);
    if (result != CUDA_SUCCESS) call.forget(record.node);
  }
  if (result != CUDA_SUCCESS) {
    for (const std::uint64_t body : bodies) call.forget(body);
    return result;
  }
  *out = from_bits<CUgraphNode>(record.node);
  if (params.type == CU_GRAPH_NODE_TYPE_MEM_ALLOC) {
    params.alloc.dptr = reply.dptr;
    MemoryRange range;
    range.base = reply.dptr;
    range.size = params.alloc.bytesize;
    range.kind = MemoryKind::device;
    range.context = call.context() != nullptr ? call.context()->handle : 0;
    range.ordinal = call.context() != nullptr ? call.context()->device : 0;
    range.of_graph = true;
    call.process().memory.insert(range);
  } else if (GraphNode* const node = call.process().graph_nodes.find(record.node);
             node != nullptr && !bodies.empty()) {
    for (const std::uint64_t body : bodies) {
      if (Graph* const object = call.process().graphs.find(body)) object->owned = true;
      node->bodies.push_back(from_bits<CUgraph>(body));
    }
    params.conditional.phGraph_out = node->bodies.data();
  }
  return CUDA_SUCCESS;
}

CUgraphNodeParams of_type(CUgraphNodeType type) {
  CUgraphNodeParams params{};
  params.type = type;
  return params;
}

// One side of a copy, if it is pageable memory: its rows, as far as the copy reaches.
struct Pageable {
  bool is = false;
  std::uint64_t begin = 0;
  std::size_t bytes = 0;
  std::size_t row_pitch = 0, slice_pitch = 0;
  std::size_t first = 0;  ///< of the first row that is copied
};

Pageable pageable_side(const Process& process, CUmemorytype type, std::uint64_t host, std::uint64_t unified,
                       std::size_t x, std::size_t y, std::size_t z, std::size_t pitch, std::size_t height,
                       const CUDA_MEMCPY3D& copy) {
  Pageable side;
  const std::uint64_t address = type == CU_MEMORYTYPE_HOST ? host : unified;
  if (type != CU_MEMORYTYPE_HOST && type != CU_MEMORYTYPE_UNIFIED) return side;
  if (shared_address(process, address, 1) == address || process.memory.find(address).has_value()) return side;
  side.is = true;
  side.begin = address;
  side.row_pitch = pitch != 0 ? pitch : x + copy.WidthInBytes;
  side.slice_pitch = side.row_pitch * (height != 0 ? height : y + copy.Height);
  side.first = z * side.slice_pitch + y * side.row_pitch + x;
  side.bytes = side.first + (copy.Depth - 1) * side.slice_pitch + (copy.Height - 1) * side.row_pitch +
               copy.WidthInBytes;
  return side;
}

CUresult hide(CUgraph graph, CUgraphNode node, CUgraphNode completes) {
  Call call;
  if (const CUresult result = check_node(call, node); result != CUDA_SUCCESS) return result;
  Process& process = call.process();
  const std::lock_guard lock(process.graphs_mutex);
  GraphNode* const object = process.graph_nodes.find(bits(node));
  Graph* const owner = process.graphs.find(bits(graph));
  if (object == nullptr || owner == nullptr) return CUDA_ERROR_INVALID_VALUE;
  object->hidden = true;
  object->completes = bits(completes);
  ++owner->hidden;
  if (GraphNode* const copy = process.graph_nodes.find(bits(completes))) copy->completion = bits(node);
  return CUDA_SUCCESS;
}

// A copy to or from pageable memory: by pinned memory, with a host node before or behind it.
CUresult add_pageable_copy(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies,
                           const CUgraphEdgeData* edges, std::size_t count, CUgraphNodeParams params) {
  CUDA_MEMCPY3D& copy = params.memcpy.copyParams;
  if (copy.WidthInBytes == 0 || copy.Height == 0 || copy.Depth == 0) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_graph(call, graph); result != CUDA_SUCCESS) return result;
  const Pageable from =
      pageable_side(call.process(), copy.srcMemoryType, bits(copy.srcHost), copy.srcDevice, copy.srcXInBytes,
                    copy.srcY, copy.srcZ, copy.srcPitch, copy.srcHeight, copy);
  const Pageable to =
      pageable_side(call.process(), copy.dstMemoryType, bits(copy.dstHost), copy.dstDevice, copy.dstXInBytes,
                    copy.dstY, copy.dstZ, copy.dstPitch, copy.dstHeight, copy);
  if (from.is && to.is) return refuse("graph copies between two places of pageable memory");
  const Pageable& side = from.is ? from : to;
  CUresult result = CUDA_SUCCESS;
  Bounce* const bounce = make_bounce(call, graph, side.bytes, result);
  if (bounce == nullptr) return result;
  // The rows keep their places, so that the copy's own geometry holds for the pinned memory too.
  std::byte* const pinned = bounce->pinned;
  bounce->user = from_bits<std::byte*>(side.begin + side.first);
  bounce->pinned = pinned + side.first;
  bounce->width = copy.WidthInBytes;
  bounce->rows = copy.Height;
  bounce->slices = copy.Depth;
  bounce->row_pitch = side.row_pitch;
  bounce->slice_pitch = side.slice_pitch;
  CUgraphNodeParams host = of_type(CU_GRAPH_NODE_TYPE_HOST);
  host.host.fn = from.is ? &fill_bounce : &drain_bounce;
  host.host.userData = bounce;
  CUgraphNode mover = nullptr;
  if (from.is) {
    copy.srcMemoryType = CU_MEMORYTYPE_HOST;
    copy.srcHost = pinned;
    result = add_plain_node(&mover, graph, dependencies, edges, count, host);
    if (result == CUDA_SUCCESS) result = add_plain_node(out, graph, &mover, nullptr, 1, params);
    return result == CUDA_SUCCESS ? hide(graph, mover, nullptr) : result;
  }
  copy.dstMemoryType = CU_MEMORYTYPE_HOST;
  copy.dstHost = pinned;
  result = add_plain_node(out, graph, dependencies, edges, count, params);
  if (result == CUDA_SUCCESS) result = add_plain_node(&mover, graph, out, nullptr, 1, host);
  return result == CUDA_SUCCESS ? hide(graph, mover, *out) : result;
}

CUresult add_node(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies,
                  const CUgraphEdgeData* edges, std::size_t count, CUgraphNodeParams& params) {
  if (params.type == CU_GRAPH_NODE_TYPE_MEMCPY && out != nullptr) {
    const Process* const ready = process();
    if (ready == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
    if (!shareable(*ready, params.memcpy.copyParams))
      return add_pageable_copy(out, graph, dependencies, edges, count, params);
  }
  return add_plain_node(out, graph, dependencies, edges, count, params);
}

CUresult set_node(CUgraphNode node, const CUgraphNodeParams& params) {
  Call call;
  if (const CUresult result = check_node(call, node); result != CUDA_SUCCESS) return result;
  record::cuGraphNodeSetParams record;
  record.node = bits(node);
  record.type = static_cast<std::uint32_t>(params.type);
  std::vector<std::byte> tail;
  if (const CUresult result = write_node(call, params, {}, tail); result != CUDA_SUCCESS) return result;
  return call.ask(record, tail);
}

CUresult set_exec_node(CUgraphExec exec, CUgraphNode node, const CUgraphNodeParams& params) {
  Call call;
  if (const CUresult result = check_exec(call, exec); result != CUDA_SUCCESS) return result;
  if (call.process().graph_nodes.find(bits(node)) == nullptr) return CUDA_ERROR_INVALID_VALUE;
  record::cuGraphExecNodeSetParams record;
  record.exec = bits(exec);
  record.node = bits(node);
  record.type = static_cast<std::uint32_t>(params.type);
  std::vector<std::byte> tail;
  if (const CUresult result = write_node(call, params, {}, tail); result != CUDA_SUCCESS) return result;
  return call.ask(record, tail);
}

// The parameters of a node of this type, as records carry them.
CUresult get_node(Call& call, CUgraphNode node, CUgraphNodeType type, GraphNode*& object,
                  std::vector<std::byte>& out) {
  if (const CUresult result = check_node(call, node); result != CUDA_SUCCESS) return result;
  object = call.process().graph_nodes.find(bits(node));
  constexpr std::uint64_t kRoom = 64 << 10;
  ArenaLease block(call.connection(), kRoom);
  if (!block) return CUDA_ERROR_DEVICE_UNAVAILABLE;
  record::graph_node_params record;
  record.node = bits(node);
  record.type = static_cast<std::uint32_t>(type);
  record.fresh = type == CU_GRAPH_NODE_TYPE_GRAPH ? call.mint(HandleKind::graph) : 0;
  record.block = block.span(kRoom);
  reply::graph_node_params reply;
  CUresult result = call.ask(record, reply);
  if (result == CUDA_SUCCESS && reply.bytes > kRoom) result = CUDA_ERROR_UNKNOWN;
  if (result == CUDA_SUCCESS) out.assign(block.data(), block.data() + reply.bytes);
  block.discard();
  if (record.fresh != 0) {
    NamedNode child;
    if (out.size() >= sizeof child) std::memcpy(&child, out.data(), sizeof child);
    if (child.handle != record.fresh) {
      call.forget(record.fresh);
    } else if (Graph* const graph = call.process().graphs.find(record.fresh)) {
      graph->owned = true;
    }
  }
  return result;
}

// The same where the parameters are one plain structure.
template <class T>
CUresult get_plain(CUgraphNode node, CUgraphNodeType type, T& out) {
  Call call;
  GraphNode* object = nullptr;
  std::vector<std::byte> bytes;
  if (const CUresult result = get_node(call, node, type, object, bytes); result != CUDA_SUCCESS)
    return result;
  if (bytes.size() < sizeof out) return CUDA_ERROR_UNKNOWN;
  std::memcpy(static_cast<void*>(&out), bytes.data(), sizeof out);
  return CUDA_SUCCESS;
}

template <class Params>
CUresult get_kernel(CUgraphNode handle, Params* out) {
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  GraphNode* object = nullptr;
  std::vector<std::byte> bytes;
  if (const CUresult result = get_node(call, handle, CU_GRAPH_NODE_TYPE_KERNEL, object, bytes);
      result != CUDA_SUCCESS) {
    return result;
  }
  KernelNode node;
  if (bytes.size() < sizeof node) return CUDA_ERROR_UNKNOWN;
  std::memcpy(&node, bytes.data(), sizeof node);
  const Function* const function = find_function(call.process(), node.function);
  if (function == nullptr) return CUDA_ERROR_UNKNOWN;
  object->params.assign(bytes.begin() + sizeof node, bytes.end());
  object->pointers.clear();
  for (const KernelParameter& parameter : function->layout.parameters()) {
    if (std::size_t{parameter.offset} + parameter.size > object->params.size()) return CUDA_ERROR_UNKNOWN;
    object->pointers.push_back(object->params.data() + parameter.offset);
  }
  *out = {};
  if constexpr (requires { out->kern; }) {
    if (Handle::kind(node.function) == HandleKind::kernel) out->kern = from_bits<CUkernel>(node.function);
  }
  // A kernel's handle serves as its function.
  out->func = from_bits<CUfunction>(node.function);
  if constexpr (requires { out->kern; }) {
    if (out->kern != nullptr) out->func = nullptr;
  }
  out->gridDimX = node.grid[0];
  out->gridDimY = node.grid[1];
  out->gridDimZ = node.grid[2];
  out->blockDimX = node.block[0];
  out->blockDimY = node.block[1];
  out->blockDimZ = node.block[2];
  out->sharedMemBytes = node.dynamic_shared;
  out->kernelParams = object->pointers.empty() ? nullptr : object->pointers.data();
  return CUDA_SUCCESS;
}

CUresult get_batch(CUgraphNode handle, CUDA_BATCH_MEM_OP_NODE_PARAMS* out) {
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  GraphNode* object = nullptr;
  std::vector<std::byte> bytes;
  if (const CUresult result = get_node(call, handle, CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, object, bytes);
      result != CUDA_SUCCESS) {
    return result;
  }
  BatchNode node;
  if (bytes.size() < sizeof node) return CUDA_ERROR_UNKNOWN;
  std::memcpy(&node, bytes.data(), sizeof node);
  if (node.count > (bytes.size() - sizeof node) / sizeof(CUstreamBatchMemOpParams)) return CUDA_ERROR_UNKNOWN;
  object->operations.resize(node.count);
  if (node.count != 0) {
    std::memcpy(object->operations.data(), bytes.data() + sizeof node,
                node.count * sizeof(CUstreamBatchMemOpParams));
  }
  *out = {};
  out->ctx = call.context() != nullptr ? call.context()->cu() : nullptr;
  out->count = node.count;
  out->paramArray = object->operations.data();
  out->flags = node.flags;
  return CUDA_SUCCESS;
}

// The generic form of each older call's parameters.
template <class Params>
CUgraphNodeParams kernel_params(const Params& from) {
  CUgraphNodeParams params = of_type(CU_GRAPH_NODE_TYPE_KERNEL);
  if constexpr (requires { from.kern; }) {
    params.kernel.func = function_of(from);
  } else {
    params.kernel.func = from.func;
  }
  params.kernel.gridDimX = from.gridDimX;
  params.kernel.gridDimY = from.gridDimY;
  params.kernel.gridDimZ = from.gridDimZ;
  params.kernel.blockDimX = from.blockDimX;
  params.kernel.blockDimY = from.blockDimY;
  params.kernel.blockDimZ = from.blockDimZ;
  params.kernel.sharedMemBytes = from.sharedMemBytes;
  params.kernel.kernelParams = from.kernelParams;
  params.kernel.extra = from.extra;
  return params;
}
CUgraphNodeParams copy_params(const CUDA_MEMCPY3D& from) {
  CUgraphNodeParams params = of_type(CU_GRAPH_NODE_TYPE_MEMCPY);
  params.memcpy.copyParams = from;
  return params;
}
CUgraphNodeParams memset_params(const CUDA_MEMSET_NODE_PARAMS& from) {
  CUgraphNodeParams params = of_type(CU_GRAPH_NODE_TYPE_MEMSET);
  params.memset = {from.dst, from.pitch, from.value, from.elementSize, from.width, from.height, nullptr};
  return params;
}
CUgraphNodeParams host_params(const CUDA_HOST_NODE_PARAMS& from) {
  CUgraphNodeParams params = of_type(CU_GRAPH_NODE_TYPE_HOST);
  params.host.fn = from.fn;
  params.host.userData = from.userData;
  return params;
}
CUgraphNodeParams child_params(CUgraph child) {
  CUgraphNodeParams params = of_type(CU_GRAPH_NODE_TYPE_GRAPH);
  params.graph.graph = child;
  return params;
}
CUgraphNodeParams event_params(CUgraphNodeType type, CUevent event) {
  CUgraphNodeParams params = of_type(type);
  if (type == CU_GRAPH_NODE_TYPE_WAIT_EVENT) {
    params.eventWait.event = event;
  } else {
    params.eventRecord.event = event;
  }
  return params;
}
CUgraphNodeParams batch_params(const CUDA_BATCH_MEM_OP_NODE_PARAMS& from) {
  CUgraphNodeParams params = of_type(CU_GRAPH_NODE_TYPE_BATCH_MEM_OP);
  params.memOp.count = from.count;
  params.memOp.paramArray = from.paramArray;
  params.memOp.flags = from.flags;
  return params;
}

CUresult add(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies, std::size_t count,
             CUgraphNodeParams params) {
  return add_node(out, graph, dependencies, nullptr, count, params);
}

CUresult get_event(CUgraphNode node, CUgraphNodeType type, CUevent* out) {
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  NamedNode named;
  const CUresult result = get_plain(node, type, named);
  if (result == CUDA_SUCCESS) *out = from_bits<CUevent>(named.handle);
  return result;
}

}  // namespace
}  // namespace vgpu::client

using namespace vgpu::client;

VGPU_EXPORT CUresult cuGraphAddNode(CUgraphNode* phGraphNode, CUgraph hGraph, const CUgraphNode* dependencies,
                                    size_t numDependencies, CUgraphNodeParams* nodeParams) {
  if (nodeParams == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add_node(phGraphNode, hGraph, dependencies, nullptr, numDependencies, *nodeParams);
}
VGPU_EXPORT CUresult cuGraphAddNode_v2(CUgraphNode* phGraphNode, CUgraph hGraph,
                                       const CUgraphNode* dependencies, const CUgraphEdgeData* dependencyData,
                                       size_t numDependencies, CUgraphNodeParams* nodeParams) {
  if (nodeParams == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add_node(phGraphNode, hGraph, dependencies, dependencyData, numDependencies, *nodeParams);
}
VGPU_EXPORT CUresult cuGraphNodeSetParams(CUgraphNode hNode, CUgraphNodeParams* nodeParams) {
  return nodeParams == nullptr ? CUDA_ERROR_INVALID_VALUE : set_node(hNode, *nodeParams);
}
VGPU_EXPORT CUresult cuGraphExecNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                              CUgraphNodeParams* nodeParams) {
  return nodeParams == nullptr ? CUDA_ERROR_INVALID_VALUE : set_exec_node(hGraphExec, hNode, *nodeParams);
}

VGPU_EXPORT CUresult cuGraphAddEmptyNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                         const CUgraphNode* dependencies, size_t numDependencies) {
  return add(phGraphNode, hGraph, dependencies, numDependencies, of_type(CU_GRAPH_NODE_TYPE_EMPTY));
}

VGPU_EXPORT CUresult cuGraphAddKernelNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                          const CUgraphNode* dependencies, size_t numDependencies,
                                          const CUDA_KERNEL_NODE_PARAMS_v1* nodeParams) {
  if (nodeParams == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add(phGraphNode, hGraph, dependencies, numDependencies, kernel_params(*nodeParams));
}
VGPU_EXPORT CUresult cuGraphAddKernelNode_v2(CUgraphNode* phGraphNode, CUgraph hGraph,
                                             const CUgraphNode* dependencies, size_t numDependencies,
                                             const CUDA_KERNEL_NODE_PARAMS* nodeParams) {
  if (nodeParams == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add(phGraphNode, hGraph, dependencies, numDependencies, kernel_params(*nodeParams));
}
VGPU_EXPORT CUresult cuGraphKernelNodeSetParams(CUgraphNode hNode,
                                                const CUDA_KERNEL_NODE_PARAMS_v1* nodeParams) {
  return nodeParams == nullptr ? CUDA_ERROR_INVALID_VALUE : set_node(hNode, kernel_params(*nodeParams));
}
VGPU_EXPORT CUresult cuGraphKernelNodeSetParams_v2(CUgraphNode hNode,
                                                   const CUDA_KERNEL_NODE_PARAMS* nodeParams) {
  return nodeParams == nullptr ? CUDA_ERROR_INVALID_VALUE : set_node(hNode, kernel_params(*nodeParams));
}
VGPU_EXPORT CUresult cuGraphExecKernelNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                    const CUDA_KERNEL_NODE_PARAMS_v1* nodeParams) {
  return nodeParams == nullptr ? CUDA_ERROR_INVALID_VALUE
                               : set_exec_node(hGraphExec, hNode, kernel_params(*nodeParams));
}
VGPU_EXPORT CUresult cuGraphExecKernelNodeSetParams_v2(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                       const CUDA_KERNEL_NODE_PARAMS* nodeParams) {
  return nodeParams == nullptr ? CUDA_ERROR_INVALID_VALUE
                               : set_exec_node(hGraphExec, hNode, kernel_params(*nodeParams));
}
VGPU_EXPORT CUresult cuGraphKernelNodeGetParams(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS_v1* nodeParams) {
  return get_kernel(hNode, nodeParams);
}
VGPU_EXPORT CUresult cuGraphKernelNodeGetParams_v2(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS* nodeParams) {
  return get_kernel(hNode, nodeParams);
}

VGPU_EXPORT CUresult cuGraphAddMemcpyNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                          const CUgraphNode* dependencies, size_t numDependencies,
                                          const CUDA_MEMCPY3D* copyParams, CUcontext) {
  if (copyParams == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add(phGraphNode, hGraph, dependencies, numDependencies, copy_params(*copyParams));
}
VGPU_EXPORT CUresult cuGraphMemcpyNodeSetParams(CUgraphNode hNode, const CUDA_MEMCPY3D* nodeParams) {
  return nodeParams == nullptr ? CUDA_ERROR_INVALID_VALUE : set_node(hNode, copy_params(*nodeParams));
}
VGPU_EXPORT CUresult cuGraphExecMemcpyNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                    const CUDA_MEMCPY3D* copyParams, CUcontext) {
  return copyParams == nullptr ? CUDA_ERROR_INVALID_VALUE
                               : set_exec_node(hGraphExec, hNode, copy_params(*copyParams));
}
VGPU_EXPORT CUresult cuGraphMemcpyNodeGetParams(CUgraphNode hNode, CUDA_MEMCPY3D* nodeParams) {
  return nodeParams == nullptr ? CUDA_ERROR_INVALID_VALUE
                               : get_plain(hNode, CU_GRAPH_NODE_TYPE_MEMCPY, *nodeParams);
}

VGPU_EXPORT CUresult cuGraphAddMemsetNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                          const CUgraphNode* dependencies, size_t numDependencies,
                                          const CUDA_MEMSET_NODE_PARAMS* memsetParams, CUcontext) {
  if (memsetParams == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add(phGraphNode, hGraph, dependencies, numDependencies, memset_params(*memsetParams));
}
VGPU_EXPORT CUresult cuGraphMemsetNodeSetParams(CUgraphNode hNode,
                                                const CUDA_MEMSET_NODE_PARAMS* nodeParams) {
  return nodeParams == nullptr ? CUDA_ERROR_INVALID_VALUE : set_node(hNode, memset_params(*nodeParams));
}
VGPU_EXPORT CUresult cuGraphExecMemsetNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                    const CUDA_MEMSET_NODE_PARAMS* memsetParams, CUcontext) {
  return memsetParams == nullptr ? CUDA_ERROR_INVALID_VALUE
                                 : set_exec_node(hGraphExec, hNode, memset_params(*memsetParams));
}
VGPU_EXPORT CUresult cuGraphMemsetNodeGetParams(CUgraphNode hNode, CUDA_MEMSET_NODE_PARAMS* nodeParams) {
  return nodeParams == nullptr ? CUDA_ERROR_INVALID_VALUE
                               : get_plain(hNode, CU_GRAPH_NODE_TYPE_MEMSET, *nodeParams);
}

VGPU_EXPORT CUresult cuGraphAddHostNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                        const CUgraphNode* dependencies, size_t numDependencies,
                                        const CUDA_HOST_NODE_PARAMS* nodeParams) {
  if (nodeParams == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add(phGraphNode, hGraph, dependencies, numDependencies, host_params(*nodeParams));
}
VGPU_EXPORT CUresult cuGraphHostNodeSetParams(CUgraphNode hNode, const CUDA_HOST_NODE_PARAMS* nodeParams) {
  return nodeParams == nullptr ? CUDA_ERROR_INVALID_VALUE : set_node(hNode, host_params(*nodeParams));
}
VGPU_EXPORT CUresult cuGraphExecHostNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                  const CUDA_HOST_NODE_PARAMS* nodeParams) {
  return nodeParams == nullptr ? CUDA_ERROR_INVALID_VALUE
                               : set_exec_node(hGraphExec, hNode, host_params(*nodeParams));
}
VGPU_EXPORT CUresult cuGraphHostNodeGetParams(CUgraphNode hNode, CUDA_HOST_NODE_PARAMS* nodeParams) {
  if (nodeParams == nullptr) return CUDA_ERROR_INVALID_VALUE;
  vgpu::HostNode node;
  const CUresult result = get_plain(hNode, CU_GRAPH_NODE_TYPE_HOST, node);
  if (result == CUDA_SUCCESS) *nodeParams = {from_bits<CUhostFn>(node.function), from_bits<void*>(node.user)};
  return result;
}

VGPU_EXPORT CUresult cuGraphAddChildGraphNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                              const CUgraphNode* dependencies, size_t numDependencies,
                                              CUgraph childGraph) {
  return add(phGraphNode, hGraph, dependencies, numDependencies, child_params(childGraph));
}
VGPU_EXPORT CUresult cuGraphExecChildGraphNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                        CUgraph childGraph) {
  return set_exec_node(hGraphExec, hNode, child_params(childGraph));
}
VGPU_EXPORT CUresult cuGraphChildGraphNodeGetGraph(CUgraphNode hNode, CUgraph* phGraph) {
  if (phGraph == nullptr) return CUDA_ERROR_INVALID_VALUE;
  vgpu::NamedNode node;
  const CUresult result = get_plain(hNode, CU_GRAPH_NODE_TYPE_GRAPH, node);
  if (result == CUDA_SUCCESS) *phGraph = from_bits<CUgraph>(node.handle);
  return result;
}

VGPU_EXPORT CUresult cuGraphAddEventRecordNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                               const CUgraphNode* dependencies, size_t numDependencies,
                                               CUevent event) {
  return add(phGraphNode, hGraph, dependencies, numDependencies,
             event_params(CU_GRAPH_NODE_TYPE_EVENT_RECORD, event));
}
VGPU_EXPORT CUresult cuGraphEventRecordNodeGetEvent(CUgraphNode hNode, CUevent* event_out) {
  return get_event(hNode, CU_GRAPH_NODE_TYPE_EVENT_RECORD, event_out);
}
VGPU_EXPORT CUresult cuGraphEventRecordNodeSetEvent(CUgraphNode hNode, CUevent event) {
  return set_node(hNode, event_params(CU_GRAPH_NODE_TYPE_EVENT_RECORD, event));
}
VGPU_EXPORT CUresult cuGraphExecEventRecordNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                        CUevent event) {
  return set_exec_node(hGraphExec, hNode, event_params(CU_GRAPH_NODE_TYPE_EVENT_RECORD, event));
}
VGPU_EXPORT CUresult cuGraphAddEventWaitNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                             const CUgraphNode* dependencies, size_t numDependencies,
                                             CUevent event) {
  return add(phGraphNode, hGraph, dependencies, numDependencies,
             event_params(CU_GRAPH_NODE_TYPE_WAIT_EVENT, event));
}
VGPU_EXPORT CUresult cuGraphEventWaitNodeGetEvent(CUgraphNode hNode, CUevent* event_out) {
  return get_event(hNode, CU_GRAPH_NODE_TYPE_WAIT_EVENT, event_out);
}
VGPU_EXPORT CUresult cuGraphEventWaitNodeSetEvent(CUgraphNode hNode, CUevent event) {
  return set_node(hNode, event_params(CU_GRAPH_NODE_TYPE_WAIT_EVENT, event));
}
VGPU_EXPORT CUresult cuGraphExecEventWaitNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                      CUevent event) {
  return set_exec_node(hGraphExec, hNode, event_params(CU_GRAPH_NODE_TYPE_WAIT_EVENT, event));
}

VGPU_EXPORT CUresult cuGraphAddMemAllocNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                            const CUgraphNode* dependencies, size_t numDependencies,
                                            CUDA_MEM_ALLOC_NODE_PARAMS* nodeParams) {
  if (nodeParams == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CUgraphNodeParams params = of_type(CU_GRAPH_NODE_TYPE_MEM_ALLOC);
  params.alloc.poolProps = nodeParams->poolProps;
  params.alloc.accessDescs = nodeParams->accessDescs;
  params.alloc.accessDescCount = nodeParams->accessDescCount;
  params.alloc.bytesize = nodeParams->bytesize;
  const CUresult result = add_node(phGraphNode, hGraph, dependencies, nullptr, numDependencies, params);
  if (result == CUDA_SUCCESS) nodeParams->dptr = params.alloc.dptr;
  return result;
}
VGPU_EXPORT CUresult cuGraphMemAllocNodeGetParams(CUgraphNode hNode, CUDA_MEM_ALLOC_NODE_PARAMS* params_out) {
  if (params_out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  vgpu::AllocationNode node;
  const CUresult result = get_plain(hNode, CU_GRAPH_NODE_TYPE_MEM_ALLOC, node);
  if (result != CUDA_SUCCESS) return result;
  *params_out = {};
  params_out->poolProps = node.props;
  params_out->bytesize = node.bytes;
  params_out->dptr = node.address;
  return CUDA_SUCCESS;
}
VGPU_EXPORT CUresult cuGraphAddMemFreeNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                           const CUgraphNode* dependencies, size_t numDependencies,
                                           CUdeviceptr dptr) {
  CUgraphNodeParams params = of_type(CU_GRAPH_NODE_TYPE_MEM_FREE);
  params.free.dptr = dptr;
  return add(phGraphNode, hGraph, dependencies, numDependencies, params);
}
VGPU_EXPORT CUresult cuGraphMemFreeNodeGetParams(CUgraphNode hNode, CUdeviceptr* dptr_out) {
  if (dptr_out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  vgpu::NamedNode node;
  const CUresult result = get_plain(hNode, CU_GRAPH_NODE_TYPE_MEM_FREE, node);
  if (result == CUDA_SUCCESS) *dptr_out = node.handle;
  return result;
}

VGPU_EXPORT CUresult cuGraphAddBatchMemOpNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                              const CUgraphNode* dependencies, size_t numDependencies,
                                              const CUDA_BATCH_MEM_OP_NODE_PARAMS* nodeParams) {
  if (nodeParams == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add(phGraphNode, hGraph, dependencies, numDependencies, batch_params(*nodeParams));
}
VGPU_EXPORT CUresult cuGraphBatchMemOpNodeGetParams(CUgraphNode hNode,
                                                    CUDA_BATCH_MEM_OP_NODE_PARAMS* nodeParams_out) {
  return get_batch(hNode, nodeParams_out);
}
VGPU_EXPORT CUresult cuGraphBatchMemOpNodeSetParams(CUgraphNode hNode,
                                                    const CUDA_BATCH_MEM_OP_NODE_PARAMS* nodeParams) {
  return nodeParams == nullptr ? CUDA_ERROR_INVALID_VALUE : set_node(hNode, batch_params(*nodeParams));
}
VGPU_EXPORT CUresult cuGraphExecBatchMemOpNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                        const CUDA_BATCH_MEM_OP_NODE_PARAMS* nodeParams) {
  return nodeParams == nullptr ? CUDA_ERROR_INVALID_VALUE
                               : set_exec_node(hGraphExec, hNode, batch_params(*nodeParams));
}
