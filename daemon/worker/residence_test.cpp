// vgpud-worker with memory that can be moved out, on the software GPU; the test is client and broker.
#include <gtest/gtest.h>

#include <atomic>
#include <climits>
#include <thread>
#include <vector>

#include "daemon/worker/worker_harness.hpp"
#include "protocol/handle.hpp"
#include "protocol/upcall.hpp"

namespace vgpu::worker {
namespace {

constexpr std::uint64_t MiB = std::uint64_t{1} << 20;

struct ResidenceTest : testing::Test {
  void SetUp() override {
    auto started = WorkerHarness::start(VGPU_WORKER_PATH, VGPU_SOFTGPU_PATH, 0, true);
    ASSERT_TRUE(started) << started.error();
    worker = std::move(*started);
    page().memory_fixed_most.store(64 * MiB);
    broker = std::thread([this] {
      while (!stop) {
        answer();
        std::this_thread::sleep_for(std::chrono::microseconds(200));
      }
    });
  }
  void TearDown() override {
    stop = true;
    if (broker.joinable()) broker.join();
  }

  GatePage& page() { return worker->gate(); }

  // Grants up to `limit` bytes, as a broker with one client would.
  void answer() {
    const std::uint64_t request = page().memory_request.load();
    const std::uint64_t wanted = page().memory_wanted.load();
    if (!answers || wanted == 0 || request == page().memory_answered.load() ||
        request == page().memory_refused.load()) {
      return;
    }
    if (wanted <= limit) {
      page().memory_granted.store(wanted);
      page().memory_answered.store(request);
    } else {
      page().memory_refused.store(request);
    }
    say();
  }
  void say() {
    page().memory_turn.fetch_add(1);
    futex_wake(page().memory_turn, INT_MAX);
  }
  // True when the order was obeyed, false when the worker excused itself.
  bool order() {
    const std::uint64_t order = page().memory_order.fetch_add(1) + 1;
    say();
    const std::uint64_t until = now_ns() + 20'000'000'000;
    while (now_ns() < until) {
      if (page().memory_obeyed.load() == order) return true;
      if (page().memory_excused.load() == order) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ADD_FAILURE() << "no answer to an order";
    return false;
  }

  CUresult allocate(std::uint64_t bytes, std::uint64_t& pointer) {
    record::cuMemAlloc_v2 record;
    record.bytes = bytes;
    reply::cuMemAlloc_v2 reply;
    const CUresult result = worker->ask(record, reply);
    pointer = reply.dptr;
    return result;
  }
  void fill(std::uint64_t at, std::uint64_t bytes, std::uint8_t value) {
    record::cuMemsetD8Async set;
    set.dstDevice = at;
    set.uc = value;
    set.N = bytes;
    worker->post(set);
  }
  CUresult synchronize() { return worker->ask(record::cuCtxSynchronize{}); }
  void free(std::uint64_t pointer) {
    record::cuMemFree_v2 record;
    record.dptr = pointer;
    worker->post(record);
    EXPECT_EQ(synchronize(), CUDA_SUCCESS);
  }
  bool holds(std::uint64_t at, std::uint64_t bytes, std::uint8_t value) {
    ArenaBlock* const block = worker->read_back(at, bytes);
    bool same = block->result == 0;
    for (std::uint64_t i = 0; same && i < bytes; ++i) {
      same = static_cast<std::uint8_t>(Arena::data(block)[i]) == value;
    }
    worker->arena().free(block);
    return same;
  }

  std::atomic<std::uint64_t> limit{64 * MiB};
  std::atomic<bool> answers{true};
  std::atomic<bool> stop{false};
  std::thread broker;
  std::unique_ptr<WorkerHarness> worker;
};

TEST_F(ResidenceTest, MemoryComesBackAtItsAddressWithWhatWasInIt) {
  std::vector<std::uint64_t> pointers;
  const std::vector<std::uint64_t> sizes{100, 3 * MiB, 700, 5 * MiB + 4, 512 << 10};
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    pointers.push_back(0);
    ASSERT_EQ(allocate(sizes[i], pointers[i]), CUDA_SUCCESS);
    fill(pointers[i], sizes[i], static_cast<std::uint8_t>(i + 1));
  }
  EXPECT_EQ(pointers[2] - pointers[0], 512U) << "small ones lie beside each other";
  // Whole units of the driver: 2 for the small ones, 4 and 6.
  EXPECT_EQ(synchronize(), CUDA_SUCCESS);
  EXPECT_EQ(page().memory_claim.load(), 12 * MiB);
  ASSERT_TRUE(order());
  EXPECT_EQ(page().memory_claim.load(), 0U);
  EXPECT_EQ(page().memory_out.load(), 1U);
  EXPECT_EQ(page().memory_moved.load(), 12 * MiB);
  EXPECT_EQ(page().moves_out.load(), 1U);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    EXPECT_TRUE(holds(pointers[i], sizes[i], static_cast<std::uint8_t>(i + 1))) << i;
  }
  EXPECT_EQ(page().memory_out.load(), 0U);
  EXPECT_EQ(page().memory_claim.load(), 12 * MiB);
  EXPECT_EQ(page().bytes_moved_in.load(), 12 * MiB);
  // Again, into memory that is pinned already.
  fill(pointers[1], sizes[1], 99);
  EXPECT_EQ(synchronize(), CUDA_SUCCESS);
  ASSERT_TRUE(order());
  EXPECT_TRUE(holds(pointers[1], sizes[1], 99));
  EXPECT_TRUE(holds(pointers[3], sizes[3], 4));
}

TEST_F(ResidenceTest, WhatNeedsNoMemoryLeavesItWhereItIs) {
  std::uint64_t first = 0;
  std::uint64_t second = 0;
  ASSERT_EQ(allocate(4 * MiB, first), CUDA_SUCCESS);
  ASSERT_EQ(allocate(2 * MiB, second), CUDA_SUCCESS);
  fill(second, 2 * MiB, 7);
  EXPECT_EQ(synchronize(), CUDA_SUCCESS);
  ASSERT_TRUE(order());
  EXPECT_EQ(synchronize(), CUDA_SUCCESS);
  free(first);
  EXPECT_EQ(page().memory_out.load(), 1U);
  EXPECT_EQ(page().memory_moved.load(), 2 * MiB);
  EXPECT_EQ(page().memory_used.load(), 2 * MiB);
  EXPECT_TRUE(holds(second, 2 * MiB, 7));
  free(second);
  EXPECT_EQ(page().memory_claim.load(), 0U);
  EXPECT_EQ(page().memory_used.load(), 0U);
}

TEST_F(ResidenceTest, NothingIsMovedInTheMiddleOfItsWork) {
  std::uint64_t pointer = 0;
  ASSERT_EQ(allocate(2 * MiB, pointer), CUDA_SUCCESS);
  record::cuLaunchHostFunc call;
  call.function = 1;
  call.user = 2;
  worker->post(call);
  fill(pointer, 2 * MiB, 5);
  UpcallReader reader(worker->channel());
  Upcall upcall;
  ASSERT_TRUE(reader.next(upcall, 5'000'000'000));
  EXPECT_FALSE(order()) << "the host function runs";
  EXPECT_EQ(page().memory_out.load(), 0U);
  // Meanwhile calls go on: the host function may wait for one of them.
  std::uint64_t another = 0;
  EXPECT_EQ(allocate(100, another), CUDA_SUCCESS);
  reader.finish();
  EXPECT_EQ(synchronize(), CUDA_SUCCESS);
  EXPECT_TRUE(order());
  EXPECT_TRUE(holds(pointer, 2 * MiB, 5));
}

TEST_F(ResidenceTest, RefusedMemoryIsOutOfMemoryAndWhatIsLeftIsSaid) {
  limit = 8 * MiB;
  page().memory_most.store(8 * MiB);
  std::uint64_t first = 0;
  std::uint64_t second = 0;
  ASSERT_EQ(allocate(5 * MiB, first), CUDA_SUCCESS);
  EXPECT_EQ(allocate(3 * MiB, second), CUDA_ERROR_OUT_OF_MEMORY);
  reply::cuMemGetInfo_v2 info;
  EXPECT_EQ(worker->ask(record::cuMemGetInfo_v2{}, info), CUDA_SUCCESS);
  EXPECT_EQ(info.free, 2 * MiB);
  EXPECT_EQ(allocate(2 * MiB, second), CUDA_SUCCESS);
  EXPECT_EQ(page().memory_used.load(), 7 * MiB);
  // Memory of other kinds counts, and is said to stay.
  free(second);
  record::cuMemAllocAsync pool;
  pool.bytes = 3 * MiB;
  EXPECT_EQ(worker->ask(pool), CUDA_ERROR_OUT_OF_MEMORY);
  pool.bytes = MiB;
  EXPECT_EQ(worker->ask(pool), CUDA_SUCCESS);
  EXPECT_EQ(page().memory_fixed.load(), MiB);
  ASSERT_TRUE(order());
  EXPECT_EQ(page().memory_claim.load(), MiB);
  EXPECT_EQ(page().memory_granted.load(), MiB);
}

TEST_F(ResidenceTest, WhoWaitsForRoomMovesOutWhenToldAndGetsBoth) {
  std::uint64_t first = 0;
  ASSERT_EQ(allocate(4 * MiB, first), CUDA_SUCCESS);
  fill(first, 4 * MiB, 3);
  EXPECT_EQ(synchronize(), CUDA_SUCCESS);
  answers = false;
  std::thread client([this] {
    record::cuMemAlloc_v2 record;
    record.bytes = 6 * MiB;
    reply::cuMemAlloc_v2 reply;
    EXPECT_EQ(worker->ask(record, reply, {}, 1), CUDA_SUCCESS);
  });
  const std::uint64_t until = now_ns() + 10'000'000'000;
  while (page().memory_wanted.load() != 10 * MiB && now_ns() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(order());
  EXPECT_EQ(page().memory_wanted.load(), 10 * MiB) << "it still waits";
  answers = true;
  client.join();
  EXPECT_EQ(page().memory_claim.load(), 10 * MiB);
  EXPECT_EQ(page().moves_in.load(), 1U);
  EXPECT_GT(page().memory_wait_ns.load(), 0U);
  EXPECT_TRUE(holds(first, 4 * MiB, 3));
}

TEST_F(ResidenceTest, SharedMemoryStays) {
  std::uint64_t pointer = 0;
  ASSERT_EQ(allocate(2 * MiB, pointer), CUDA_SUCCESS);
  record::cuIpcGetMemHandle get;
  get.dptr = pointer;
  EXPECT_EQ(worker->ask(get), CUDA_ERROR_NOT_SUPPORTED);
  EXPECT_FALSE(order());
  EXPECT_EQ(page().memory_fixed.load(), 2 * MiB);
}

}  // namespace
}  // namespace vgpu::worker
