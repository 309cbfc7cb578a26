// Graphs: made by capture or node by node, instantiated, updated and ended in the worker. Launch and upload
// are generated.
#include <cstring>
#include <vector>

#include "cudaabi/unsupported.hpp"
#include "libclient/cuda/copy.hpp"
#include "libclient/cuda/images.hpp"
#include "libclient/cuda/node_list.hpp"
#include "libclient/cuda/upcalls.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

constexpr std::size_t kMostDependencies = 4096;

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

CUresult instantiate(CUgraphExec* out, CUgraph graph, unsigned long long flags) {
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_graph(call, graph); result != CUDA_SUCCESS) return result;
  record::cuGraphInstantiateWithFlags record;
  record.exec = call.mint(HandleKind::graph_exec);
  record.graph = bits(graph);
  record.flags = flags;
  if (const CUresult result = call.ask(record); result != CUDA_SUCCESS) {
    call.forget(record.exec);
    return result;
  }
  *out = from_bits<CUgraphExec>(record.exec);
  return CUDA_SUCCESS;
}

CUresult update(CUgraphExec exec, CUgraph graph, CUgraphExecUpdateResult& detail) {
  Call call;
  if (const CUresult result = check_exec(call, exec); result != CUDA_SUCCESS) return result;
  if (call.process().graphs.find(bits(graph)) == nullptr) return CUDA_ERROR_INVALID_VALUE;
  record::cuGraphExecUpdate_v2 record;
  record.exec = bits(exec);
  record.graph = bits(graph);
  reply::cuGraphExecUpdate_v2 reply;
  const CUresult result = call.ask(record, reply);
  detail = result == CUDA_SUCCESS ? static_cast<CUgraphExecUpdateResult>(reply.result)
                                  : CU_GRAPH_EXEC_UPDATE_ERROR;
  return result;
}

// A node's dependencies, then what the node itself adds to the record's tail.
std::vector<std::byte> tail_of(const CUgraphNode* dependencies, std::size_t count, std::size_t more = 0) {
  std::vector<std::byte> tail(count * sizeof(std::uint64_t) + more);
  if (count != 0) std::memcpy(tail.data(), dependencies, count * sizeof(std::uint64_t));
  return tail;
}

// Sends a record that adds a node.
template <class Record>
CUresult add_node(Call& call, Record& record, CUgraphNode* out, CUgraph graph, std::size_t count,
                  std::span<const std::byte> tail) {
  record.graph = bits(graph);
  record.dependency_count = static_cast<std::uint32_t>(count);
  record.node = call.mint(HandleKind::graph_node);
  if (const CUresult result = call.ask(record, tail); result != CUDA_SUCCESS) {
    call.forget(record.node);
    return result;
  }
  *out = from_bits<CUgraphNode>(record.node);
  return CUDA_SUCCESS;
}

CUresult check_add(Call& call, const CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies,
                   std::size_t count) {
  if (out == nullptr || (dependencies == nullptr && count != 0) || count > kMostDependencies)
    return CUDA_ERROR_INVALID_VALUE;
  return check_graph(call, graph);
}

// Fills the fields that all kernel-node records share and appends the packed parameters to `tail`.
template <class Record>
CUresult fill_kernel(Call& call, Record& record, CUfunction handle, const CUDA_KERNEL_NODE_PARAMS_v1& params,
                     std::vector<std::byte>& tail) {
  const Function* function = find_function(call.process(), bits(handle));
  if (function == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const std::size_t bytes = function->layout.total_bytes();
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
  record.function = bits(handle);
  record.grid_x = params.gridDimX;
  record.grid_y = params.gridDimY;
  record.grid_z = params.gridDimZ;
  record.block_x = params.blockDimX;
  record.block_y = params.blockDimY;
  record.block_z = params.blockDimZ;
  record.dynamic_shared = params.sharedMemBytes;
  record.param_bytes = static_cast<std::uint32_t>(bytes);
  return CUDA_SUCCESS;
}

// The newer form may name a CUkernel instead of a function.
CUDA_KERNEL_NODE_PARAMS_v1 older_form(const CUDA_KERNEL_NODE_PARAMS_v2& params) {
  CUDA_KERNEL_NODE_PARAMS_v1 older{};
  older.func = params.func != nullptr ? params.func : reinterpret_cast<CUfunction>(params.kern);
  older.gridDimX = params.gridDimX;
  older.gridDimY = params.gridDimY;
  older.gridDimZ = params.gridDimZ;
  older.blockDimX = params.blockDimX;
  older.blockDimY = params.blockDimY;
  older.blockDimZ = params.blockDimZ;
  older.sharedMemBytes = params.sharedMemBytes;
  older.kernelParams = params.kernelParams;
  older.extra = params.extra;
  return older;
}

CUresult add_kernel(CUgraphNode* out, CUgraph graph, const CUgraphNode* dependencies, std::size_t count,
                    const CUDA_KERNEL_NODE_PARAMS_v1& params) {
  Call call;
  if (const CUresult result = check_add(call, out, graph, dependencies, count); result != CUDA_SUCCESS)
    return result;
  record::cuGraphAddKernelNode_v2 record;
  std::vector<std::byte> tail = tail_of(dependencies, count);
  if (const CUresult result = fill_kernel(call, record, params.func, params, tail); result != CUDA_SUCCESS)
    return result;
  return add_node(call, record, out, graph, count, tail);
}

CUresult set_kernel(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS_v1& params) {
  Call call;
  if (const CUresult result = check_node(call, node); result != CUDA_SUCCESS) return result;
  record::cuGraphKernelNodeSetParams_v2 record;
  record.node = bits(node);
  std::vector<std::byte> tail;
  if (const CUresult result = fill_kernel(call, record, params.func, params, tail); result != CUDA_SUCCESS)
    return result;
  return call.ask(record, tail);
}

CUresult set_exec_kernel(CUgraphExec exec, CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS_v1& params) {
  Call call;
  if (const CUresult result = check_exec(call, exec); result != CUDA_SUCCESS) return result;
  if (call.process().graph_nodes.find(bits(node)) == nullptr) return CUDA_ERROR_INVALID_VALUE;
  record::cuGraphExecKernelNodeSetParams_v2 record;
  record.exec = bits(exec);
  record.node = bits(node);
  std::vector<std::byte> tail;
  if (const CUresult result = fill_kernel(call, record, params.func, params, tail); result != CUDA_SUCCESS)
    return result;
  return call.ask(record, tail);
}

// A list query: how many nodes there are, and as many of them as the caller has room for.
template <class Record, class Answer>
CUresult list_nodes(Call& call, Record& record, Answer& reply, CUgraphNode* nodes, std::size_t* count) {
  std::vector<std::uint64_t> list;
  const std::size_t capacity = nodes != nullptr ? *count : 0;
  if (const CUresult result = ask_nodes(call, record, reply, capacity, list); result != CUDA_SUCCESS)
    return result;
  if (nodes != nullptr) {
    for (std::size_t i = 0; i < capacity; ++i)
      nodes[i] = from_bits<CUgraphNode>(i < list.size() ? list[i] : 0);
    *count = list.size();
  } else {
    *count = reply.node_count;
  }
  return CUDA_SUCCESS;
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

CUresult get_dependencies(CUgraphNode node, CUgraphNode* dependencies, std::size_t* count) {
  if (count == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_node(call, node); result != CUDA_SUCCESS) return result;
  record::cuGraphNodeGetDependencies_v2 record;
  record.node = bits(node);
  reply::cuGraphNodeGetDependencies_v2 reply;
  return list_nodes(call, record, reply, dependencies, count);
}

CUresult add_dependencies(CUgraph graph, const CUgraphNode* from, const CUgraphNode* to, std::size_t count) {
  if (count > kMostDependencies / 2 || ((from == nullptr || to == nullptr) && count != 0))
    return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_graph(call, graph); result != CUDA_SUCCESS) return result;
  record::cuGraphAddDependencies_v2 record;
  record.graph = bits(graph);
  record.count = static_cast<std::uint32_t>(count);
  std::vector<std::byte> tail = tail_of(from, count, count * sizeof(std::uint64_t));
  if (count != 0) std::memcpy(tail.data() + count * sizeof(std::uint64_t), to, count * sizeof(std::uint64_t));
  return call.ask(record, tail);
}

CUresult refuse_edges() {
  return static_cast<CUresult>(cudaabi::note_unsupported("graph edge data"));
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
  if (const CUresult result = call.post(record); result != CUDA_SUCCESS) {
    call.forget(record.graph);
    return result;
  }
  *phGraph = from_bits<CUgraph>(record.graph);
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuGraphDestroy(CUgraph hGraph) {
  Call call;
  if (const CUresult result = check_graph(call, hGraph); result != CUDA_SUCCESS) return result;
  call.forget(bits(hGraph));
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
  if (const CUresult result = call.ask(record); result != CUDA_SUCCESS) {
    call.forget(record.graph);
    return result;
  }
  *phGraphClone = from_bits<CUgraph>(record.graph);
  return CUDA_SUCCESS;
}

VGPU_EXPORT CUresult cuGraphInstantiate(CUgraphExec* phGraphExec, CUgraph hGraph, CUgraphNode* phErrorNode,
                                        char* logBuffer, size_t bufferSize) {
  if (phErrorNode != nullptr) *phErrorNode = nullptr;
  if (logBuffer != nullptr && bufferSize != 0) *logBuffer = '\0';
  return instantiate(phGraphExec, hGraph, 0);
}
VGPU_EXPORT CUresult cuGraphInstantiate_v2(CUgraphExec* phGraphExec, CUgraph hGraph, CUgraphNode* phErrorNode,
                                           char* logBuffer, size_t bufferSize) {
  return cuGraphInstantiate(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize);
}
VGPU_EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec* phGraphExec, CUgraph hGraph,
                                                 unsigned long long flags) {
  return instantiate(phGraphExec, hGraph, flags);
}
VGPU_EXPORT CUresult cuGraphInstantiateWithParams(CUgraphExec* phGraphExec, CUgraph hGraph,
                                                  CUDA_GRAPH_INSTANTIATE_PARAMS* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const auto flags = params->flags & ~static_cast<cuuint64_t>(CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD);
  const CUresult result = instantiate(phGraphExec, hGraph, flags);
  params->hErrNode_out = nullptr;
  params->result_out = result == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS : CUDA_GRAPH_INSTANTIATE_ERROR;
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
  CUgraphExecUpdateResult detail = CU_GRAPH_EXEC_UPDATE_ERROR;
  const CUresult result = update(hGraphExec, hGraph, detail);
  if (hErrorNode_out != nullptr) *hErrorNode_out = nullptr;
  if (updateResult_out != nullptr) *updateResult_out = detail;
  return result;
}
VGPU_EXPORT CUresult cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph,
                                          CUgraphExecUpdateResultInfo* resultInfo) {
  if (resultInfo == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *resultInfo = {};
  return update(hGraphExec, hGraph, resultInfo->result);
}

VGPU_EXPORT CUresult cuGraphGetNodes(CUgraph hGraph, CUgraphNode* nodes, size_t* numNodes) {
  if (numNodes == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_graph(call, hGraph); result != CUDA_SUCCESS) return result;
  record::cuGraphGetNodes record;
  record.graph = bits(hGraph);
  reply::cuGraphGetNodes reply;
  return list_nodes(call, record, reply, nodes, numNodes);
}

VGPU_EXPORT CUresult cuGraphGetRootNodes(CUgraph hGraph, CUgraphNode* rootNodes, size_t* numRootNodes) {
  if (numRootNodes == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_graph(call, hGraph); result != CUDA_SUCCESS) return result;
  record::cuGraphGetRootNodes record;
  record.graph = bits(hGraph);
  reply::cuGraphGetRootNodes reply;
  return list_nodes(call, record, reply, rootNodes, numRootNodes);
}

VGPU_EXPORT CUresult cuGraphNodeGetDependencies(CUgraphNode hNode, CUgraphNode* dependencies,
                                                size_t* numDependencies) {
  return get_dependencies(hNode, dependencies, numDependencies);
}
VGPU_EXPORT CUresult cuGraphNodeGetDependencies_v2(CUgraphNode hNode, CUgraphNode* dependencies,
                                                   CUgraphEdgeData* edgeData, size_t* numDependencies) {
  return edgeData != nullptr ? refuse_edges() : get_dependencies(hNode, dependencies, numDependencies);
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
  return add_dependencies(hGraph, from, to, numDependencies);
}
VGPU_EXPORT CUresult cuGraphAddDependencies_v2(CUgraph hGraph, const CUgraphNode* from, const CUgraphNode* to,
                                               const CUgraphEdgeData* edgeData, size_t numDependencies) {
  return edgeData != nullptr ? refuse_edges() : add_dependencies(hGraph, from, to, numDependencies);
}

VGPU_EXPORT CUresult cuGraphAddEmptyNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                         const CUgraphNode* dependencies, size_t numDependencies) {
  Call call;
  if (const CUresult result = check_add(call, phGraphNode, hGraph, dependencies, numDependencies);
      result != CUDA_SUCCESS) {
    return result;
  }
  record::cuGraphAddEmptyNode record;
  return add_node(call, record, phGraphNode, hGraph, numDependencies, tail_of(dependencies, numDependencies));
}

VGPU_EXPORT CUresult cuGraphAddKernelNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                          const CUgraphNode* dependencies, size_t numDependencies,
                                          const CUDA_KERNEL_NODE_PARAMS_v1* nodeParams) {
  if (nodeParams == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add_kernel(phGraphNode, hGraph, dependencies, numDependencies, *nodeParams);
}
VGPU_EXPORT CUresult cuGraphAddKernelNode_v2(CUgraphNode* phGraphNode, CUgraph hGraph,
                                             const CUgraphNode* dependencies, size_t numDependencies,
                                             const CUDA_KERNEL_NODE_PARAMS* nodeParams) {
  if (nodeParams == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add_kernel(phGraphNode, hGraph, dependencies, numDependencies, older_form(*nodeParams));
}
VGPU_EXPORT CUresult cuGraphKernelNodeSetParams(CUgraphNode hNode,
                                                const CUDA_KERNEL_NODE_PARAMS_v1* nodeParams) {
  return nodeParams == nullptr ? CUDA_ERROR_INVALID_VALUE : set_kernel(hNode, *nodeParams);
}
VGPU_EXPORT CUresult cuGraphKernelNodeSetParams_v2(CUgraphNode hNode,
                                                   const CUDA_KERNEL_NODE_PARAMS* nodeParams) {
  return nodeParams == nullptr ? CUDA_ERROR_INVALID_VALUE : set_kernel(hNode, older_form(*nodeParams));
}
VGPU_EXPORT CUresult cuGraphExecKernelNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                    const CUDA_KERNEL_NODE_PARAMS_v1* nodeParams) {
  return nodeParams == nullptr ? CUDA_ERROR_INVALID_VALUE : set_exec_kernel(hGraphExec, hNode, *nodeParams);
}
VGPU_EXPORT CUresult cuGraphExecKernelNodeSetParams_v2(CUgraphExec hGraphExec, CUgraphNode hNode,
                                                       const CUDA_KERNEL_NODE_PARAMS* nodeParams) {
  return nodeParams == nullptr ? CUDA_ERROR_INVALID_VALUE
                               : set_exec_kernel(hGraphExec, hNode, older_form(*nodeParams));
}

VGPU_EXPORT CUresult cuGraphAddMemcpyNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                          const CUgraphNode* dependencies, size_t numDependencies,
                                          const CUDA_MEMCPY3D* copyParams, CUcontext) {
  if (copyParams == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_add(call, phGraphNode, hGraph, dependencies, numDependencies);
      result != CUDA_SUCCESS) {
    return result;
  }
  if (!shareable(call.process(), *copyParams)) {
    return static_cast<CUresult>(cudaabi::note_unsupported("cuGraphAddMemcpyNode with pageable memory"));
  }
  record::cuGraphAddMemcpyNode record;
  record.copy = *copyParams;
  return add_node(call, record, phGraphNode, hGraph, numDependencies, tail_of(dependencies, numDependencies));
}

VGPU_EXPORT CUresult cuGraphAddMemsetNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                          const CUgraphNode* dependencies, size_t numDependencies,
                                          const CUDA_MEMSET_NODE_PARAMS* memsetParams, CUcontext) {
  if (memsetParams == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_add(call, phGraphNode, hGraph, dependencies, numDependencies);
      result != CUDA_SUCCESS) {
    return result;
  }
  record::cuGraphAddMemsetNode record;
  record.memset = *memsetParams;
  return add_node(call, record, phGraphNode, hGraph, numDependencies, tail_of(dependencies, numDependencies));
}

VGPU_EXPORT CUresult cuGraphAddHostNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                        const CUgraphNode* dependencies, size_t numDependencies,
                                        const CUDA_HOST_NODE_PARAMS* nodeParams) {
  if (nodeParams == nullptr || nodeParams->fn == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = check_add(call, phGraphNode, hGraph, dependencies, numDependencies);
      result != CUDA_SUCCESS) {
    return result;
  }
  if (!start_upcalls(call.process())) return CUDA_ERROR_OPERATING_SYSTEM;
  record::cuGraphAddHostNode record;
  record.function = reinterpret_cast<std::uint64_t>(nodeParams->fn);
  record.user = bits(nodeParams->userData);
  return add_node(call, record, phGraphNode, hGraph, numDependencies, tail_of(dependencies, numDependencies));
}

VGPU_EXPORT CUresult cuGraphAddChildGraphNode(CUgraphNode* phGraphNode, CUgraph hGraph,
                                              const CUgraphNode* dependencies, size_t numDependencies,
                                              CUgraph childGraph) {
  Call call;
  if (const CUresult result = check_add(call, phGraphNode, hGraph, dependencies, numDependencies);
      result != CUDA_SUCCESS) {
    return result;
  }
  if (call.process().graphs.find(bits(childGraph)) == nullptr) return CUDA_ERROR_INVALID_VALUE;
  record::cuGraphAddChildGraphNode record;
  record.child = bits(childGraph);
  return add_node(call, record, phGraphNode, hGraph, numDependencies, tail_of(dependencies, numDependencies));
}
