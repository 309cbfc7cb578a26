// The calls for graph nodes. Every older call is a form of cuGraphAddNode, cuGraphNodeSetParams or
// cuGraphExecNodeSetParams.
#include <cstring>
#include <vector>

#include "libclient/cuda/graph_bounce.hpp"
#include "libclient/cuda/graph_calls.hpp"
#include "libclient/cuda/graph_node_writer.hpp"
#include "libclient/cuda/graph_nodes.hpp"
#include "libclient/cuda/images.hpp"
#include "protocol/graph_node.hpp"

namespace vgpu::client {
namespace {

// The parameters of a node where they are one plain structure.
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
  // Both handles, whichever the node was made with: the runtime knows the program's kernels as kernels alone,
  // programs ask about functions.
  const bool is_kernel = Handle::kind(node.function) == HandleKind::kernel;
  out->func = from_bits<CUfunction>(node.function);
  if (is_kernel) {
    if (const CUresult result = cuKernelGetFunction(&out->func, from_bits<CUkernel>(node.function));
        result != CUDA_SUCCESS) {
      return result;
    }
  }
  if constexpr (requires { out->kern; })
    out->kern = from_bits<CUkernel>(is_kernel ? node.function : function->kernel);
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
  if (nodeParams == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = get_plain(hNode, CU_GRAPH_NODE_TYPE_MEMCPY, *nodeParams);
  if (result == CUDA_SUCCESS) name_program_memory(*nodeParams);
  return result;
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
