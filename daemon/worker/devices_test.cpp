// A client with two devices as vgpud-worker serves it, on the software GPU, without a broker.
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "daemon/worker/worker_harness.hpp"
#include "protocol/handle.hpp"

namespace vgpu::worker {
namespace {

class TwoDevices : public testing::Test {
 protected:
  void start(std::uint64_t quota = 0) {
    ASSERT_EQ(setenv("SOFTGPU_DEVICES", "2", 1), 0);
    auto started = WorkerHarness::start(VGPU_WORKER_PATH, VGPU_SOFTGPU_PATH, quota, false, {1});
    ASSERT_TRUE(started) << started.error();
    worker = std::move(*started);
  }
  void SetUp() override { start(); }

  // A record in the context of this index.
  template <class Record>
  CUresult ask(std::uint16_t context, Record record, typename Record::Reply& reply) {
    record.header.context = context;
    return worker->ask(record, reply);
  }
  template <class Record>
  CUresult ask(std::uint16_t context, const Record& record) {
    typename Record::Reply reply;
    return ask(context, record, reply);
  }
  std::uint64_t allocate(std::uint16_t context, std::uint64_t bytes) {
    record::cuMemAlloc_v2 record;
    record.bytes = bytes;
    reply::cuMemAlloc_v2 reply;
    return ask(context, record, reply) == CUDA_SUCCESS ? reply.dptr : 0;
  }

  std::unique_ptr<WorkerHarness> worker;
};

TEST_F(TwoDevices, MemoryIsChargedToTheDeviceOnWhichItLies) {
  const std::uint64_t first = allocate(0, 1 << 20);
  const std::uint64_t second = allocate(1, 3 << 20);
  ASSERT_NE(first, 0U);
  ASSERT_NE(second, 0U);
  EXPECT_EQ(worker->gate(0).memory_used.load(), 1U << 20U);
  EXPECT_EQ(worker->gate(1).memory_used.load(), 3U << 20U);
  // It goes back there, whichever device's context frees it.
  record::cuMemFree_v2 release;
  release.dptr = second;
  EXPECT_EQ(ask(0, release), CUDA_SUCCESS);
  EXPECT_EQ(ask(1, record::cuCtxSynchronize{}), CUDA_SUCCESS);
  EXPECT_EQ(worker->gate(0).memory_used.load(), 1U << 20U);
  EXPECT_EQ(worker->gate(1).memory_used.load(), 0U);
}

TEST_F(TwoDevices, TheQuotaHoldsOnEachDevice) {
  start(4 << 20);
  EXPECT_NE(allocate(0, 3 << 20), 0U);
  EXPECT_NE(allocate(1, 3 << 20), 0U);
  EXPECT_EQ(allocate(0, 2 << 20), 0U);
  EXPECT_EQ(allocate(1, 2 << 20), 0U);
  reply::cuMemGetInfo_v2 info;
  EXPECT_EQ(ask(1, record::cuMemGetInfo_v2{}, info), CUDA_SUCCESS);
  EXPECT_EQ(info.free, 1U << 20U);
}

TEST_F(TwoDevices, CopiesGoBetweenThemAndCountWhereTheirStreamIs) {
  const std::uint64_t first = allocate(0, 4096);
  const std::uint64_t second = allocate(1, 4096);
  record::cuMemsetD32_v2 fill;
  fill.dstDevice = first;
  fill.ui = 0x12345678;
  fill.N = 1024;
  fill.header.context = 0;
  worker->post(fill);
  EXPECT_EQ(ask(0, record::cuCtxSynchronize{}), CUDA_SUCCESS);
  record::cuMemcpyAsync copy;
  copy.dst = second;
  copy.src = first;
  copy.ByteCount = 4096;
  copy.header.context = 1;
  worker->post(copy);
  EXPECT_EQ(ask(1, record::cuCtxSynchronize{}), CUDA_SUCCESS);
  EXPECT_EQ(worker->gate(0).bytes_on_device.load(), 0U);
  EXPECT_EQ(worker->gate(1).bytes_on_device.load(), 4096U);
  ArenaBlock* const block = worker->read_back(second, 4096);
  std::uint32_t last = 0;
  std::memcpy(&last, Arena::data(block) + 4092, sizeof last);
  EXPECT_EQ(last, 0x12345678U);
}

TEST_F(TwoDevices, TheEndOfOnesContextFreesWhatWasMadeThereAndNothingElse) {
  ASSERT_NE(allocate(0, 1 << 20), 0U);
  ASSERT_NE(allocate(1, 1 << 20), 0U);
  record::cuStreamCreate stream;
  stream.stream = Handle::make(HandleKind::stream, 1, 1);
  EXPECT_EQ(ask(1, stream), CUDA_SUCCESS);
  EXPECT_EQ(ask(1, record::cuDevicePrimaryCtxReset_v2{}), CUDA_SUCCESS);
  EXPECT_EQ(worker->gate(0).memory_used.load(), 1U << 20U);
  EXPECT_EQ(worker->gate(1).memory_used.load(), 0U);
  record::cuStreamSynchronize wait;
  wait.hStream = stream.stream;
  EXPECT_EQ(ask(1, wait), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_NE(allocate(1, 1 << 20), 0U) << "it can be used again";
}

TEST_F(TwoDevices, AResetGivesVariablesTheirFirstValuesThereAndNowhereElse) {
  const std::string text =
      ".version 7.0\n.target sm_75\n.address_size 64\n.global .u32 counter = 41;\n"
      ".global .attribute(.managed) .u32 common = 7;\n.visible .entry k() { ret; }\n";
  ArenaBlock* const image = worker->arena().allocate(text.size());
  std::memcpy(Arena::data(image), text.data(), text.size());
  record::cuLibraryLoadData load;
  load.library = Handle::make(HandleKind::library, 1, 1);
  load.image = {worker->arena().offset(image), text.size()};
  ASSERT_EQ(ask(0, load), CUDA_SUCCESS);
  const auto find = [&](std::uint16_t context, const char* name) {
    record::cuLibraryGetGlobal record;
    record.library = load.library;
    record.header.context = context;
    reply::cuLibraryGetGlobal reply;
    EXPECT_EQ(worker->ask(record, reply, std::as_bytes(std::span(name, std::strlen(name)))), CUDA_SUCCESS);
    return reply.dptr;
  };
  const auto write = [&](std::uint64_t to, std::uint32_t value) {
    record::copy_to_device_inline copy;
    copy.dst = to;
    worker->post(copy, std::as_bytes(std::span(&value, 1)));
    EXPECT_EQ(ask(0, record::cuCtxSynchronize{}), CUDA_SUCCESS);
  };
  const auto read = [&](std::uint64_t from) {
    std::uint32_t value = 0;
    std::memcpy(&value, Arena::data(worker->read_back(from, 4)), 4);
    return value;
  };
  record::cuDevicePrimaryCtxReset_v2 reset;
  reset.variables = 1;
  const std::uint64_t counters[] = {find(0, "counter"), find(1, "counter")};
  const std::uint64_t common = find(0, "common");
  for (const std::uint64_t counter : counters) {
    EXPECT_EQ(read(counter), 41U);
    write(counter, 5);
  }
  write(common, 6);
  EXPECT_EQ(ask(1, reset), CUDA_SUCCESS);
  EXPECT_EQ(find(1, "counter"), counters[1]);
  EXPECT_EQ(read(counters[0]), 5U);
  EXPECT_EQ(read(counters[1]), 41U);
  write(counters[1], 8);
  EXPECT_EQ(ask(0, reset), CUDA_SUCCESS);
  EXPECT_EQ(read(counters[0]), 41U);
  EXPECT_EQ(read(counters[1]), 8U);
  EXPECT_EQ(read(common), 6U) << "it is of no context";
}

TEST_F(TwoDevices, NumbersThatNameNoDeviceOrContextAreRefused) {
  for (const std::uint16_t context : std::initializer_list<std::uint16_t>{2, 63, 64, 65535}) {
    EXPECT_EQ(ask(context, record::cuCtxSynchronize{}), CUDA_ERROR_INVALID_CONTEXT) << context;
  }
  record::cuCtxCreate_v4 create;
  record::cuCtxDestroy_v2 destroy;
  for (const std::uint16_t index : std::initializer_list<std::uint16_t>{0, 1}) {
    create.index = destroy.index = index;
    EXPECT_EQ(ask(1, create), CUDA_ERROR_INVALID_VALUE) << "a device's own context: " << index;
    EXPECT_EQ(ask(0, destroy), CUDA_ERROR_INVALID_CONTEXT) << index;
  }
  record::cuCtxEnablePeerAccess enable;
  record::cuDeviceCanAccessPeer can;
  for (const std::uint16_t peer : std::initializer_list<std::uint16_t>{2, 64, 65535}) {
    enable.peer = peer;
    EXPECT_EQ(ask(0, enable), CUDA_ERROR_INVALID_CONTEXT) << peer;
    can.peer = peer;
    EXPECT_EQ(ask(0, can), CUDA_ERROR_INVALID_DEVICE) << peer;
  }
  record::copy_3d copy;
  copy.copy.WidthInBytes = copy.copy.Height = copy.copy.Depth = 1;
  copy.copy.srcMemoryType = copy.copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.copy.srcDevice = allocate(0, 16);
  copy.copy.dstDevice = allocate(1, 16);
  copy.src_context = 1;
  copy.dst_context = 7;
  EXPECT_EQ(ask(0, copy), CUDA_ERROR_INVALID_CONTEXT);
  copy.dst_context = 1;
  EXPECT_EQ(ask(0, copy), CUDA_SUCCESS);
  record::cuMemCreate memory;
  memory.prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  memory.prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  memory.bytes = 2 << 20;
  memory.handle = Handle::make(HandleKind::mem_allocation, 1, 1);
  for (const int device : {2, -1, 1 << 30}) {
    memory.prop.location.id = device;
    EXPECT_EQ(ask(0, memory), CUDA_ERROR_INVALID_DEVICE) << device;
  }
  memory.prop.location.id = 1;
  EXPECT_EQ(ask(0, memory), CUDA_SUCCESS);
  EXPECT_GE(worker->gate(1).memory_used.load(), 2U << 20U) << "charged to where it lies";
  record::cuMemPoolDestroy pool;
  pool.pool = Handle::make(HandleKind::mem_pool, 1, 1);
  EXPECT_EQ(ask(0, pool), CUDA_ERROR_INVALID_VALUE) << "a device's own pool";
}

// Contexts, peers and devices of any number, in any order: the worker lives and answers.
TEST_F(TwoDevices, AnyNumbersInAnyOrderHurtNobody) {
  std::mt19937 random(11);
  const auto number = [&] { return static_cast<std::uint16_t>(random() % 4 != 0 ? random() % 5 : random()); };
  for (int round = 0; round < 3000; ++round) {
    record::cuCtxCreate_v4 create;
    create.index = number();
    record::cuCtxDestroy_v2 destroy;
    destroy.index = number();
    record::cuCtxEnablePeerAccess enable;
    enable.peer = number();
    record::cuMemAlloc_v2 memory;
    memory.bytes = 4096;
    record::cuStreamCreate stream;
    stream.stream = Handle::make(HandleKind::stream, number() % 8, 1);
    record::cuEventRecord event;
    event.hEvent = Handle::make(HandleKind::event, number() % 8, 1);
    event.hStream = Handle::make(HandleKind::stream, number() % 8, 1);
    switch (random() % 8) {
      case 0:
        static_cast<void>(ask(number(), create));
        break;
      case 1:
        static_cast<void>(ask(number(), destroy));
        break;
      case 2:
        static_cast<void>(ask(number(), enable));
        break;
      case 3:
        static_cast<void>(ask(number(), memory));
        break;
      case 4:
        static_cast<void>(ask(number(), stream));
        break;
      case 5:
        static_cast<void>(ask(number(), event));
        break;
      case 6:
        static_cast<void>(ask(number(), record::cuDevicePrimaryCtxReset_v2{}));
        break;
      default:
        static_cast<void>(ask(number(), record::cuCtxSynchronize{}));
    }
  }
  EXPECT_EQ(ask(0, record::cuCtxSynchronize{}), CUDA_SUCCESS);
  EXPECT_EQ(ask(1, record::cuCtxSynchronize{}), CUDA_SUCCESS);
}

TEST(FurtherDevice, ThatIsNoneEndsTheSession) {
  ASSERT_EQ(setenv("SOFTGPU_DEVICES", "2", 1), 0);
  auto started = WorkerHarness::start(VGPU_WORKER_PATH, VGPU_SOFTGPU_PATH, 0, false, {7});
  ASSERT_TRUE(started) << started.error();
  EXPECT_GT((*started)->wait_for_end(10'000), 0);
  EXPECT_EQ((*started)->channel().control().closed.load(), 1U) << "the client hears of it";
}

}  // namespace
}  // namespace vgpu::worker
