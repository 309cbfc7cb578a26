// Explicit graphs of all types of nodes: built, asked for their shape and parameters, changed before and
// after instantiation, switched off node by node, updated, cloned, printed; memory and objects that graphs
// own; captures into a graph that is there already.
#include <string>

#include "check.hpp"

namespace {

__global__ void add(int* data, int value, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) data[i] += value;
}

constexpr int kCount = 500;
constexpr size_t kBytes = kCount * sizeof(int);

CUfunction kernel_add() {
  cudaFunction_t function = nullptr;
  CUDA_OK(cudaGetFuncBySymbol(&function, reinterpret_cast<const void*>(add)));
  return reinterpret_cast<CUfunction>(function);
}

void count(void* counter) {
  ++*static_cast<int*>(counter);
}

CUDA_KERNEL_NODE_PARAMS kernel_params(CUfunction function, void** arguments) {
  CUDA_KERNEL_NODE_PARAMS params{};
  params.func = function;
  params.gridDimX = (kCount + 127) / 128;
  params.gridDimY = params.gridDimZ = 1;
  params.blockDimX = 128;
  params.blockDimY = params.blockDimZ = 1;
  params.kernelParams = arguments;
  return params;
}

CUDA_MEMCPY3D to_host(void* target, CUdeviceptr source) {
  CUDA_MEMCPY3D copy{};
  copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.srcDevice = source;
  copy.dstMemoryType = CU_MEMORYTYPE_HOST;
  copy.dstHost = target;
  copy.WidthInBytes = kBytes;
  copy.Height = copy.Depth = 1;
  return copy;
}

void expect_all(const int* data, int wanted, const char* when) {
  for (int i = 0; i < kCount; ++i) EXPECT(data[i] == wanted, "%s: element %d is %d", when, i, data[i]);
}

// set(7) -> add(3) -> record -> copy -> host, with a child graph (add 10) between the kernel and the copy.
struct Built {
  CUcontext context = nullptr;
  CUstream stream = nullptr;
  CUfunction function = nullptr;
  CUdeviceptr device = 0;
  int* host = nullptr;
  int* other_host = nullptr;
  CUevent event = nullptr;
  int calls = 0;
  int more_calls = 0;
  int value = 3;
  int n = kCount;
  CUgraph graph = nullptr;
  CUgraphNode set = nullptr, kernel = nullptr, child = nullptr, record = nullptr, copy = nullptr,
              call = nullptr;
  CUgraphExec exec = nullptr;

  void launch() {
    DRV_OK(cuGraphLaunch(exec, stream));
    DRV_OK(cuStreamSynchronize(stream));
  }
};

void build(Built& b) {
  DRV_OK(cuCtxGetCurrent(&b.context));
  DRV_OK(cuStreamCreate(&b.stream, CU_STREAM_NON_BLOCKING));
  DRV_OK(cuEventCreate(&b.event, CU_EVENT_DISABLE_TIMING));
  DRV_OK(cuMemAlloc(&b.device, kBytes));
  DRV_OK(cuMemAllocHost(reinterpret_cast<void**>(&b.host), kBytes));
  DRV_OK(cuMemAllocHost(reinterpret_cast<void**>(&b.other_host), kBytes));
  b.function = kernel_add();

  DRV_OK(cuGraphCreate(&b.graph, 0));
  CUDA_MEMSET_NODE_PARAMS set{};
  set.dst = b.device;
  set.value = 7;
  set.elementSize = 4;
  set.width = kCount;
  set.height = 1;
  DRV_OK(cuGraphAddMemsetNode(&b.set, b.graph, nullptr, 0, &set, b.context));
  void* arguments[] = {&b.device, &b.value, &b.n};
  CUDA_KERNEL_NODE_PARAMS kernel = kernel_params(b.function, arguments);
  DRV_OK(cuGraphAddKernelNode(&b.kernel, b.graph, &b.set, 1, &kernel));

  CUgraph inner = nullptr;
  DRV_OK(cuGraphCreate(&inner, 0));
  int ten = 10;
  void* inner_arguments[] = {&b.device, &ten, &b.n};
  CUDA_KERNEL_NODE_PARAMS inner_kernel = kernel_params(b.function, inner_arguments);
  CUgraphNode inner_node = nullptr;
  DRV_OK(cuGraphAddKernelNode(&inner_node, inner, nullptr, 0, &inner_kernel));
  DRV_OK(cuGraphAddChildGraphNode(&b.child, b.graph, &b.kernel, 1, inner));
  DRV_OK(cuGraphDestroy(inner));

  DRV_OK(cuGraphAddEventRecordNode(&b.record, b.graph, &b.child, 1, b.event));
  const CUDA_MEMCPY3D copy = to_host(b.host, b.device);
  DRV_OK(cuGraphAddMemcpyNode(&b.copy, b.graph, &b.record, 1, &copy, b.context));
  CUDA_HOST_NODE_PARAMS host{count, &b.calls};
  CUgraphNodeParams generic{};
  generic.type = CU_GRAPH_NODE_TYPE_HOST;
  generic.host.fn = host.fn;
  generic.host.userData = host.userData;
  DRV_OK(cuGraphAddNode(&b.call, b.graph, &b.copy, nullptr, 1, &generic));
  DRV_OK(cuGraphInstantiate(&b.exec, b.graph, 0));
  b.launch();
  expect_all(b.host, 20, "as built");
  EXPECT(b.calls == 1, "the host node ran %d times", b.calls);
  DRV_OK(cuEventQuery(b.event));
}

void shape(Built& b) {
  size_t nodes = 0;
  DRV_OK(cuGraphGetNodes(b.graph, nullptr, &nodes));
  EXPECT(nodes == 6, "%zu nodes", nodes);
  size_t edges = 0;
  DRV_OK(cuGraphGetEdges(b.graph, nullptr, nullptr, nullptr, &edges));
  EXPECT(edges == 5, "%zu edges", edges);
  CUgraphNode from[8] = {};
  CUgraphNode to[8] = {};
  CUgraphEdgeData data[8];
  std::memset(data, 0xFF, sizeof data);
  edges = 8;
  DRV_OK(cuGraphGetEdges(b.graph, from, to, data, &edges));
  EXPECT(edges == 5, "%zu edges listed", edges);
  bool found = false;
  for (size_t i = 0; i < edges; ++i) {
    EXPECT(data[i].type == CU_GRAPH_DEPENDENCY_TYPE_DEFAULT, "edge %zu has type %d", i, data[i].type);
    found = found || (from[i] == b.kernel && to[i] == b.child);
  }
  EXPECT(found, "the edge from the kernel to the child graph is missing");
  CUgraphNode next[2] = {};
  size_t count = 2;
  DRV_OK(cuGraphNodeGetDependentNodes(b.set, next, nullptr, &count));
  EXPECT(count == 1 && next[0] == b.kernel, "%zu nodes depend on the memset", count);
  count = 2;
  DRV_OK(cuGraphNodeGetDependencies(b.copy, next, nullptr, &count));
  EXPECT(count == 1 && next[0] == b.record, "the copy depends on %zu nodes", count);
  CUgraphNode roots[2] = {};
  count = 2;
  DRV_OK(cuGraphGetRootNodes(b.graph, roots, &count));
  EXPECT(count == 1 && roots[0] == b.set, "%zu roots", count);

  DRV_OK(cuGraphRemoveDependencies(b.graph, &b.copy, &b.call, nullptr, 1));
  DRV_OK(cuGraphGetEdges(b.graph, nullptr, nullptr, nullptr, &edges));
  EXPECT(edges == 4, "%zu edges after removing one", edges);
  DRV_OK(cuGraphAddDependencies(b.graph, &b.copy, &b.call, nullptr, 1));

  CUgraphNodeType type = CU_GRAPH_NODE_TYPE_EMPTY;
  DRV_OK(cuGraphNodeGetType(b.record, &type));
  EXPECT(type == CU_GRAPH_NODE_TYPE_EVENT_RECORD, "type %d", type);
}

void parameters(Built& b) {
  CUDA_MEMSET_NODE_PARAMS set{};
  DRV_OK(cuGraphMemsetNodeGetParams(b.set, &set));
  EXPECT(set.dst == b.device && set.value == 7 && set.width == kCount, "memset of %u over %zu", set.value,
         set.width);
  CUDA_MEMCPY3D copy{};
  DRV_OK(cuGraphMemcpyNodeGetParams(b.copy, &copy));
  EXPECT(copy.WidthInBytes == kBytes && copy.srcDevice == b.device, "copy of %zu bytes", copy.WidthInBytes);
  CUDA_KERNEL_NODE_PARAMS kernel{};
  DRV_OK(cuGraphKernelNodeGetParams(b.kernel, &kernel));
  EXPECT(kernel.blockDimX == 128 && kernel.kernelParams != nullptr, "blocks of %u", kernel.blockDimX);
  EXPECT(*static_cast<int*>(kernel.kernelParams[1]) == 3, "the argument is %d",
         *static_cast<int*>(kernel.kernelParams[1]));
  EXPECT(kernel.func == b.function, "another function");
  cudaKernelNodeParams of_runtime{};
  CUDA_OK(cudaGraphKernelNodeGetParams(b.kernel, &of_runtime));
  EXPECT(of_runtime.func == reinterpret_cast<void*>(add), "the runtime names another function");
  EXPECT(of_runtime.blockDim.x == 128 && *static_cast<int*>(of_runtime.kernelParams[1]) == 3,
         "the runtime tells blocks of %u", of_runtime.blockDim.x);
  CUDA_HOST_NODE_PARAMS host{};
  DRV_OK(cuGraphHostNodeGetParams(b.call, &host));
  EXPECT(host.fn == count && host.userData == &b.calls, "another host function");
  CUevent event = nullptr;
  DRV_OK(cuGraphEventRecordNodeGetEvent(b.record, &event));
  EXPECT(event == b.event, "another event");
  CUgraph inner = nullptr;
  DRV_OK(cuGraphChildGraphNodeGetGraph(b.child, &inner));
  size_t nodes = 0;
  DRV_OK(cuGraphGetNodes(inner, nullptr, &nodes));
  EXPECT(nodes == 1, "%zu nodes in the child", nodes);
  CUDA_MEMSET_NODE_PARAMS wrong{};
  DRV_IS(cuGraphMemsetNodeGetParams(b.kernel, &wrong), CUDA_ERROR_INVALID_VALUE);

  CUlaunchAttributeValue attribute{};
  DRV_OK(cuGraphKernelNodeGetAttribute(b.kernel, CU_LAUNCH_ATTRIBUTE_PRIORITY, &attribute));
}

void changes(Built& b) {
  // In the executable alone.
  CUDA_MEMSET_NODE_PARAMS set{};
  DRV_OK(cuGraphMemsetNodeGetParams(b.set, &set));
  set.value = 100;
  DRV_OK(cuGraphExecMemsetNodeSetParams(b.exec, b.set, &set, b.context));
  const CUDA_MEMCPY3D copy = to_host(b.other_host, b.device);
  DRV_OK(cuGraphExecMemcpyNodeSetParams(b.exec, b.copy, &copy, b.context));
  CUDA_HOST_NODE_PARAMS host{count, &b.more_calls};
  DRV_OK(cuGraphExecHostNodeSetParams(b.exec, b.call, &host));
  // A child graph of the same shape, and one of another.
  CUgraph inner = nullptr;
  CUgraph other = nullptr;
  DRV_OK(cuGraphChildGraphNodeGetGraph(b.child, &inner));
  DRV_OK(cuGraphClone(&other, inner));
  CUgraphNode inner_node = nullptr;
  size_t count_of_one = 1;
  DRV_OK(cuGraphGetNodes(other, &inner_node, &count_of_one));
  int twenty = 20;
  void* arguments[] = {&b.device, &twenty, &b.n};
  CUDA_KERNEL_NODE_PARAMS kernel = kernel_params(b.function, arguments);
  DRV_OK(cuGraphKernelNodeSetParams(inner_node, &kernel));
  DRV_OK(cuGraphExecChildGraphNodeSetParams(b.exec, b.child, other));
  CUgraphNode more = nullptr;
  DRV_OK(cuGraphAddEmptyNode(&more, other, &inner_node, 1));
  DRV_IS(cuGraphExecChildGraphNodeSetParams(b.exec, b.child, other), CUDA_ERROR_INVALID_VALUE);
  DRV_OK(cuGraphDestroy(other));
  b.launch();
  expect_all(b.other_host, 123, "changed in the executable");
  EXPECT(b.calls == 1 && b.more_calls == 1, "calls %d and %d", b.calls, b.more_calls);

  unsigned enabled = 0;
  DRV_OK(cuGraphNodeGetEnabled(b.exec, b.kernel, &enabled));
  EXPECT(enabled == 1, "the kernel is not enabled");
  DRV_OK(cuGraphNodeSetEnabled(b.exec, b.kernel, 0));
  b.launch();
  expect_all(b.other_host, 120, "without the kernel");
  DRV_OK(cuGraphNodeSetEnabled(b.exec, b.kernel, 1));

  // In the graph, and from there by an update.
  set.value = 1000;
  DRV_OK(cuGraphMemsetNodeSetParams(b.set, &set));
  CUgraphExecUpdateResultInfo info{};
  DRV_OK(cuGraphExecUpdate(b.exec, b.graph, &info));
  EXPECT(info.result == CU_GRAPH_EXEC_UPDATE_SUCCESS, "update result %d", info.result);
  b.launch();
  expect_all(b.host, 1013, "updated");

  cuuint64_t flags = 77;
  DRV_OK(cuGraphExecGetFlags(b.exec, &flags));
  EXPECT(flags == 0, "flags %llu", static_cast<unsigned long long>(flags));

  // Another shape is refused, with the reason.
  CUgraph larger = nullptr;
  DRV_OK(cuGraphClone(&larger, b.graph));
  CUgraphNode twin = nullptr;
  DRV_OK(cuGraphNodeFindInClone(&twin, b.call, larger));
  CUgraphNode extra = nullptr;
  DRV_OK(cuGraphAddEmptyNode(&extra, larger, &twin, 1));
  DRV_IS(cuGraphExecUpdate(b.exec, larger, &info), CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
  EXPECT(info.result == CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, "update result %d", info.result);
  DRV_OK(cuGraphDestroy(larger));

  const std::string path = "/tmp/vgpud-graph-" + std::to_string(check::hash(&b, sizeof b)) + ".dot";
  DRV_OK(cuGraphDebugDotPrint(b.graph, path.c_str(), 0));
  std::FILE* file = std::fopen(path.c_str(), "r");
  EXPECT(file != nullptr, "no file was written");
  char text[64] = {};
  EXPECT(std::fread(text, 1, sizeof text - 1, file) > 0, "the file is empty");
  std::fclose(file);
  std::remove(path.c_str());
  EXPECT(std::strstr(text, "digraph") != nullptr, "it begins with %s", text);
}

struct OwnMemory {
  CUdeviceptr address = 0;
  CUgraphNode allocation = nullptr;
  CUgraphNode filled = nullptr;
};

// Nodes that allocate kBytes and set every element to `value`.
OwnMemory add_own_memory(const Built& b, CUgraph graph, unsigned value) {
  OwnMemory own;
  CUDA_MEM_ALLOC_NODE_PARAMS wanted{};
  wanted.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  wanted.poolProps.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  wanted.bytesize = kBytes;
  DRV_OK(cuGraphAddMemAllocNode(&own.allocation, graph, nullptr, 0, &wanted));
  EXPECT(wanted.dptr != 0, "no address");
  own.address = wanted.dptr;
  CUDA_MEMSET_NODE_PARAMS set{};
  set.dst = own.address;
  set.value = value;
  set.elementSize = 4;
  set.width = kCount;
  set.height = 1;
  DRV_OK(cuGraphAddMemsetNode(&own.filled, graph, &own.allocation, 1, &set, b.context));
  return own;
}

// Memory that a graph allocates and frees.
void memory(Built& b) {
  CUgraph graph = nullptr;
  DRV_OK(cuGraphCreate(&graph, 0));
  const OwnMemory own = add_own_memory(b, graph, 5);
  const CUDA_MEMCPY3D copy = to_host(b.host, own.address);
  CUgraphNode copied = nullptr;
  DRV_OK(cuGraphAddMemcpyNode(&copied, graph, &own.filled, 1, &copy, b.context));
  CUgraphNode freed = nullptr;
  DRV_OK(cuGraphAddMemFreeNode(&freed, graph, &copied, 1, own.address));
  CUdeviceptr named = 0;
  DRV_OK(cuGraphMemFreeNodeGetParams(freed, &named));
  EXPECT(named == own.address, "frees another address");
  CUDA_MEM_ALLOC_NODE_PARAMS answer{};
  DRV_OK(cuGraphMemAllocNodeGetParams(own.allocation, &answer));
  EXPECT(answer.dptr == own.address && answer.bytesize == kBytes, "allocates %zu bytes", answer.bytesize);
  CUgraphExec exec = nullptr;
  DRV_OK(cuGraphInstantiate(&exec, graph, 0));
  for (int i = 0; i < 3; ++i) {
    std::memset(b.host, 0, kBytes);
    DRV_OK(cuGraphLaunch(exec, b.stream));
    DRV_OK(cuStreamSynchronize(b.stream));
    expect_all(b.host, 5, "memory of the graph's own");
  }
  DRV_OK(cuGraphExecDestroy(exec));
  DRV_OK(cuGraphDestroy(graph));
}

// What a graph allocated may be used and freed outside of it; each launch allocates it again at the same
// address.
void memory_freed_outside(Built& b) {
  CUgraph graph = nullptr;
  DRV_OK(cuGraphCreate(&graph, 0));
  const OwnMemory own = add_own_memory(b, graph, 6);
  CUgraphExec exec = nullptr;
  DRV_OK(cuGraphInstantiate(&exec, graph, 0));
  for (int i = 0; i < 4; ++i) {
    std::memset(b.host, 0, kBytes);
    DRV_OK(cuGraphLaunch(exec, b.stream));
    DRV_OK(cuMemcpyDtoHAsync(b.host, own.address, kBytes, b.stream));
    if (i % 2 == 0) DRV_OK(cuMemFreeAsync(own.address, b.stream));
    DRV_OK(cuStreamSynchronize(b.stream));
    if (i % 2 == 1) DRV_OK(cuMemFree(own.address));
    expect_all(b.host, 6, "memory of a graph's that is freed outside");
  }
  DRV_OK(cuGraphExecDestroy(exec));
  DRV_OK(cuGraphDestroy(graph));
}

std::atomic<int> destroyed{0};
void destroy(void* user) {
  destroyed = *static_cast<int*>(user);
}

// An object that lives as long as the last graph or executable that holds it.
void user_object(Built& b) {
  static int number = 42;
  CUuserObject object = nullptr;
  DRV_OK(cuUserObjectCreate(&object, &number, destroy, 1, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC));
  CUgraph graph = nullptr;
  DRV_OK(cuGraphCreate(&graph, 0));
  CUgraphNode node = nullptr;
  DRV_OK(cuGraphAddEmptyNode(&node, graph, nullptr, 0));
  DRV_OK(cuGraphRetainUserObject(graph, object, 1, CU_GRAPH_USER_OBJECT_MOVE));
  CUgraphExec exec = nullptr;
  DRV_OK(cuGraphInstantiate(&exec, graph, 0));
  DRV_OK(cuGraphDestroy(graph));
  DRV_OK(cuGraphLaunch(exec, b.stream));
  DRV_OK(cuStreamSynchronize(b.stream));
  EXPECT(destroyed == 0, "destroyed while an executable holds it");
  DRV_OK(cuGraphExecDestroy(exec));
  DRV_OK(cuStreamSynchronize(b.stream));
  const double end = check::seconds() + 10;
  while (destroyed == 0 && check::seconds() < end) std::this_thread::yield();
  EXPECT(destroyed == 42, "not destroyed with the last executable");
}

// A capture that goes on with a graph, and one whose dependencies are changed on the way.
void captures(Built& b) {
  CUgraph graph = nullptr;
  DRV_OK(cuGraphCreate(&graph, 0));
  CUDA_MEMSET_NODE_PARAMS set{};
  set.dst = b.device;
  set.value = 1;
  set.elementSize = 4;
  set.width = kCount;
  set.height = 1;
  CUgraphNode first = nullptr;
  DRV_OK(cuGraphAddMemsetNode(&first, graph, nullptr, 0, &set, b.context));
  DRV_OK(
      cuStreamBeginCaptureToGraph(b.stream, graph, &first, nullptr, 1, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  void* arguments[] = {&b.device, &b.value, &b.n};
  DRV_OK(cuLaunchKernel(b.function, (kCount + 127) / 128, 1, 1, 128, 1, 1, 0, b.stream, arguments, nullptr));
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  cuuint64_t id = 0;
  CUgraph seen = nullptr;
  const CUgraphNode* dependencies = nullptr;
  const CUgraphEdgeData* data = nullptr;
  size_t count_of = 0;
  DRV_OK(cuStreamGetCaptureInfo(b.stream, &status, &id, &seen, &dependencies, &data, &count_of));
  EXPECT(status == CU_STREAM_CAPTURE_STATUS_ACTIVE && id != 0, "capture status %d", status);
  EXPECT(seen == graph && count_of == 1, "%zu dependencies", count_of);
  const CUgraphNode launched = dependencies[0];
  CUDA_KERNEL_NODE_PARAMS kernel = kernel_params(b.function, arguments);
  CUgraphNode added = nullptr;
  DRV_OK(cuGraphAddKernelNode(&added, graph, &launched, 1, &kernel));
  DRV_OK(cuStreamUpdateCaptureDependencies(b.stream, &added, nullptr, 1, CU_STREAM_SET_CAPTURE_DEPENDENCIES));
  DRV_OK(cuMemcpyDtoHAsync(b.host, b.device, kBytes, b.stream));
  CUgraph ended = nullptr;
  DRV_OK(cuStreamEndCapture(b.stream, &ended));
  EXPECT(ended == graph, "the capture ended with another graph");
  CUgraphExec exec = nullptr;
  DRV_OK(cuGraphInstantiate(&exec, graph, 0));
  DRV_OK(cuGraphLaunch(exec, b.stream));
  DRV_OK(cuStreamSynchronize(b.stream));
  expect_all(b.host, 7, "captured into a graph");
  DRV_OK(cuGraphExecDestroy(exec));
  DRV_OK(cuGraphDestroy(graph));

  // Who has the graph need not ask for it at the end.
  DRV_OK(cuGraphCreate(&graph, 0));
  DRV_OK(
      cuStreamBeginCaptureToGraph(b.stream, graph, nullptr, nullptr, 0, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  DRV_OK(cuMemsetD32Async(b.device, 8, kCount, b.stream));
  DRV_OK(cuMemcpyDtoHAsync(b.host, b.device, kBytes, b.stream));
  DRV_OK(cuStreamEndCapture(b.stream, nullptr));
  DRV_OK(cuGraphInstantiate(&exec, graph, 0));
  DRV_OK(cuGraphLaunch(exec, b.stream));
  DRV_OK(cuStreamSynchronize(b.stream));
  expect_all(b.host, 8, "captured into a graph that was not asked for");
  DRV_OK(cuGraphExecDestroy(exec));
  DRV_OK(cuGraphDestroy(graph));
}

// A wait in a graph for an event that another stream records.
void event_wait(Built& b) {
  CUgraph graph = nullptr;
  DRV_OK(cuGraphCreate(&graph, 0));
  CUgraphNode wait = nullptr;
  DRV_OK(cuGraphAddEventWaitNode(&wait, graph, nullptr, 0, b.event));
  CUevent named = nullptr;
  DRV_OK(cuGraphEventWaitNodeGetEvent(wait, &named));
  EXPECT(named == b.event, "waits for another event");
  const CUDA_MEMCPY3D copy = to_host(b.host, b.device);
  CUgraphNode copied = nullptr;
  DRV_OK(cuGraphAddMemcpyNode(&copied, graph, &wait, 1, &copy, b.context));
  CUgraphExec exec = nullptr;
  DRV_OK(cuGraphInstantiate(&exec, graph, 0));
  CUstream side = nullptr;
  DRV_OK(cuStreamCreate(&side, CU_STREAM_NON_BLOCKING));
  DRV_OK(cuMemsetD32Async(b.device, 0, kCount, b.stream));
  DRV_OK(cuStreamSynchronize(b.stream));
  {
    check::HeldStream held(side);
    DRV_OK(cuMemsetD32Async(b.device, 9, kCount, side));
    DRV_OK(cuEventRecord(b.event, side));
    DRV_OK(cuGraphLaunch(exec, b.stream));
    DRV_IS(cuStreamQuery(b.stream), CUDA_ERROR_NOT_READY);
    held.release();
    DRV_OK(cuStreamSynchronize(b.stream));
  }
  expect_all(b.host, 9, "after the event");
  DRV_OK(cuGraphExecDestroy(exec));
  DRV_OK(cuGraphDestroy(graph));
  DRV_OK(cuStreamDestroy(side));
}

// Where a copy of host memory reads.
const void* memory_of(const CUDA_MEMCPY3D& copy) {
  return copy.srcMemoryType == CU_MEMORYTYPE_UNIFIED ? reinterpret_cast<const void*>(copy.srcDevice)
                                                     : copy.srcHost;
}

// The first copy to the device in a graph.
CUgraphNode find_upload(CUgraph graph) {
  CUgraphNode nodes[8] = {};
  size_t found = 8;
  DRV_OK(cuGraphGetNodes(graph, nodes, &found));
  for (size_t i = 0; i < found; ++i) {
    CUgraphNodeType type = CU_GRAPH_NODE_TYPE_EMPTY;
    DRV_OK(cuGraphNodeGetType(nodes[i], &type));
    if (type != CU_GRAPH_NODE_TYPE_MEMCPY) continue;
    CUDA_MEMCPY3D copy{};
    DRV_OK(cuGraphMemcpyNodeGetParams(nodes[i], &copy));
    if (copy.srcMemoryType != CU_MEMORYTYPE_DEVICE && memory_of(copy) != nullptr) return nodes[i];
  }
  return nullptr;
}

// Copies of ordinary memory: read and written when the graph runs, not when it is made.
void pageable(Built& b) {
  std::vector<int> source(kCount, 1);
  std::vector<int> target(kCount, 0);
  void* arguments[] = {&b.device, &b.value, &b.n};
  DRV_OK(cuStreamBeginCapture(b.stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  DRV_OK(cuMemcpyHtoDAsync(b.device, source.data(), kBytes, b.stream));
  DRV_OK(cuLaunchKernel(b.function, (kCount + 127) / 128, 1, 1, 128, 1, 1, 0, b.stream, arguments, nullptr));
  DRV_OK(cuMemcpyDtoHAsync(target.data(), b.device, kBytes, b.stream));
  CUgraph captured = nullptr;
  DRV_OK(cuStreamEndCapture(b.stream, &captured));
  CUDA_MEMCPY3D copied{};
  DRV_OK(cuGraphMemcpyNodeGetParams(find_upload(captured), &copied));
  EXPECT(memory_of(copied) == source.data(), "the captured copy is of %p, not %p", memory_of(copied),
         static_cast<void*>(source.data()));
  CUgraphExec exec = nullptr;
  DRV_OK(cuGraphInstantiate(&exec, captured, 0));
  for (int i = 0; i < 3; ++i) {
    source.assign(kCount, 10 * i);
    DRV_OK(cuGraphLaunch(exec, b.stream));
    DRV_OK(cuStreamSynchronize(b.stream));
    expect_all(target.data(), 10 * i + 3, "captured copies of ordinary memory");
  }
  DRV_OK(cuGraphExecDestroy(exec));
  DRV_OK(cuGraphDestroy(captured));

  // The same as nodes: a part of each row of ten goes up, all comes down.
  CUgraph graph = nullptr;
  DRV_OK(cuGraphCreate(&graph, 0));
  CUDA_MEMCPY3D up{};
  up.srcMemoryType = CU_MEMORYTYPE_HOST;
  up.srcHost = source.data();
  up.srcPitch = kBytes / 10;
  up.srcXInBytes = 8;
  up.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  up.dstDevice = b.device;
  up.dstPitch = kBytes / 10;
  up.WidthInBytes = 16;
  up.Height = 10;
  up.Depth = 1;
  CUgraphNode uploaded = nullptr;
  DRV_OK(cuGraphAddMemcpyNode(&uploaded, graph, nullptr, 0, &up, b.context));
  CUDA_KERNEL_NODE_PARAMS kernel = kernel_params(b.function, arguments);
  CUgraphNode added = nullptr;
  DRV_OK(cuGraphAddKernelNode(&added, graph, &uploaded, 1, &kernel));
  // The copy is of the program's own memory, and may be given to the node again.
  CUDA_MEMCPY3D seen{};
  DRV_OK(cuGraphMemcpyNodeGetParams(uploaded, &seen));
  EXPECT(memory_of(seen) == source.data(), "the copy is of %p, not %p", memory_of(seen),
         static_cast<void*>(source.data()));
  DRV_OK(cuGraphMemcpyNodeSetParams(uploaded, &seen));
  const CUDA_MEMCPY3D down = to_host(target.data(), b.device);
  CUgraphNode downloaded = nullptr;
  DRV_OK(cuGraphAddMemcpyNode(&downloaded, graph, &added, 1, &down, b.context));
  b.calls = 0;
  struct Last {
    int* calls;
    const int* value;
  } last{&b.calls, target.data()};
  CUDA_HOST_NODE_PARAMS host{[](void* user) {
                               auto* seen = static_cast<Last*>(user);
                               *seen->calls = *seen->value;
                             },
                             &last};
  CUgraphNode called = nullptr;
  DRV_OK(cuGraphAddHostNode(&called, graph, &downloaded, 1, &host));
  size_t nodes = 0;
  DRV_OK(cuGraphGetNodes(graph, nullptr, &nodes));
  EXPECT(nodes == 4, "%zu nodes", nodes);
  size_t edges = 0;
  DRV_OK(cuGraphGetEdges(graph, nullptr, nullptr, nullptr, &edges));
  EXPECT(edges == 3, "%zu edges", edges);
  CUgraphNode next[2] = {};
  size_t found = 2;
  DRV_OK(cuGraphNodeGetDependencies(called, next, nullptr, &found));
  EXPECT(found == 1 && next[0] == downloaded, "the host node depends on %zu nodes", found);
  DRV_OK(cuGraphInstantiate(&exec, graph, 0));
  DRV_OK(cuMemsetD32(b.device, 0, kCount));
  DRV_OK(cuCtxSynchronize());
  for (int i = 0; i < kCount; ++i) source[i] = 1000 + i;
  DRV_OK(cuGraphLaunch(exec, b.stream));
  DRV_OK(cuStreamSynchronize(b.stream));
  for (int i = 0; i < kCount; ++i) {
    const int column = i % 50;
    const int wanted = column < 4 ? 1000 + i + 2 + 3 : 3;
    EXPECT(target[i] == wanted, "element %d is %d, not %d", i, target[i], wanted);
  }
  EXPECT(b.calls == target[0], "the host node saw %d", b.calls);
  DRV_OK(cuGraphExecDestroy(exec));
  DRV_OK(cuGraphDestroy(graph));
}

}  // namespace

int main() {
  CUDA_OK(cudaFree(nullptr));
  Built b;
  build(b);
  shape(b);
  parameters(b);
  changes(b);
  memory(b);
  memory_freed_outside(b);
  user_object(b);
  captures(b);
  event_wait(b);
  pageable(b);
  DRV_OK(cuGraphExecDestroy(b.exec));
  DRV_OK(cuGraphDestroy(b.graph));
  DRV_OK(cuMemFree(b.device));
  DRV_OK(cuMemFreeHost(b.host));
  DRV_OK(cuMemFreeHost(b.other_host));
  DRV_OK(cuEventDestroy(b.event));
  DRV_OK(cuStreamDestroy(b.stream));
  return check::done("graph_nodes");
}
