// Graphs: capture, replay, explicit nodes, updates, and what spoils a capture.
#include "softgpu/driver/driver_fixture.hpp"

namespace softgpu {
namespace {

class GraphTest : public DriverTest {
 protected:
  static CUgraphExec instantiate(CUgraph graph) {
    CUgraphExec exec = nullptr;
    EXPECT_EQ(cuGraphInstantiateWithFlags(&exec, graph, 0), CUDA_SUCCESS);
    return exec;
  }
  CUgraph capture(CUstream s, CUdeviceptr list, std::uint32_t count) const {
    EXPECT_EQ(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
    for (std::uint32_t i = 0; i < count; ++i) EXPECT_EQ(append(list, i, s), CUDA_SUCCESS);
    CUgraph graph = nullptr;
    EXPECT_EQ(cuStreamEndCapture(s, &graph), CUDA_SUCCESS);
    return graph;
  }
  CUgraphNode add_kernel(CUgraph graph, std::vector<CUgraphNode> before, CUdeviceptr list,
                         std::uint32_t value) const {
    void* params[] = {&list, &value};
    CUDA_KERNEL_NODE_PARAMS node{};
    node.func = function("append");
    node.gridDimX = node.gridDimY = node.gridDimZ = 1;
    node.blockDimX = node.blockDimY = node.blockDimZ = 1;
    node.kernelParams = params;
    CUgraphNode made = nullptr;
    EXPECT_EQ(cuGraphAddKernelNode_v2(&made, graph, before.data(), before.size(), &node), CUDA_SUCCESS);
    return made;
  }
};

TEST_F(GraphTest, ACapturedStreamReplaysAHundredTimes) {
  const CUstream s = stream();
  const CUdeviceptr counter = words(1);
  ASSERT_EQ(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(add(counter, 1, 1, s), CUDA_SUCCESS);
  CUstreamCaptureStatus status{};
  EXPECT_EQ(cuStreamIsCapturing(s, &status), CUDA_SUCCESS);
  EXPECT_EQ(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
  CUgraph graph = nullptr;
  ASSERT_EQ(cuStreamEndCapture(s, &graph), CUDA_SUCCESS);
  EXPECT_EQ(read(counter, 1)[0], 0U) << "captured, not run";
  std::size_t count = 0;
  EXPECT_EQ(cuGraphGetNodes(graph, nullptr, &count), CUDA_SUCCESS);
  EXPECT_EQ(count, 3U);
  const CUgraphExec exec = instantiate(graph);
  EXPECT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS) << "the executable lives on";
  for (int i = 0; i < 100; ++i) ASSERT_EQ(cuGraphLaunch(exec, s), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamSynchronize(s), CUDA_SUCCESS);
  EXPECT_EQ(read(counter, 1)[0], 300U);
  EXPECT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
  EXPECT_EQ(cuGraphLaunch(exec, s), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(GraphTest, EventsForkAndJoinACapture) {
  const CUstream s = stream();
  const CUstream side = stream();
  const CUevent fork = event();
  const CUevent join = event();
  const CUdeviceptr a = words(1);
  const CUdeviceptr b = words(1);
  ASSERT_EQ(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), CUDA_SUCCESS);
  ASSERT_EQ(add(a, 1, 1, s), CUDA_SUCCESS);
  ASSERT_EQ(cuEventRecord(fork, s), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamWaitEvent(side, fork, 0), CUDA_SUCCESS);
  ASSERT_EQ(add(b, 1, 10, side), CUDA_SUCCESS);
  ASSERT_EQ(cuEventRecord(join, side), CUDA_SUCCESS);
  ASSERT_EQ(add(a, 1, 1, s), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamWaitEvent(s, join, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyDtoDAsync_v2(a, b, 4, s), CUDA_SUCCESS);
  CUgraph graph = nullptr;
  ASSERT_EQ(cuStreamEndCapture(s, &graph), CUDA_SUCCESS);
  std::size_t edges = 0;
  EXPECT_EQ(cuGraphGetEdges(graph, nullptr, nullptr, &edges), CUDA_SUCCESS);
  EXPECT_EQ(edges, 4U);
  const CUgraphExec exec = instantiate(graph);
  for (int i = 0; i < 20; ++i) ASSERT_EQ(cuGraphLaunch(exec, s), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamSynchronize(s), CUDA_SUCCESS);
  EXPECT_EQ(read(b, 1)[0], 200U);
  EXPECT_EQ(read(a, 1)[0], 200U);
  EXPECT_EQ(append(words(2), 1, side), CUDA_SUCCESS) << "no longer captured";
}

TEST_F(GraphTest, AForkedStreamMustBeJoined) {
  const CUstream s = stream();
  const CUstream side = stream();
  const CUevent fork = event();
  ASSERT_EQ(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
  ASSERT_EQ(cuEventRecord(fork, s), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamWaitEvent(side, fork, 0), CUDA_SUCCESS);
  ASSERT_EQ(launch("print", side), CUDA_SUCCESS);
  CUgraph graph = nullptr;
  EXPECT_EQ(cuStreamEndCapture(s, &graph), CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
  EXPECT_EQ(graph, nullptr);
}

TEST_F(GraphTest, IllegalCallsInvalidateACapture) {
  const CUstream s = stream();
  CUgraph graph = nullptr;
  ASSERT_EQ(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamSynchronize(s), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  EXPECT_EQ(launch("print", s), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  EXPECT_EQ(cuStreamEndCapture(s, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  ASSERT_EQ(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
  CUdeviceptr address = 0;
  EXPECT_EQ(cuMemAlloc_v2(&address, 16), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  EXPECT_EQ(cuStreamEndCapture(s, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  ASSERT_EQ(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_RELAXED), CUDA_SUCCESS);
  EXPECT_EQ(cuMemAlloc_v2(&address, 16), CUDA_SUCCESS) << "a relaxed capture allows it";
  EXPECT_EQ(cuStreamEndCapture(s, &graph), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamEndCapture(s, &graph), CUDA_ERROR_ILLEGAL_STATE);
}

TEST_F(GraphTest, TheLegacyStreamIsClosedWhileABlockingStreamIsCaptured) {
  const CUstream s = stream(CU_STREAM_DEFAULT);
  EXPECT_EQ(cuStreamBeginCapture_v2(nullptr, CU_STREAM_CAPTURE_MODE_GLOBAL),
            CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  ASSERT_EQ(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
  EXPECT_EQ(launch("print", nullptr), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
  CUgraph graph = nullptr;
  EXPECT_EQ(cuStreamEndCapture(s, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}

TEST_F(GraphTest, ExplicitNodesRunInTheOrderOfTheirEdges) {
  CUgraph graph = nullptr;
  ASSERT_EQ(cuGraphCreate(&graph, 0), CUDA_SUCCESS);
  const CUdeviceptr list = words(8);
  CUDA_MEMSET_NODE_PARAMS clear{};
  clear.dst = list;
  clear.elementSize = 4;
  clear.width = 8;
  clear.height = 1;
  CUgraphNode first = nullptr;
  ASSERT_EQ(cuGraphAddMemsetNode(&first, graph, nullptr, 0, &clear, context_), CUDA_SUCCESS);
  const CUgraphNode two = add_kernel(graph, {}, list, 2);
  const CUgraphNode one = add_kernel(graph, {first}, list, 1);
  ASSERT_EQ(cuGraphAddDependencies(graph, &one, &two, 1), CUDA_SUCCESS);
  int host_calls = 0;
  CUDA_HOST_NODE_PARAMS host{[](void* count) { ++*static_cast<int*>(count); }, &host_calls};
  CUgraphNode host_node = nullptr;
  ASSERT_EQ(cuGraphAddHostNode(&host_node, graph, &two, 1, &host), CUDA_SUCCESS);
  CUgraph child = nullptr;
  ASSERT_EQ(cuGraphCreate(&child, 0), CUDA_SUCCESS);
  add_kernel(child, {}, list, 3);
  CUgraphNode child_node = nullptr;
  ASSERT_EQ(cuGraphAddChildGraphNode(&child_node, graph, &host_node, 1, child), CUDA_SUCCESS);
  add_kernel(graph, {child_node}, list, 4);
  const CUgraphExec exec = instantiate(graph);
  const CUstream s = stream();
  for (int i = 0; i < 5; ++i) ASSERT_EQ(cuGraphLaunch(exec, s), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamSynchronize(s), CUDA_SUCCESS);
  EXPECT_EQ(read(list, 5), (std::vector<std::uint32_t>{4, 1, 2, 3, 4}));
  EXPECT_EQ(host_calls, 5);
  CUgraphNodeType type{};
  EXPECT_EQ(cuGraphNodeGetType(child_node, &type), CUDA_SUCCESS);
  EXPECT_EQ(type, CU_GRAPH_NODE_TYPE_GRAPH);
  const CUgraphNode back[] = {two};
  const CUgraphNode to[] = {first};
  ASSERT_EQ(cuGraphAddDependencies(graph, back, to, 1), CUDA_SUCCESS);
  CUgraphExec cyclic = nullptr;
  EXPECT_EQ(cuGraphInstantiateWithFlags(&cyclic, graph, 0), CUDA_ERROR_INVALID_VALUE) << "a cycle";
}

TEST_F(GraphTest, ParametersOfAnExecutableCanBeChanged) {
  CUgraph graph = nullptr;
  ASSERT_EQ(cuGraphCreate(&graph, 0), CUDA_SUCCESS);
  const CUdeviceptr list = words(4);
  const CUgraphNode node = add_kernel(graph, {}, list, 1);
  const CUgraphExec exec = instantiate(graph);
  CUDA_KERNEL_NODE_PARAMS params{};
  ASSERT_EQ(cuGraphKernelNodeGetParams_v2(node, &params), CUDA_SUCCESS);
  EXPECT_EQ(*static_cast<std::uint32_t*>(params.kernelParams[1]), 1U);
  CUdeviceptr address = list;
  std::uint32_t value = 7;
  void* changed[] = {&address, &value};
  params.kernelParams = changed;
  ASSERT_EQ(cuGraphExecKernelNodeSetParams_v2(exec, node, &params), CUDA_SUCCESS);
  ASSERT_EQ(cuGraphLaunch(exec, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(read(list, 2), (std::vector<std::uint32_t>{1, 7}));
  ASSERT_EQ(cuGraphNodeSetEnabled(exec, node, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuGraphLaunch(exec, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(read(list, 1)[0], 1U) << "disabled";
}

TEST_F(GraphTest, UpdateTakesOverAGraphOfTheSameShapeOnly) {
  const CUstream s = stream();
  const CUdeviceptr first = words(8);
  const CUdeviceptr second = words(8);
  const CUgraphExec exec = instantiate(capture(s, first, 2));
  CUgraphExecUpdateResultInfo info{};
  EXPECT_EQ(cuGraphExecUpdate_v2(exec, capture(s, second, 2), &info), CUDA_SUCCESS);
  ASSERT_EQ(cuGraphLaunch(exec, s), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamSynchronize(s), CUDA_SUCCESS);
  EXPECT_EQ(read(first, 1)[0], 0U);
  EXPECT_EQ(read(second, 3), (std::vector<std::uint32_t>{2, 0, 1}));
  EXPECT_EQ(cuGraphExecUpdate_v2(exec, capture(s, second, 3), &info), CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
  EXPECT_EQ(info.result, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
}

TEST_F(GraphTest, ClonesAreIndependent) {
  CUgraph graph = nullptr;
  ASSERT_EQ(cuGraphCreate(&graph, 0), CUDA_SUCCESS);
  const CUdeviceptr list = words(4);
  const CUgraphNode node = add_kernel(graph, {}, list, 1);
  CUgraph clone = nullptr;
  ASSERT_EQ(cuGraphClone(&clone, graph), CUDA_SUCCESS);
  CUgraphNode twin = nullptr;
  EXPECT_EQ(cuGraphNodeFindInClone(&twin, node, clone), CUDA_SUCCESS);
  EXPECT_NE(twin, node);
  EXPECT_EQ(cuGraphDestroyNode(node), CUDA_SUCCESS);
  std::size_t count = 0;
  EXPECT_EQ(cuGraphGetNodes(clone, nullptr, &count), CUDA_SUCCESS);
  EXPECT_EQ(count, 1U);
  EXPECT_EQ(cuGraphGetNodes(graph, nullptr, &count), CUDA_SUCCESS);
  EXPECT_EQ(count, 0U);
}

TEST_F(GraphTest, MemoryAllocatedInACaptureLivesWithTheGraph) {
  const CUstream s = stream();
  const CUdeviceptr out = words(2);
  ASSERT_EQ(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
  CUdeviceptr scratch = 0;
  ASSERT_EQ(cuMemAllocAsync(&scratch, 64, s), CUDA_SUCCESS);
  ASSERT_EQ(cuMemsetD32Async(scratch, 0, 16, s), CUDA_SUCCESS);
  ASSERT_EQ(append(scratch, 5, s), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyDtoDAsync_v2(out, scratch, 8, s), CUDA_SUCCESS);
  ASSERT_EQ(cuMemFreeAsync(scratch, s), CUDA_SUCCESS);
  CUgraph graph = nullptr;
  ASSERT_EQ(cuStreamEndCapture(s, &graph), CUDA_SUCCESS);
  const CUgraphExec exec = instantiate(graph);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(cuGraphLaunch(exec, s), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamSynchronize(s), CUDA_SUCCESS);
  EXPECT_EQ(read(out, 2), (std::vector<std::uint32_t>{1, 5}));
  std::size_t before = 0;
  std::size_t after = 0;
  std::size_t total = 0;
  ASSERT_EQ(cuMemGetInfo_v2(&before, &total), CUDA_SUCCESS);
  ASSERT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
  ASSERT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
  ASSERT_EQ(cuMemGetInfo_v2(&after, &total), CUDA_SUCCESS);
  EXPECT_GT(after, before) << "freed with the graph";
}

TEST_F(GraphTest, UserObjectsEndWithTheLastGraph) {
  int destroyed = 0;
  CUuserObject object = nullptr;
  ASSERT_EQ(cuUserObjectCreate(
                &object, &destroyed, [](void* count) { ++*static_cast<int*>(count); }, 1,
                CU_USER_OBJECT_NO_DESTRUCTOR_SYNC),
            CUDA_SUCCESS);
  CUgraph graph = nullptr;
  ASSERT_EQ(cuGraphCreate(&graph, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuGraphRetainUserObject(graph, object, 1, CU_GRAPH_USER_OBJECT_MOVE), CUDA_SUCCESS);
  const CUgraphExec exec = instantiate(graph);
  ASSERT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
  EXPECT_EQ(destroyed, 0);
  ASSERT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
  EXPECT_EQ(destroyed, 1);
}

}  // namespace
}  // namespace softgpu
