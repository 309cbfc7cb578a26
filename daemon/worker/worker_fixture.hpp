// For tests of vgpud-worker as its client sees it: a worker on the software GPU.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "daemon/worker/worker_harness.hpp"
#include "protocol/handle.hpp"

namespace vgpu::worker {

/// A worker of one device, started anew for each test, and what most tests ask of it. Its client has no
/// limits but the quota that start() is given. There is never a broker: what a broker would say a test writes
/// in the gate page. VGPU_WORKER_PATH and VGPU_SOFTGPU_PATH are the including target's to define.
struct WorkerTest : testing::Test {
  void start(std::uint64_t quota = 0) {
    auto started = WorkerHarness::start(VGPU_WORKER_PATH, VGPU_SOFTGPU_PATH, quota);
    ASSERT_TRUE(started) << started.error();
    worker = std::move(*started);
  }
  void SetUp() override { start(); }

  std::uint64_t allocate(std::uint64_t bytes) {
    record::cuMemAlloc_v2 record;
    record.bytes = bytes;
    reply::cuMemAlloc_v2 reply;
    EXPECT_EQ(worker->ask(record, reply), CUDA_SUCCESS);
    return reply.dptr;
  }
  /// A stream that runs beside the legacy one, and its handle.
  std::uint64_t create_stream() {
    record::cuStreamCreate create;
    create.stream = Handle::make(HandleKind::stream, 1, 1);
    create.flags = CU_STREAM_NON_BLOCKING;
    worker->post(create);
    return create.stream;
  }
  CUresult synchronize() { return worker->ask(record::cuCtxSynchronize{}); }

  std::unique_ptr<WorkerHarness> worker;
};

/// What follows a record: these, one after the other, without gaps.
template <class... Parts>
std::vector<std::byte> tail_of(const Parts&... parts) {
  std::vector<std::byte> tail;
  const auto add = [&](const auto& part) {
    const auto bytes = std::as_bytes(std::span(&part, 1));
    tail.insert(tail.end(), bytes.begin(), bytes.end());
  };
  (add(parts), ...);
  return tail;
}

}  // namespace vgpu::worker
