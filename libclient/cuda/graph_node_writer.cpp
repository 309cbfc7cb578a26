#include "libclient/cuda/graph_node_writer.hpp"

#include <cstring>

#include "cudaabi/unsupported.hpp"
#include "libclient/cuda/copy.hpp"
#include "libclient/cuda/graph_calls.hpp"
#include "libclient/cuda/images.hpp"
#include "libclient/cuda/upcalls.hpp"
#include "protocol/graph_node.hpp"

namespace vgpu::client {

CUresult refuse_node(const char* what) {
  return static_cast<CUresult>(cudaabi::note_unsupported(what));
}

bool shareable(const Process& process, const CUDA_MEMCPY3D& copy) {
  const auto visible = [&](CUmemorytype type, const void* host, CUdeviceptr device) {
    if (type == CU_MEMORYTYPE_HOST) return shared_address(process, bits(host), 1) == bits(host);
    if (type != CU_MEMORYTYPE_UNIFIED) return true;
    const auto range = process.memory.find(device);
    return range && range->kind != MemoryKind::registered;
  };
  return visible(copy.srcMemoryType, copy.srcHost, copy.srcDevice) &&
         visible(copy.dstMemoryType, copy.dstHost, copy.dstDevice);
}

namespace {

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

}  // namespace

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
        return refuse_node("changing a graph's copy to pageable memory");
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
        return refuse_node("child graphs that move to their parent");
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
      return refuse_node("graph nodes of external semaphores");
  }
}

}  // namespace vgpu::client
