// Graphs of vgpud-worker as a client sees it: which nodes are refused, and for how long their memory is
// charged.
#include <gtest/gtest.h>

#include <cstring>

#include "daemon/worker/worker_fixture.hpp"
#include "protocol/graph_node.hpp"
#include "protocol/handle.hpp"

namespace vgpu::worker {
namespace {

struct GraphTest : WorkerTest {
  void SetUp() override {
    WorkerTest::SetUp();
    record::cuGraphCreate create;
    create.graph = graph;
    worker->post(create);
  }
  template <class... Parts>
  CUresult add(CUgraphNodeType type, const Parts&... parts) {
    record::cuGraphAddNode_v2 record;
    record.graph = graph;
    record.node = Handle::make(HandleKind::graph_node, ++nodes, 1);
    record.type = static_cast<std::uint32_t>(type);
    return worker->ask(record, last, tail_of(parts...));
  }
  const std::uint64_t graph = Handle::make(HandleKind::graph, 1, 1);
  std::uint32_t nodes = 0;
  reply::cuGraphAddNode_v2 last;
};

TEST_F(GraphTest, NodesDoNotReachTheWorkersMemory) {
  CUDA_MEMSET_NODE_PARAMS set{};
  set.dst = reinterpret_cast<std::uint64_t>(&set);
  set.elementSize = 1;
  set.width = 8;
  set.height = 1;
  EXPECT_EQ(add(CU_GRAPH_NODE_TYPE_MEMSET, set), CUDA_ERROR_INVALID_VALUE);
  set.dst = allocate(4096);
  EXPECT_EQ(add(CU_GRAPH_NODE_TYPE_MEMSET, set), CUDA_SUCCESS);
  set.height = SIZE_MAX;
  set.pitch = SIZE_MAX;
  EXPECT_EQ(add(CU_GRAPH_NODE_TYPE_MEMSET, set), CUDA_ERROR_INVALID_VALUE) << "the size must not wrap around";
  CUDA_MEMCPY3D copy{};
  copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.srcDevice = set.dst;
  copy.dstMemoryType = CU_MEMORYTYPE_HOST;
  copy.dstHost = reinterpret_cast<void*>(set.dst);
  copy.WidthInBytes = 8;
  copy.Height = copy.Depth = 1;
  EXPECT_EQ(add(CU_GRAPH_NODE_TYPE_MEMCPY, copy), CUDA_ERROR_INVALID_VALUE)
      << "device memory is no host memory";
  std::memset(&copy.dstMemoryType, 77, sizeof copy.dstMemoryType);
  EXPECT_EQ(add(CU_GRAPH_NODE_TYPE_MEMCPY, copy), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(GraphTest, TruncatedAndInventedParametersAreRefused) {
  for (int type = -1; type < 20; ++type) {
    const CUresult result = add(static_cast<CUgraphNodeType>(type), std::uint8_t{1});
    EXPECT_EQ(result == CUDA_SUCCESS, type == CU_GRAPH_NODE_TYPE_EMPTY) << "type " << type;
  }
  KernelNode kernel;
  kernel.function = Handle::make(HandleKind::function, 3, 1);
  EXPECT_EQ(add(CU_GRAPH_NODE_TYPE_KERNEL, kernel), CUDA_ERROR_INVALID_HANDLE);
  kernel.param_bytes = 1 << 20;
  EXPECT_EQ(add(CU_GRAPH_NODE_TYPE_KERNEL, kernel), CUDA_ERROR_INVALID_VALUE);
  BatchNode batch;
  batch.count = 200;
  EXPECT_EQ(add(CU_GRAPH_NODE_TYPE_BATCH_MEM_OP, batch), CUDA_ERROR_INVALID_VALUE);
  ConditionalNode conditional;
  conditional.handle = 0x1234;
  conditional.size = 1;
  EXPECT_EQ(add(CU_GRAPH_NODE_TYPE_CONDITIONAL, conditional, Handle::make(HandleKind::graph, 9, 1)),
            CUDA_ERROR_INVALID_VALUE)
      << "a number that no cuGraphConditionalHandleCreate answered";
  AllocationNode allocation;
  allocation.bytes = 4096;
  allocation.access_count = 9;
  EXPECT_EQ(add(CU_GRAPH_NODE_TYPE_MEM_ALLOC, allocation), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(GraphTest, MemoryOfAGraphIsChargedWhileItIsKept) {
  AllocationNode allocation;
  allocation.props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  allocation.props.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  allocation.bytes = 1 << 20;
  ASSERT_EQ(add(CU_GRAPH_NODE_TYPE_MEM_ALLOC, allocation), CUDA_SUCCESS);
  ASSERT_NE(last.dptr, 0u);
  EXPECT_EQ(worker->gate().memory_used.load(), allocation.bytes);
  CUDA_MEMSET_NODE_PARAMS set{};
  set.dst = last.dptr;
  set.elementSize = 1;
  set.width = allocation.bytes;
  set.height = 1;
  EXPECT_EQ(add(CU_GRAPH_NODE_TYPE_MEMSET, set), CUDA_SUCCESS);
  record::cuGraphInstantiateWithFlags instantiate;
  instantiate.graph = graph;
  instantiate.exec = Handle::make(HandleKind::graph_exec, 1, 1);
  reply::cuGraphInstantiateWithFlags answer;
  ASSERT_EQ(worker->ask(instantiate, answer), CUDA_SUCCESS);
  EXPECT_EQ(answer.status, CUDA_SUCCESS);
  record::cuGraphDestroy destroy;
  destroy.graph = graph;
  worker->post(destroy);
  EXPECT_EQ(synchronize(), CUDA_SUCCESS);
  EXPECT_EQ(worker->gate().memory_used.load(), allocation.bytes) << "the executable keeps it";
  record::cuGraphExecDestroy end;
  end.exec = instantiate.exec;
  worker->post(end);
  EXPECT_EQ(synchronize(), CUDA_SUCCESS);
  EXPECT_EQ(worker->gate().memory_used.load(), 0u);
}

}  // namespace
}  // namespace vgpu::worker
