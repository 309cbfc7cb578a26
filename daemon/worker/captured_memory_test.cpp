// Memory that a capture allocates, as vgpud-worker charges it; on the software GPU, without a broker.
#include <gtest/gtest.h>

#include "daemon/worker/worker_fixture.hpp"
#include "protocol/handle.hpp"

namespace vgpu::worker {
namespace {

// Under a quota of 8 MiB.
struct CapturedMemoryTest : WorkerTest {
  static constexpr std::uint64_t bytes = 6 << 20;

  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(start(8 << 20));
    stream = create_stream();
  }
  // Sends a record and waits for what it begins.
  template <class Record>
  CUresult finish(const Record& record) {
    worker->post(record);
    return synchronize();
  }
  std::uint8_t read_byte() {
    ArenaBlock* const block = worker->read_back(memory, 16, stream);
    EXPECT_EQ(block->result, 0);
    return static_cast<std::uint8_t>(Arena::data(block)[15]);
  }
  std::uint64_t used() const { return worker->gate().memory_used.load(); }
  CUresult begin() {
    record::cuStreamBeginCapture_v2 record;
    record.stream = stream;
    return worker->ask(record);
  }
  CUresult end() {
    record::cuStreamEndCapture record;
    record.stream = stream;
    record.fresh_graph = graph;
    return worker->ask(record, ended);
  }
  CUresult allocate_async(std::uint64_t size) {
    record::cuMemAllocAsync record;
    record.bytes = size;
    record.stream = stream;
    reply::cuMemAllocAsync reply;
    const CUresult result = worker->ask(record, reply);
    if (result == CUDA_SUCCESS) memory = reply.dptr;
    return result;
  }
  CUresult free_async() {
    record::cuMemFreeAsync record;
    record.dptr = memory;
    record.stream = stream;
    return worker->ask(record);
  }
  void set(std::uint8_t value) {
    record::cuMemsetD8Async record;
    record.dstDevice = memory;
    record.uc = value;
    record.N = bytes;
    record.hStream = stream;
    worker->post(record);
  }
  // A graph that allocates, writes, and frees unless `kept`; with its executable.
  void capture(bool kept) {
    ASSERT_EQ(begin(), CUDA_SUCCESS);
    ASSERT_EQ(allocate_async(bytes), CUDA_SUCCESS);
    set(7);
    if (!kept) {
      ASSERT_EQ(free_async(), CUDA_SUCCESS);
    }
    ASSERT_EQ(end(), CUDA_SUCCESS);
    ASSERT_EQ(ended.graph, graph);
    record::cuGraphInstantiateWithFlags instantiate;
    instantiate.graph = graph;
    instantiate.exec = exec;
    reply::cuGraphInstantiateWithFlags answer;
    ASSERT_EQ(worker->ask(instantiate, answer), CUDA_SUCCESS);
    ASSERT_EQ(answer.status, CUDA_SUCCESS);
  }
  CUresult launch() {
    record::cuGraphLaunch record;
    record.hGraphExec = exec;
    record.hStream = stream;
    return finish(record);
  }
  CUresult destroy_graph() {
    record::cuGraphDestroy destroy;
    destroy.graph = graph;
    return finish(destroy);
  }
  CUresult destroy_exec() {
    record::cuGraphExecDestroy destroy;
    destroy.exec = exec;
    return finish(destroy);
  }
  CUresult free_now() {
    record::cuMemFree_v2 record;
    record.dptr = memory;
    return worker->ask(record);
  }
  CUresult allocate_beside(std::uint64_t size) {
    record::cuMemAlloc_v2 record;
    record.bytes = size;
    return worker->ask(record);
  }

  std::uint64_t stream = 0;
  const std::uint64_t graph = Handle::make(HandleKind::graph, 5, 1);
  const std::uint64_t exec = Handle::make(HandleKind::graph_exec, 5, 1);
  std::uint64_t memory = 0;
  reply::cuStreamEndCapture ended;
};

TEST_F(CapturedMemoryTest, IsChargedWhileItsGraphIsThereHoweverOftenThatRuns) {
  capture(false);
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(launch(), CUDA_SUCCESS);
    ASSERT_EQ(used(), bytes) << "launch " << i;
  }
  EXPECT_EQ(allocate_beside(4 << 20), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(destroy_graph(), CUDA_SUCCESS);
  EXPECT_EQ(launch(), CUDA_SUCCESS);
  EXPECT_EQ(used(), bytes) << "the executable keeps it";
  EXPECT_EQ(destroy_exec(), CUDA_SUCCESS);
  EXPECT_EQ(used(), 0u);
  EXPECT_EQ(allocate_beside(4 << 20), CUDA_SUCCESS);
}

TEST_F(CapturedMemoryTest, AFreeBesideTheGraphLeavesItForTheNextLaunch) {
  capture(true);
  for (int i = 0; i < 6; ++i) {
    ASSERT_EQ(launch(), CUDA_SUCCESS);
    EXPECT_EQ(read_byte(), 7);
    ASSERT_EQ(i % 2 == 0 ? free_async() : free_now(), CUDA_SUCCESS) << "launch " << i;
    EXPECT_EQ(used(), bytes);
  }
  EXPECT_EQ(allocate_beside(4 << 20), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(destroy_exec(), CUDA_SUCCESS);
  EXPECT_EQ(used(), bytes);
  EXPECT_EQ(destroy_graph(), CUDA_SUCCESS);
  EXPECT_EQ(used(), 0u);
}

TEST_F(CapturedMemoryTest, InUseItOutlivesItsGraph) {
  capture(true);
  ASSERT_EQ(launch(), CUDA_SUCCESS);
  EXPECT_EQ(destroy_exec(), CUDA_SUCCESS);
  EXPECT_EQ(destroy_graph(), CUDA_SUCCESS);
  EXPECT_EQ(used(), bytes);
  EXPECT_EQ(allocate_beside(4 << 20), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(read_byte(), 7);
  EXPECT_EQ(free_now(), CUDA_SUCCESS);
  EXPECT_EQ(used(), 0u);
  EXPECT_EQ(free_now(), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(CapturedMemoryTest, BeyondTheQuotaItIsRefusedAndACaptureThatFailsCostsNothing) {
  ASSERT_EQ(begin(), CUDA_SUCCESS);
  ASSERT_EQ(allocate_async(bytes), CUDA_SUCCESS);
  EXPECT_EQ(allocate_async(bytes), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(used(), bytes);
  // A wait for the stream spoils its capture.
  record::cuStreamSynchronize wait;
  wait.hStream = stream;
  EXPECT_NE(worker->ask(wait), CUDA_SUCCESS);
  EXPECT_NE(end(), CUDA_SUCCESS);
  EXPECT_EQ(used(), 0u);
  capture(false);
  EXPECT_EQ(used(), bytes);
}

}  // namespace
}  // namespace vgpu::worker
