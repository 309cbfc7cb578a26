// The rules for memory that graphs allocate, and for events that they record.
#include "softgpu/driver/driver_fixture.hpp"

namespace softgpu {
namespace {

class GraphMemoryTest : public DriverTest {
 protected:
  // A graph that allocates one word, sets it to 7, and keeps it unless `frees`.
  CUgraph capture(bool frees) {
    CUgraph graph = nullptr;
    EXPECT_EQ(cuStreamBeginCapture_v2(s_, CU_STREAM_CAPTURE_MODE_RELAXED), CUDA_SUCCESS);
    EXPECT_EQ(cuMemAllocAsync(&word_, 4, s_), CUDA_SUCCESS);
    EXPECT_EQ(cuMemsetD32Async(word_, 7, 1, s_), CUDA_SUCCESS);
    if (frees) {
      EXPECT_EQ(cuMemFreeAsync(word_, s_), CUDA_SUCCESS);
    }
    EXPECT_EQ(cuStreamEndCapture(s_, &graph), CUDA_SUCCESS);
    return graph;
  }
  static CUgraphExec instantiate(CUgraph graph, unsigned long long flags = 0) {
    CUgraphExec exec = nullptr;
    EXPECT_EQ(cuGraphInstantiateWithFlags(&exec, graph, flags), CUDA_SUCCESS);
    return exec;
  }

  CUstream s_ = nullptr;
  CUdeviceptr word_ = 0;

  void SetUp() override {
    DriverTest::SetUp();
    s_ = stream();
  }
};

TEST_F(GraphMemoryTest, WhatIsLiveOutlivesItsGraph) {
  const CUgraph graph = capture(false);
  const CUgraphExec exec = instantiate(graph);
  ASSERT_EQ(cuGraphLaunch(exec, s_), CUDA_SUCCESS);
  EXPECT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
  EXPECT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamSynchronize(s_), CUDA_SUCCESS);
  EXPECT_EQ(read(word_, 1)[0], 7U);
  EXPECT_EQ(cuMemFree_v2(word_), CUDA_SUCCESS);
  EXPECT_EQ(cuMemFree_v2(word_), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(GraphMemoryTest, WhatIsFreedGoesWithItsGraphOnceItsWorkIsDone) {
  std::uint32_t* const gate = host_words(1);
  const CUdeviceptr copy = words(1);
  const CUgraph graph = capture(false);
  const CUgraphExec exec = instantiate(graph);
  ASSERT_EQ(spin(device(gate), s_), CUDA_SUCCESS);
  ASSERT_EQ(cuGraphLaunch(exec, s_), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyDtoDAsync_v2(copy, word_, 4, s_), CUDA_SUCCESS);
  EXPECT_EQ(cuMemFreeAsync(word_, s_), CUDA_SUCCESS);
  EXPECT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
  EXPECT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
  raise(gate);
  ASSERT_EQ(cuStreamSynchronize(s_), CUDA_SUCCESS);
  EXPECT_EQ(read(copy, 1)[0], 7U);
  EXPECT_EQ(cuMemFree_v2(word_), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(GraphMemoryTest, ARelaunchNeedsAFreeFirst) {
  const CUgraphExec exec = instantiate(capture(false));
  EXPECT_EQ(cuMemFree_v2(word_), CUDA_ERROR_INVALID_VALUE) << "nothing was allocated yet";
  ASSERT_EQ(cuGraphLaunch(exec, s_), CUDA_SUCCESS);
  EXPECT_EQ(cuGraphLaunch(exec, s_), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemFreeAsync(word_, s_), CUDA_SUCCESS);
  EXPECT_EQ(cuMemFreeAsync(word_, s_), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuGraphLaunch(exec, s_), CUDA_SUCCESS);
  EXPECT_EQ(cuMemFree_v2(word_), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamSynchronize(s_), CUDA_SUCCESS);
}

TEST_F(GraphMemoryTest, OtherGraphsMayFree) {
  const CUgraphExec allocates = instantiate(capture(false));
  CUgraph graph = nullptr;
  CUgraphNode node = nullptr;
  ASSERT_EQ(cuGraphCreate(&graph, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuGraphAddMemFreeNode(&node, graph, nullptr, 0, word_), CUDA_SUCCESS);
  const CUgraphExec frees = instantiate(graph);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(cuGraphLaunch(allocates, s_), CUDA_SUCCESS);
    EXPECT_EQ(cuGraphLaunch(frees, s_), CUDA_SUCCESS);
  }
  EXPECT_EQ(cuStreamSynchronize(s_), CUDA_SUCCESS);
}

TEST_F(GraphMemoryTest, ALaunchMayFreeByItself) {
  const CUgraphExec exec = instantiate(capture(false), CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(cuGraphLaunch(exec, s_), CUDA_SUCCESS);
  EXPECT_EQ(cuMemFree_v2(word_), CUDA_SUCCESS);
}

TEST_F(GraphMemoryTest, GraphsWithMemoryNodesStayWholeAndSingle) {
  const CUgraph graph = capture(true);
  CUgraph other = nullptr;
  CUgraphNode node = nullptr;
  CUgraphExec exec = instantiate(graph);
  CUgraphExec second = nullptr;
  EXPECT_EQ(cuGraphInstantiateWithFlags(&second, graph, 0), CUDA_ERROR_NOT_SUPPORTED);
  EXPECT_EQ(cuGraphClone(&other, graph), CUDA_ERROR_NOT_SUPPORTED);
  ASSERT_EQ(cuGraphCreate(&other, 0), CUDA_SUCCESS);
  EXPECT_EQ(cuGraphAddChildGraphNode(&node, other, nullptr, 0, graph), CUDA_ERROR_NOT_SUPPORTED);
  CUgraphNode nodes[3] = {};
  std::size_t count = 3;
  ASSERT_EQ(cuGraphGetNodes(graph, nodes, &count), CUDA_SUCCESS);
  ASSERT_EQ(count, 3U);
  EXPECT_EQ(cuGraphRemoveDependencies(graph, &nodes[0], &nodes[1], 1), CUDA_ERROR_NOT_SUPPORTED);
  EXPECT_EQ(cuGraphDestroyNode(nodes[2]), CUDA_ERROR_NOT_SUPPORTED);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(cuGraphLaunch(exec, s_), CUDA_SUCCESS);
  ASSERT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
  exec = instantiate(graph);
  EXPECT_EQ(cuGraphLaunch(exec, s_), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamSynchronize(s_), CUDA_SUCCESS);
}

TEST_F(GraphMemoryTest, AnEventRecordedByALaunchIsInNoCaptureAnyMore) {
  const CUevent e = event();
  CUgraph graph = nullptr;
  ASSERT_EQ(cuStreamBeginCapture_v2(s_, CU_STREAM_CAPTURE_MODE_RELAXED), CUDA_SUCCESS);
  ASSERT_EQ(cuEventRecordWithFlags(e, s_, CU_EVENT_RECORD_EXTERNAL), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamEndCapture(s_, &graph), CUDA_SUCCESS);
  const CUgraphExec exec = instantiate(graph);
  ASSERT_EQ(cuStreamBeginCapture_v2(s_, CU_STREAM_CAPTURE_MODE_RELAXED), CUDA_SUCCESS);
  ASSERT_EQ(cuEventRecord(e, s_), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamEndCapture(s_, &graph), CUDA_SUCCESS);
  EXPECT_EQ(cuEventQuery(e), CUDA_ERROR_CAPTURED_EVENT);
  ASSERT_EQ(cuGraphLaunch(exec, s_), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamSynchronize(s_), CUDA_SUCCESS);
  EXPECT_EQ(cuEventQuery(e), CUDA_SUCCESS);
}

}  // namespace
}  // namespace softgpu
