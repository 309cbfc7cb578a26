// Work in streams of vgpud-worker as a client sees it: kernels, host functions, waits, and errors that come
// later.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "daemon/worker/worker_fixture.hpp"
#include "protocol/futex.hpp"
#include "protocol/handle.hpp"
#include "protocol/upcall.hpp"

namespace vgpu::worker {
namespace {

TEST_F(WorkerTest, AsynchronousErrorComesOutAtTheNextSynchronisation) {
  record::cuMemsetD8Async set;
  set.dstDevice = 0x123456;
  set.N = 64;
  worker->post(set);
  EXPECT_NE(synchronize(), CUDA_SUCCESS);
  EXPECT_EQ(synchronize(), CUDA_SUCCESS);
}

TEST_F(WorkerTest, HostFunctionRunsInTheClientInStreamOrder) {
  const std::uint64_t stream = create_stream();
  std::vector<std::uint64_t> ran;
  std::thread client([&] {
    UpcallReader reader(worker->channel());
    while (ran.size() < 10) {
      Upcall upcall;
      if (!reader.next(upcall, 100'000'000)) continue;
      ran.push_back(upcall.user);
      reader.finish();
    }
  });
  for (std::uint64_t i = 0; i < 10; ++i) {
    record::cuLaunchHostFunc call;
    call.stream = stream;
    call.function = 0xF00;
    call.user = i;
    worker->post(call);
  }
  record::cuStreamSynchronize sync;
  sync.hStream = stream;
  EXPECT_EQ(worker->ask(sync), CUDA_SUCCESS);
  client.join();
  for (std::uint64_t i = 0; i < 10; ++i) EXPECT_EQ(ran[i], i);
}

TEST_F(WorkerTest, AWaitingThreadDoesNotHoldUpAnother) {
  const std::uint64_t stream = create_stream();
  record::cuLaunchHostFunc call;  // nobody runs it yet: the stream stands still
  call.stream = stream;
  worker->post(call);
  std::atomic<bool> done{false};
  std::thread waiting([&] {
    record::cuStreamSynchronize sync;
    sync.hStream = stream;
    reply::cuStreamSynchronize reply;
    EXPECT_EQ(worker->ask(sync, reply, {}, 7), CUDA_SUCCESS);
    done = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  for (int i = 0; i < 50; ++i) {
    reply::cuMemGetInfo_v2 info;
    EXPECT_EQ(worker->ask(record::cuMemGetInfo_v2{}, info), CUDA_SUCCESS);
  }
  EXPECT_FALSE(done.load());
  UpcallReader reader(worker->channel());
  Upcall upcall;
  ASSERT_TRUE(reader.next(upcall, 1'000'000'000));
  reader.finish();
  waiting.join();
}

constexpr char store_ptx[] = R"(.version 7.0
.target sm_75
.address_size 64
.visible .entry store(.param .u64 out, .param .u32 value)
{
  .reg .u64 %rd<3>;
  .reg .u32 %r<4>;
  ld.param.u64 %rd1, [out];
  ld.param.u32 %r1, [value];
  mov.u32 %r2, %tid.x;
  mul.wide.u32 %rd2, %r2, 4;
  add.u64 %rd1, %rd1, %rd2;
  st.global.u32 [%rd1], %r1;
  ret;
}
)";

struct KernelTest : WorkerTest {
  void SetUp() override {
    WorkerTest::SetUp();
    load();
  }

  void load() {
    ArenaBlock* const block = worker->arena().allocate(sizeof store_ptx);
    std::memcpy(Arena::data(block), store_ptx, sizeof store_ptx);
    record::cuModuleLoadData module;
    module.module = Handle::make(HandleKind::module, 1, 1);
    module.image = {worker->arena().offset(block), sizeof store_ptx};
    ASSERT_EQ(worker->ask(module), CUDA_SUCCESS);
    ArenaBlock* const info = worker->arena().allocate(4096);
    record::cuModuleGetFunction get;
    get.hmod = module.module;
    get.hfunc = function;
    get.info = {worker->arena().offset(info), 4096};
    reply::cuModuleGetFunction none;
    ASSERT_EQ(worker->ask(get, none, std::as_bytes(std::span("store"))), CUDA_SUCCESS);
    FunctionInfo described;
    std::memcpy(&described, Arena::data(info), sizeof described);
    EXPECT_EQ(described.param_count, 2u);
    EXPECT_EQ(described.param_bytes, 12u);
  }

  void launch(std::uint64_t out, std::uint32_t value) {
    struct {
      std::uint64_t out;
      std::uint32_t value, padding;
    } const parameters{out, value, 0};
    record::cuLaunchKernel record;
    record.function = function;
    record.grid_x = record.grid_y = record.grid_z = record.block_y = record.block_z = 1;
    record.block_x = 32;
    record.param_bytes = 12;
    worker->post(record, std::as_bytes(std::span(&parameters, 1)));
  }

  static constexpr std::uint64_t function = Handle::make(HandleKind::function, 1, 1);
};

TEST_F(KernelTest, RunsAndIsCounted) {
  const std::uint64_t device = allocate(128);
  launch(device, 4711);
  ASSERT_EQ(synchronize(), CUDA_SUCCESS);
  ArenaBlock* const back = worker->read_back(device, 128);
  std::uint32_t last = 0;
  std::memcpy(&last, Arena::data(back) + 124, 4);
  EXPECT_EQ(last, 4711u);
  EXPECT_EQ(worker->gate().launches.load(), 1u);
  EXPECT_GT(worker->gate().kernel_ns.load(), 0u);
  EXPECT_EQ(worker->gate().modules.load(), 1u);
  EXPECT_EQ(worker->gate().bytes_from_device.load(), 128u);
}

TEST_F(KernelTest, GateHoldsLaunchesBackUntilTheBrokerRefills) {
  const std::uint64_t device = allocate(128);
  worker->gate().allowance_ns.store(0);
  launch(device, 1);
  std::atomic<bool> done{false};
  std::thread waiting([&] {
    EXPECT_EQ(synchronize(), CUDA_SUCCESS);
    done = true;
  });
  for (int i = 0; i < 500 && worker->gate().blocked.load() == 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  EXPECT_EQ(worker->gate().blocked.load(), 1u);
  EXPECT_EQ(worker->gate().backlogged.load(), 1u);
  EXPECT_EQ(worker->gate().launches.load(), 0u);
  EXPECT_FALSE(done.load());
  worker->gate().allowance_ns.store(no_limit_ns);
  worker->gate().refill.fetch_add(1);
  futex_wake(worker->gate().refill);
  waiting.join();
  EXPECT_EQ(worker->gate().launches.load(), 1u);
}

TEST_F(KernelTest, AllWorkIsAccountedForUnderContention) {
  const std::uint64_t device = allocate(128);
  worker->gate().allowance_ns.store(no_limit_ns - 1);  // others compete, but there is plenty
  for (std::uint32_t i = 0; i < 300; ++i) launch(device, i);
  ASSERT_EQ(synchronize(), CUDA_SUCCESS);
  EXPECT_EQ(worker->gate().launches.load(), 300u);
  for (int i = 0; i < 500 && worker->gate().backlogged.load() != 0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  EXPECT_EQ(worker->gate().in_flight.load(), 0u);
  EXPECT_EQ(worker->gate().backlogged.load(), 0u);
}

TEST_F(KernelTest, IllegalAddressIsStickyAndStandsInTheChannel) {
  launch(0x10, 1);
  EXPECT_EQ(synchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQ(synchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
  reply::cuMemGetInfo_v2 info;
  EXPECT_EQ(worker->ask(record::cuMemGetInfo_v2{}, info), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQ(worker->channel().control().sticky_error.load(),
            static_cast<std::uint32_t>(CUDA_ERROR_ILLEGAL_ADDRESS));
}

}  // namespace
}  // namespace vgpu::worker
