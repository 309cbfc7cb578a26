#include "libclient/cuda/graph_nodes.hpp"

#include <cstring>

#include "libclient/cuda/arena_block.hpp"
#include "libclient/cuda/copy.hpp"
#include "libclient/cuda/graph_bounce.hpp"
#include "libclient/cuda/graph_calls.hpp"
#include "libclient/cuda/graph_node_writer.hpp"
#include "protocol/graph_node.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

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
    result = refuse_node("graph nodes with very many dependencies");
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

// One side of a copy, if it is pageable memory: its rows, as far as the copy reaches.
struct Pageable {
  bool is = false;
  std::uint64_t begin = 0;
  std::size_t bytes = 0;
  Rows rows;
};

Pageable pageable_side(const Process& process, CUmemorytype type, std::uint64_t host, std::uint64_t unified,
                       std::size_t x, std::size_t y, std::size_t z, std::size_t pitch, std::size_t height,
                       const CUDA_MEMCPY3D& copy) {
  Pageable side;
  const std::uint64_t address = type == CU_MEMORYTYPE_HOST ? host : unified;
  if (type != CU_MEMORYTYPE_HOST && type != CU_MEMORYTYPE_UNIFIED) return side;
  if (shared_address(process, address, 1) == address) return side;
  const auto range = process.memory.find(address);
  const bool devices = range && range->kind != MemoryKind::registered;
  if (devices && (type == CU_MEMORYTYPE_UNIFIED || device_alone(process, address, 1))) return side;
  side.is = true;
  side.begin = address;
  Rows& rows = side.rows;
  rows.width = copy.WidthInBytes;
  rows.rows = copy.Height;
  rows.slices = copy.Depth;
  rows.row_pitch = pitch != 0 ? pitch : x + copy.WidthInBytes;
  rows.slice_pitch = rows.row_pitch * (height != 0 ? height : y + copy.Height);
  rows.first = z * rows.slice_pitch + y * rows.row_pitch + x;
  side.bytes = rows.first + (copy.Depth - 1) * rows.slice_pitch + (copy.Height - 1) * rows.row_pitch +
               copy.WidthInBytes;
  return side;
}

Pageable source_of(const Process& process, const CUDA_MEMCPY3D& copy) {
  return pageable_side(process, copy.srcMemoryType, bits(copy.srcHost), copy.srcDevice, copy.srcXInBytes,
                       copy.srcY, copy.srcZ, copy.srcPitch, copy.srcHeight, copy);
}

Pageable target_of(const Process& process, const CUDA_MEMCPY3D& copy) {
  return pageable_side(process, copy.dstMemoryType, bits(copy.dstHost), copy.dstDevice, copy.dstXInBytes,
                       copy.dstY, copy.dstZ, copy.dstPitch, copy.dstHeight, copy);
}

// The copy with pinned memory in place of what is pageable on that side.
void use_pinned(CUDA_MEMCPY3D& copy, bool source, std::byte* pinned) {
  (source ? copy.srcMemoryType : copy.dstMemoryType) = CU_MEMORYTYPE_HOST;
  if (source) {
    copy.srcHost = pinned;
  } else {
    copy.dstHost = pinned;
  }
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
  const Pageable from = source_of(call.process(), copy);
  const Pageable to = target_of(call.process(), copy);
  if (from.is && to.is) return refuse_node("graph copies between two places of pageable memory");
  // A device's address where host memory is named.
  if (!from.is && !to.is) return CUDA_ERROR_INVALID_VALUE;
  const Pageable& side = from.is ? from : to;
  CUresult result = CUDA_SUCCESS;
  // The rows keep their places, so that the copy's own geometry holds for the pinned memory too.
  Bounce* const bounce =
      make_bounce(call, graph, from_bits<std::byte*>(side.begin), side.bytes, side.rows, result);
  if (bounce == nullptr) return result;
  use_pinned(copy, from.is, bounce->pinned);
  CUgraphNodeParams host = of_type(CU_GRAPH_NODE_TYPE_HOST);
  host.host.fn = from.is ? &fill_bounce : &drain_bounce;
  host.host.userData = bounce;
  CUgraphNode mover = nullptr;
  if (from.is) {
    result = add_plain_node(&mover, graph, dependencies, edges, count, host);
    if (result == CUDA_SUCCESS) result = add_plain_node(out, graph, &mover, nullptr, 1, params);
    return result == CUDA_SUCCESS ? hide(graph, mover, nullptr) : result;
  }
  result = add_plain_node(out, graph, dependencies, edges, count, params);
  if (result == CUDA_SUCCESS) result = add_plain_node(&mover, graph, out, nullptr, 1, host);
  return result == CUDA_SUCCESS ? hide(graph, mover, *out) : result;
}

// New parameters of a copy whose pageable side stays as it was: by the pinned memory that the node copies to
// or from already. Others stay as they are, for write_node() to refuse.
CUresult keep_bounce(CUgraphNode node, CUgraphNodeParams& params) {
  const Process* const ready = process();
  if (ready == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  CUDA_MEMCPY3D& copy = params.memcpy.copyParams;
  if (params.type != CU_GRAPH_NODE_TYPE_MEMCPY || shareable(*ready, copy)) return CUDA_SUCCESS;
  const Pageable from = source_of(*ready, copy);
  const Pageable to = target_of(*ready, copy);
  if (from.is == to.is) return CUDA_SUCCESS;
  Call call;
  GraphNode* object = nullptr;
  std::vector<std::byte> bytes;
  if (const CUresult result = get_node(call, node, CU_GRAPH_NODE_TYPE_MEMCPY, object, bytes);
      result != CUDA_SUCCESS) {
    return result;
  }
  CUDA_MEMCPY3D now{};
  if (bytes.size() < sizeof now) return CUDA_ERROR_UNKNOWN;
  std::memcpy(&now, bytes.data(), sizeof now);
  const bool unified = (from.is ? now.srcMemoryType : now.dstMemoryType) == CU_MEMORYTYPE_UNIFIED;
  const CUdeviceptr address = from.is ? now.srcDevice : now.dstDevice;
  const auto bounce = find_bounce(unified ? address : bits(from.is ? now.srcHost : now.dstHost));
  const Pageable& side = from.is ? from : to;
  if (bounce && bits(bounce->user) == side.begin && same(bounce->rows, side.rows))
    use_pinned(copy, from.is, bounce->pinned);
  return CUDA_SUCCESS;
}

// Sends new parameters: `record` says whose, apart from the node.
template <class Record>
CUresult send_params(Call& call, Record& record, CUgraphNode node, const CUgraphNodeParams& params) {
  record.node = bits(node);
  record.type = static_cast<std::uint32_t>(params.type);
  std::vector<std::byte> tail;
  if (const CUresult result = write_node(call, params, {}, tail); result != CUDA_SUCCESS) return result;
  return call.ask(record, tail);
}

}  // namespace

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

CUresult set_node(CUgraphNode node, const CUgraphNodeParams& given) {
  CUgraphNodeParams params = given;
  if (const CUresult result = keep_bounce(node, params); result != CUDA_SUCCESS) return result;
  Call call;
  if (const CUresult result = check_node(call, node); result != CUDA_SUCCESS) return result;
  record::cuGraphNodeSetParams record;
  return send_params(call, record, node, params);
}

CUresult set_exec_node(CUgraphExec exec, CUgraphNode node, const CUgraphNodeParams& given) {
  CUgraphNodeParams params = given;
  if (const CUresult result = keep_bounce(node, params); result != CUDA_SUCCESS) return result;
  Call call;
  if (const CUresult result = check_exec(call, exec); result != CUDA_SUCCESS) return result;
  if (call.process().graph_nodes.find(bits(node)) == nullptr) return CUDA_ERROR_INVALID_VALUE;
  record::cuGraphExecNodeSetParams record;
  record.exec = bits(exec);
  return send_params(call, record, node, params);
}

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

}  // namespace vgpu::client
