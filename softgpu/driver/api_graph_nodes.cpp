// cuGraphAdd*Node and the calls that read and change nodes' parameters, in graphs and in executables.
#include <cstring>

#include "softgpu/driver/copy_plan.hpp"
#include "softgpu/driver/graph_api.hpp"
#include "softgpu/driver/library.hpp"
#include "softgpu/driver/memory_pool.hpp"

using namespace softgpu;

namespace {

// From the program's parameters to work. Each leaves `work` alone when it fails.

template <class Params>
CUresult kernel_work(Driver& driver, const Params& params, Work& work) {
  LaunchRequest request;
  request.function = driver.functions.find(params.func);
  const Context* context = current_context();
  if constexpr (requires { params.kern; }) {
    if (request.function == nullptr) request.function = driver.functions.find(params.kern);
    if (params.ctx != nullptr) context = find_context(driver, params.ctx).get();
  }
  if (request.function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  const int device = context != nullptr ? context->device : 0;
  // A graph may hold functions of several devices; a library's kernel is the context's.
  if (request.function->device == any_device) {
    if (const CUresult error = bind_to(request.function, device); error != CUDA_SUCCESS) return error;
  }
  request.grid = {params.gridDimX, params.gridDimY, params.gridDimZ};
  request.block = {params.blockDimX, params.blockDimY, params.blockDimZ};
  request.dynamic_shared = params.sharedMemBytes;
  request.params = params.kernelParams;
  request.extra = params.extra;
  KernelWork kernel;
  const CUresult result = make_kernel_work(request, kernel);
  if (result == CUDA_SUCCESS) work = std::move(kernel);
  return result;
}

CUresult copy_work(const CUDA_MEMCPY3D& params, Work& work) {
  CopyPlan plan;
  if (const CUresult error = plan_of(params, plan); error != CUDA_SUCCESS) return error;
  if (plan.box.width == 0 || plan.box.height == 0 || plan.box.depth == 0) return CUDA_ERROR_INVALID_VALUE;
  Place destination{};
  Place source{};
  if (const CUresult error = check(plan, destination, source); error != CUDA_SUCCESS) return error;
  work = std::move(plan.box);
  return CUDA_SUCCESS;
}

template <class Params>
CUresult memset_work(Driver& driver, const Params& params, Work& work) {
  const bool element_fits = params.elementSize == 1 || params.elementSize == 2 || params.elementSize == 4;
  if (!element_fits || params.width == 0 || params.height == 0) return CUDA_ERROR_INVALID_VALUE;
  const std::size_t row = params.width * params.elementSize;
  if (params.dst % params.elementSize != 0 || (params.height > 1 && params.pitch < row))
    return CUDA_ERROR_INVALID_VALUE;
  if (!driver.memory.accessible(params.dst, (params.height - 1) * params.pitch + row))
    return CUDA_ERROR_INVALID_VALUE;
  work = MemsetWork{params.dst, params.pitch, params.value, params.elementSize, params.width, params.height};
  return CUDA_SUCCESS;
}

template <class Params>
CUresult host_work(const Params& params, Work& work) {
  if (params.fn == nullptr) return CUDA_ERROR_INVALID_VALUE;
  work = HostWork{params.fn, params.userData};
  return CUDA_SUCCESS;
}

template <class EventWork>
CUresult event_work(Driver& driver, CUevent handle, Work& work) {
  auto event = driver.events.find(handle);
  if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (event->shared != nullptr) return CUDA_ERROR_NOT_SUPPORTED;
  work = EventWork{std::move(event)};
  return CUDA_SUCCESS;
}

CUresult child_work(Driver& driver, CUgraph handle, Work& work) {
  const auto child = driver.graphs.find(handle);
  if (child == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (child->has_memory_nodes()) return CUDA_ERROR_NOT_SUPPORTED;  // it would be cloned
  auto copy = child->clone();
  copy->owned_by_node = true;
  driver.graphs.add(copy);
  work = ChildGraphWork{std::move(copy)};
  return CUDA_SUCCESS;
}

template <class Params>
CUresult allocation_work(Driver& driver, Params& params, Work& work) {
  Device* const device = driver.device_at(params.poolProps.location);
  if (params.bytesize == 0 || device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Context* const context = current_context();
  AllocationWork allocation;
  const void* const owner = context != nullptr ? context : &device->primary;
  const CUresult result =
      allocate_from_pool(*default_pool(device->ordinal), params.bytesize, owner, allocation.address);
  if (result != CUDA_SUCCESS) return result;
  params.dptr = allocation.address;
  allocation.bytes = params.bytesize;
  allocation.described.poolProps = params.poolProps;
  allocation.described.bytesize = params.bytesize;
  allocation.described.dptr = allocation.address;
  work = allocation;
  return CUDA_SUCCESS;
}

CUresult generic_work(Driver& driver, CUgraphNodeParams& params, Work& work) {
  switch (params.type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
      return kernel_work(driver, params.kernel, work);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      return copy_work(params.memcpy.copyParams, work);
    case CU_GRAPH_NODE_TYPE_MEMSET:
      return memset_work(driver, params.memset, work);
    case CU_GRAPH_NODE_TYPE_HOST:
      return host_work(params.host, work);
    case CU_GRAPH_NODE_TYPE_GRAPH:
      return child_work(driver, params.graph.graph, work);
    case CU_GRAPH_NODE_TYPE_EMPTY:
      work = EmptyWork{};
      return CUDA_SUCCESS;
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
      return event_work<EventWaitWork>(driver, params.eventWait.event, work);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
      return event_work<EventRecordWork>(driver, params.eventRecord.event, work);
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
      return allocation_work(driver, params.alloc, work);
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
      work = GraphFreeWork{params.free.dptr};
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_NOT_SUPPORTED;
  }
}

// Adds a node whose work `make(Driver&, Work&)` gives.
template <class Make>
CUresult add_node(CUgraphNode* out, CUgraph handle, const CUgraphNode* dependencies, std::size_t count,
                  Make make) {
  return on_graph(handle, [&](Driver& driver, Graph& graph) -> CUresult {
    if (out == nullptr || (count != 0 && dependencies == nullptr)) return CUDA_ERROR_INVALID_VALUE;
    std::vector<GraphNode*> before;
    for (std::size_t i = 0; i < count; ++i) {
      GraphNode* const node = find_node(dependencies[i]);
      if (node == nullptr || node->graph != &graph) return CUDA_ERROR_INVALID_VALUE;
      before.push_back(node);
    }
    Work work;
    if (const CUresult error = make(driver, work); error != CUDA_SUCCESS) return error;
    if (const auto* const allocation = std::get_if<AllocationWork>(&work)) {
      graph.memory->keep(allocation->address);
    }
    *out = graph.add(std::move(work), before)->handle();
    return CUDA_SUCCESS;
  });
}

// Replaces a node's work by another of the same type.
template <class Make>
CUresult set_node(CUgraphNode handle, Make make) {
  return on_node(handle, [&](Driver& driver, GraphNode& node) -> CUresult {
    Work work;
    if (const CUresult error = make(driver, work); error != CUDA_SUCCESS) return error;
    if (node_type(work) != node_type(*node.work)) return CUDA_ERROR_INVALID_VALUE;
    node.work = std::make_shared<const Work>(std::move(work));
    return CUDA_SUCCESS;
  });
}

template <class Make>
CUresult set_exec_node(CUgraphExec handle, CUgraphNode node, Make make) {
  return on_exec(handle, [&](Driver& driver, GraphExec& exec) -> CUresult {
    Work work;
    if (const CUresult error = make(driver, work); error != CUDA_SUCCESS) return error;
    return replace_work(exec, reinterpret_cast<GraphNode*>(node), std::move(work));
  });
}

// Reads a node's work of one kind.
template <class Wanted, class Body>
CUresult read_node(CUgraphNode handle, Body body) {
  return on_node(handle, [&](Driver&, GraphNode& node) -> CUresult {
    const auto* const work = std::get_if<Wanted>(node.work.get());
    if (work == nullptr) return CUDA_ERROR_INVALID_VALUE;
    return body(node, *work);
  });
}

template <class Params>
CUresult kernel_params_of(CUgraphNode handle, Params* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return read_node<KernelWork>(handle, [&](GraphNode& node, const KernelWork& work) -> CUresult {
    *params = {};
    params->func = work.function->handle();
    if constexpr (requires { params->kern; }) {
      // A library's kernel is its function too, and the runtime knows the program's kernels as kernels alone.
      const auto module = work.function->keep_module();
      if (module != nullptr && module->context == nullptr)
        params->kern = reinterpret_cast<CUkernel>(params->func);
    }
    params->gridDimX = work.grid.x;
    params->gridDimY = work.grid.y;
    params->gridDimZ = work.grid.z;
    params->blockDimX = work.block.x;
    params->blockDimY = work.block.y;
    params->blockDimZ = work.block.z;
    params->sharedMemBytes = work.dynamic_shared;
    node.params_view.clear();
    for (const ParamInfo& param : kernel_params(*work.function->kernel)) {
      node.params_view.push_back(const_cast<std::byte*>(work.params.data()) + param.offset);
    }
    params->kernelParams = node.params_view.data();
    return CUDA_SUCCESS;
  });
}

// How a copy that was captured looks as the program would have described it.
CUDA_MEMCPY3D described(const CopyWork& work) {
  if (work.described != nullptr) return *work.described;
  CUDA_MEMCPY3D params{};
  params.srcMemoryType = params.dstMemoryType = CU_MEMORYTYPE_UNIFIED;
  params.srcDevice = work.source;
  params.dstDevice = work.destination;
  params.srcPitch = work.source_pitch;
  params.dstPitch = work.destination_pitch;
  params.WidthInBytes = work.width;
  params.Height = work.height;
  params.Depth = work.depth;
  return params;
}

}  // namespace

SOFTGPU_API cuGraphAddKernelNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* before,
                                 std::size_t count, const CUDA_KERNEL_NODE_PARAMS_v1* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add_node(out, graph, before, count,
                  [&](Driver& d, Work& work) { return kernel_work(d, *params, work); });
}
SOFTGPU_API cuGraphAddKernelNode_v2(CUgraphNode* out, CUgraph graph, const CUgraphNode* before,
                                    std::size_t count, const CUDA_KERNEL_NODE_PARAMS* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add_node(out, graph, before, count,
                  [&](Driver& d, Work& work) { return kernel_work(d, *params, work); });
}
SOFTGPU_API cuGraphAddMemcpyNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* before,
                                 std::size_t count, const CUDA_MEMCPY3D* params, CUcontext) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add_node(out, graph, before, count, [&](Driver&, Work& work) { return copy_work(*params, work); });
}
SOFTGPU_API cuGraphAddMemsetNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* before,
                                 std::size_t count, const CUDA_MEMSET_NODE_PARAMS* params, CUcontext) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add_node(out, graph, before, count,
                  [&](Driver& d, Work& work) { return memset_work(d, *params, work); });
}
SOFTGPU_API cuGraphAddHostNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* before, std::size_t count,
                               const CUDA_HOST_NODE_PARAMS* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add_node(out, graph, before, count, [&](Driver&, Work& work) { return host_work(*params, work); });
}
SOFTGPU_API cuGraphAddChildGraphNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* before,
                                     std::size_t count, CUgraph child) {
  return add_node(out, graph, before, count,
                  [&](Driver& d, Work& work) { return child_work(d, child, work); });
}
SOFTGPU_API cuGraphAddEmptyNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* before,
                                std::size_t count) {
  return add_node(out, graph, before, count, [](Driver&, Work& work) {
    work = EmptyWork{};
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuGraphAddEventRecordNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* before,
                                      std::size_t count, CUevent event) {
  return add_node(out, graph, before, count,
                  [&](Driver& d, Work& work) { return event_work<EventRecordWork>(d, event, work); });
}
SOFTGPU_API cuGraphAddEventWaitNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* before,
                                    std::size_t count, CUevent event) {
  return add_node(out, graph, before, count,
                  [&](Driver& d, Work& work) { return event_work<EventWaitWork>(d, event, work); });
}
SOFTGPU_API cuGraphAddMemAllocNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* before,
                                   std::size_t count, CUDA_MEM_ALLOC_NODE_PARAMS* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add_node(out, graph, before, count,
                  [&](Driver& d, Work& work) { return allocation_work(d, *params, work); });
}
SOFTGPU_API cuGraphAddMemFreeNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* before,
                                  std::size_t count, CUdeviceptr address) {
  return add_node(out, graph, before, count, [&](Driver&, Work& work) {
    work = GraphFreeWork{address};
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuGraphAddNode(CUgraphNode* out, CUgraph graph, const CUgraphNode* before, std::size_t count,
                           CUgraphNodeParams* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return add_node(out, graph, before, count,
                  [&](Driver& d, Work& work) { return generic_work(d, *params, work); });
}
SOFTGPU_API cuGraphAddNode_v2(CUgraphNode* out, CUgraph graph, const CUgraphNode* before,
                              const CUgraphEdgeData*, std::size_t count, CUgraphNodeParams* params) {
  return cuGraphAddNode(out, graph, before, count, params);
}

SOFTGPU_API cuGraphKernelNodeGetParams(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS_v1* params) {
  return kernel_params_of(node, params);
}
SOFTGPU_API cuGraphKernelNodeGetParams_v2(CUgraphNode node, CUDA_KERNEL_NODE_PARAMS* params) {
  return kernel_params_of(node, params);
}
SOFTGPU_API cuGraphKernelNodeSetParams(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS_v1* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return set_node(node, [&](Driver& d, Work& work) { return kernel_work(d, *params, work); });
}
SOFTGPU_API cuGraphKernelNodeSetParams_v2(CUgraphNode node, const CUDA_KERNEL_NODE_PARAMS* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return set_node(node, [&](Driver& d, Work& work) { return kernel_work(d, *params, work); });
}
SOFTGPU_API cuGraphMemcpyNodeGetParams(CUgraphNode node, CUDA_MEMCPY3D* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return read_node<CopyWork>(node, [&](GraphNode&, const CopyWork& work) {
    *params = described(work);
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuGraphMemcpyNodeSetParams(CUgraphNode node, const CUDA_MEMCPY3D* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return set_node(node, [&](Driver&, Work& work) { return copy_work(*params, work); });
}
SOFTGPU_API cuGraphMemsetNodeGetParams(CUgraphNode node, CUDA_MEMSET_NODE_PARAMS* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return read_node<MemsetWork>(node, [&](GraphNode&, const MemsetWork& work) {
    *params = {work.destination, work.pitch, work.value, work.element, work.width, work.height};
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuGraphMemsetNodeSetParams(CUgraphNode node, const CUDA_MEMSET_NODE_PARAMS* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return set_node(node, [&](Driver& d, Work& work) { return memset_work(d, *params, work); });
}
SOFTGPU_API cuGraphHostNodeGetParams(CUgraphNode node, CUDA_HOST_NODE_PARAMS* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return read_node<HostWork>(node, [&](GraphNode&, const HostWork& work) {
    *params = {work.function, work.data};
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuGraphHostNodeSetParams(CUgraphNode node, const CUDA_HOST_NODE_PARAMS* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return set_node(node, [&](Driver&, Work& work) { return host_work(*params, work); });
}
SOFTGPU_API cuGraphChildGraphNodeGetGraph(CUgraphNode node, CUgraph* out) {
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return read_node<ChildGraphWork>(node, [&](GraphNode&, const ChildGraphWork& work) {
    *out = work.graph->handle();
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuGraphEventRecordNodeGetEvent(CUgraphNode node, CUevent* out) {
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return read_node<EventRecordWork>(node, [&](GraphNode&, const EventRecordWork& work) {
    *out = reinterpret_cast<CUevent>(work.event.get());
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuGraphEventRecordNodeSetEvent(CUgraphNode node, CUevent event) {
  return set_node(node, [&](Driver& d, Work& work) { return event_work<EventRecordWork>(d, event, work); });
}
SOFTGPU_API cuGraphEventWaitNodeGetEvent(CUgraphNode node, CUevent* out) {
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return read_node<EventWaitWork>(node, [&](GraphNode&, const EventWaitWork& work) {
    *out = reinterpret_cast<CUevent>(work.event.get());
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuGraphEventWaitNodeSetEvent(CUgraphNode node, CUevent event) {
  return set_node(node, [&](Driver& d, Work& work) { return event_work<EventWaitWork>(d, event, work); });
}
SOFTGPU_API cuGraphMemAllocNodeGetParams(CUgraphNode node, CUDA_MEM_ALLOC_NODE_PARAMS* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return read_node<AllocationWork>(node, [&](GraphNode&, const AllocationWork& work) {
    *params = work.described;
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuGraphMemFreeNodeGetParams(CUgraphNode node, CUdeviceptr* address) {
  if (address == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return read_node<GraphFreeWork>(node, [&](GraphNode&, const GraphFreeWork& work) {
    *address = work.address;
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuGraphNodeSetParams(CUgraphNode node, CUgraphNodeParams* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return set_node(node, [&](Driver& d, Work& work) { return generic_work(d, *params, work); });
}

SOFTGPU_API cuGraphExecKernelNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                           const CUDA_KERNEL_NODE_PARAMS_v1* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return set_exec_node(exec, node, [&](Driver& d, Work& work) { return kernel_work(d, *params, work); });
}
SOFTGPU_API cuGraphExecKernelNodeSetParams_v2(CUgraphExec exec, CUgraphNode node,
                                              const CUDA_KERNEL_NODE_PARAMS* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return set_exec_node(exec, node, [&](Driver& d, Work& work) { return kernel_work(d, *params, work); });
}
SOFTGPU_API cuGraphExecMemcpyNodeSetParams(CUgraphExec exec, CUgraphNode node, const CUDA_MEMCPY3D* params,
                                           CUcontext) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return set_exec_node(exec, node, [&](Driver&, Work& work) { return copy_work(*params, work); });
}
SOFTGPU_API cuGraphExecMemsetNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                           const CUDA_MEMSET_NODE_PARAMS* params, CUcontext) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return set_exec_node(exec, node, [&](Driver& d, Work& work) { return memset_work(d, *params, work); });
}
SOFTGPU_API cuGraphExecHostNodeSetParams(CUgraphExec exec, CUgraphNode node,
                                         const CUDA_HOST_NODE_PARAMS* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return set_exec_node(exec, node, [&](Driver&, Work& work) { return host_work(*params, work); });
}
SOFTGPU_API cuGraphExecEventRecordNodeSetEvent(CUgraphExec exec, CUgraphNode node, CUevent event) {
  return set_exec_node(exec, node,
                       [&](Driver& d, Work& work) { return event_work<EventRecordWork>(d, event, work); });
}
SOFTGPU_API cuGraphExecEventWaitNodeSetEvent(CUgraphExec exec, CUgraphNode node, CUevent event) {
  return set_exec_node(exec, node,
                       [&](Driver& d, Work& work) { return event_work<EventWaitWork>(d, event, work); });
}
SOFTGPU_API cuGraphExecChildGraphNodeSetParams(CUgraphExec exec_handle, CUgraphNode node,
                                               CUgraph child_handle) {
  return on_exec(exec_handle, [&](Driver& driver, GraphExec& exec) -> CUresult {
    const auto child = driver.graphs.find(child_handle);
    if (child == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (child->has_memory_nodes()) return CUDA_ERROR_NOT_SUPPORTED;
    return update_child(exec, reinterpret_cast<GraphNode*>(node), *child);
  });
}
SOFTGPU_API cuGraphExecNodeSetParams(CUgraphExec exec, CUgraphNode node, CUgraphNodeParams* params) {
  if (params == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (params->type == CU_GRAPH_NODE_TYPE_GRAPH)
    return cuGraphExecChildGraphNodeSetParams(exec, node, params->graph.graph);
  return set_exec_node(exec, node, [&](Driver& d, Work& work) { return generic_work(d, *params, work); });
}

// Attributes of kernel nodes: cooperative launch is obeyed, the others are hints that are kept and returned.
SOFTGPU_API cuGraphKernelNodeSetAttribute(CUgraphNode node, CUkernelNodeAttrID attribute,
                                          const CUkernelNodeAttrValue* value) {
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return read_node<KernelWork>(node, [&](GraphNode& found, const KernelWork& work) -> CUresult {
    if (attribute == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) {
      KernelWork changed = work;
      changed.cooperative = value->cooperative != 0;
      found.work = std::make_shared<const Work>(std::move(changed));
    }
    found.attributes[attribute] = *value;
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuGraphKernelNodeGetAttribute(CUgraphNode node, CUkernelNodeAttrID attribute,
                                          CUkernelNodeAttrValue* value) {
  if (value == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return read_node<KernelWork>(node, [&](GraphNode& found, const KernelWork& work) -> CUresult {
    const auto kept = found.attributes.find(attribute);
    if (kept != found.attributes.end()) {
      *value = kept->second;
    } else {
      *value = {};
      if (attribute == CU_LAUNCH_ATTRIBUTE_COOPERATIVE) value->cooperative = work.cooperative ? 1 : 0;
    }
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuGraphKernelNodeCopyAttributes(CUgraphNode to, CUgraphNode from) {
  std::map<int, CUlaunchAttributeValue> attributes;
  const CUresult read = read_node<KernelWork>(from, [&](GraphNode& node, const KernelWork&) {
    attributes = node.attributes;
    return CUDA_SUCCESS;
  });
  if (read != CUDA_SUCCESS) return read;
  return read_node<KernelWork>(to, [&](GraphNode& node, const KernelWork&) {
    node.attributes = std::move(attributes);
    return CUDA_SUCCESS;
  });
}
