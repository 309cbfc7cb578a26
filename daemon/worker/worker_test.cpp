// vgpud-worker as a client sees it, on the software GPU, without a broker.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <random>
#include <thread>
#include <vector>

#include "daemon/worker/handle_table.hpp"
#include "daemon/worker/worker_harness.hpp"
#include "protocol/address_space.hpp"
#include "protocol/graph_node.hpp"
#include "protocol/handle.hpp"
#include "protocol/jit_options.hpp"
#include "protocol/message_socket.hpp"
#include "protocol/upcall.hpp"

namespace vgpu::worker {
namespace {

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
  CUresult synchronize() { return worker->ask(record::cuCtxSynchronize{}); }

  std::unique_ptr<WorkerHarness> worker;
};

TEST_F(WorkerTest, ReportsItsDevice) {
  EXPECT_NE(worker->report().name[0], '\0');
  EXPECT_GT(worker->report().total_memory, 0u);
  EXPECT_EQ(worker->report().compute_major, 7);
  EXPECT_EQ(worker->report().compute_minor, 5);
}

TEST_F(WorkerTest, MemoryRoundTrip) {
  constexpr std::uint64_t bytes = 1 << 20;
  const std::uint64_t device = allocate(bytes);
  ASSERT_NE(device, 0u);
  ArenaBlock* const block = worker->arena().allocate(bytes);
  auto* const data = reinterpret_cast<std::uint32_t*>(Arena::data(block));
  for (std::uint32_t i = 0; i < bytes / 4; ++i) data[i] = i * 2654435761u;
  record::copy_to_device_block copy;
  copy.dst = device;
  copy.block = {worker->arena().offset(block), bytes};
  worker->post(copy);
  ArenaBlock* const back = worker->read_back(device, bytes);
  EXPECT_EQ(back->result, 0);
  EXPECT_EQ(std::memcmp(Arena::data(back), data, bytes), 0);
  EXPECT_TRUE(block_done(*block));
  EXPECT_EQ(synchronize(), CUDA_SUCCESS);
}

TEST_F(WorkerTest, InlineCopiesAndMemsetsKeepTheirOrder) {
  const std::uint64_t device = allocate(4096);
  for (int i = 0; i < 200; ++i) {
    record::cuMemsetD8Async set;
    set.dstDevice = device;
    set.uc = 0;
    set.N = 4096;
    worker->post(set);
    std::vector<std::byte> bytes(64, static_cast<std::byte>(i));
    record::copy_to_device_inline copy;
    copy.dst = device + 64 * static_cast<std::uint64_t>(i % 64);
    worker->post(copy, bytes);
  }
  ArenaBlock* const back = worker->read_back(device, 4096);
  EXPECT_EQ(Arena::data(back)[64 * (199 % 64)], std::byte{199});
  EXPECT_EQ(Arena::data(back)[0], std::byte{0});
}

TEST_F(WorkerTest, AsynchronousErrorComesOutAtTheNextSynchronisation) {
  record::cuMemsetD8Async set;
  set.dstDevice = 0x123456;
  set.N = 64;
  worker->post(set);
  EXPECT_NE(synchronize(), CUDA_SUCCESS);
  EXPECT_EQ(synchronize(), CUDA_SUCCESS);
}

TEST_F(WorkerTest, AnImageComesInParts) {
  const std::string text = ".version 7.5\n.target sm_75\n.address_size 64\n" + std::string(9000, '\n') +
                           ".visible .entry k() { ret; }\n";
  const auto send = [&](std::uint64_t offset, std::uint64_t at, std::uint64_t bytes) {
    ArenaBlock* const block = worker->arena().allocate(bytes);
    std::memcpy(Arena::data(block), text.data() + at, bytes);
    record::image_part part;
    part.offset = offset;
    part.block = {worker->arena().offset(block), bytes};
    worker->post(part);
    for (int i = 0; i < 100 && !await_block(*block, 20'000, 100'000'000); ++i) {
    }
    return block->result;
  };
  const auto load = [&](std::uint64_t bytes) {
    record::cuModuleLoadData module;
    module.module = Handle::make(HandleKind::module, 1, 1);
    module.source = static_cast<std::uint32_t>(ImageSource::parts);
    module.image = {0, bytes};
    return worker->ask(module);
  };
  EXPECT_EQ(load(text.size()), CUDA_ERROR_INVALID_VALUE) << "nothing was sent";
  EXPECT_EQ(send(0, 0, 4000), CUDA_SUCCESS);
  EXPECT_EQ(send(4001, 4001, 100), CUDA_ERROR_INVALID_VALUE) << "a part with a hole before it";
  EXPECT_EQ(load(4101), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(send(0, 0, 4000), CUDA_SUCCESS);
  EXPECT_EQ(send(4000, 4000, text.size() - 4000), CUDA_SUCCESS);
  EXPECT_EQ(load(text.size()), CUDA_SUCCESS);
  EXPECT_EQ(load(text.size()), CUDA_ERROR_INVALID_VALUE) << "it was taken";
}

TEST_F(WorkerTest, WorkerMemoryIsNotReachableByAddress) {
  const std::uint64_t device = allocate(4096);
  record::cuMemcpyAsync copy;
  copy.dst = reinterpret_cast<std::uint64_t>(&copy);
  copy.src = device;
  copy.ByteCount = 8;
  worker->post(copy);
  EXPECT_EQ(synchronize(), CUDA_ERROR_INVALID_VALUE);
  record::copy_to_device_block block;
  block.dst = device;
  block.block = {worker->channel().arena().size() - 64, 4096};
  worker->post(block);
  EXPECT_EQ(synchronize(), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(WorkerTest, QuotaIsOutOfMemoryAndMemGetInfoMatches) {
  start(8 << 20);
  const std::uint64_t first = allocate(6 << 20);
  record::cuMemAlloc_v2 record;
  record.bytes = 4 << 20;
  EXPECT_EQ(worker->ask(record), CUDA_ERROR_OUT_OF_MEMORY);
  reply::cuMemGetInfo_v2 info;
  EXPECT_EQ(worker->ask(record::cuMemGetInfo_v2{}, info), CUDA_SUCCESS);
  EXPECT_EQ(info.total, 8u << 20);
  EXPECT_EQ(info.free, 2u << 20);
  record::cuMemFree_v2 free;
  free.dptr = first;
  worker->post(free);
  EXPECT_EQ(worker->ask(record), CUDA_SUCCESS);
}

TEST_F(WorkerTest, MappedMemoryStaysChargedWhenItsHandleIsReleased) {
  constexpr std::uint64_t bytes = 2 << 20;
  record::cuMemAddressReserve reserve;
  reserve.size = bytes;
  reply::cuMemAddressReserve place;
  ASSERT_EQ(worker->ask(reserve, place), CUDA_SUCCESS);
  record::cuMemCreate create;
  create.handle = Handle::make(HandleKind::mem_allocation, 1, 1);
  create.bytes = bytes;
  create.prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  create.prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  ASSERT_EQ(worker->ask(create), CUDA_SUCCESS);
  EXPECT_EQ(worker->ask(create), CUDA_ERROR_INVALID_HANDLE) << "the handle is in use";
  record::cuMemMap map;
  map.ptr = place.ptr;
  map.bytes = bytes;
  map.handle = create.handle;
  ASSERT_EQ(worker->ask(map), CUDA_SUCCESS);
  record::cuMemRelease release;
  release.handle = create.handle;
  ASSERT_EQ(worker->ask(release), CUDA_SUCCESS);
  EXPECT_EQ(worker->gate().memory_used.load(), bytes);
  record::cuMemUnmap unmap;
  unmap.ptr = place.ptr;
  unmap.size = bytes;
  ASSERT_EQ(worker->ask(unmap), CUDA_SUCCESS);
  EXPECT_EQ(worker->gate().memory_used.load(), 0u);
}

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

TEST_F(WorkerTest, LinkersOfNobodyAndOptionsThatNameMemoryAreRefused) {
  record::cuLinkComplete complete;
  complete.state = Handle::make(HandleKind::linker, 1, 1);
  EXPECT_EQ(worker->ask(complete), CUDA_ERROR_INVALID_HANDLE);
  record::cuLinkCreate_v2 create;
  create.state = complete.state;
  create.option_count = 1;
  reply::cuLinkCreate_v2 none;
  EXPECT_EQ(worker->ask(create, none), CUDA_ERROR_INVALID_VALUE) << "the option is missing";
  EXPECT_EQ(worker->ask(create, none, tail_of(JitOption{CU_JIT_GLOBAL_SYMBOL_ADDRESSES, 0, 0x1000})),
            CUDA_ERROR_NOT_SUPPORTED);
  create.option_count = 0;
  EXPECT_EQ(worker->ask(create, none), CUDA_SUCCESS);
  EXPECT_EQ(worker->ask(complete), CUDA_ERROR_INVALID_VALUE) << "nothing was added";
  record::link_output output;
  output.state = create.state;
  output.offset = 1;
  EXPECT_EQ(worker->ask(output), CUDA_ERROR_INVALID_VALUE);
  record::cuLinkDestroy destroy;
  destroy.state = create.state;
  EXPECT_EQ(worker->ask(destroy), CUDA_SUCCESS);
  EXPECT_EQ(worker->ask(destroy), CUDA_ERROR_INVALID_HANDLE);
}

TEST_F(WorkerTest, UnknownHandlesAndCallsAreRefused) {
  record::cuStreamSynchronize sync;
  sync.hStream = Handle::make(HandleKind::stream, 5, 1);
  EXPECT_EQ(worker->ask(sync), CUDA_ERROR_INVALID_HANDLE);
  sync.hStream = Handle::make(HandleKind::event, 5, 1);
  EXPECT_EQ(worker->ask(sync), CUDA_ERROR_INVALID_HANDLE);
  record::cuCtxSynchronize unknown;
  unknown.header.call = 60000;
  EXPECT_EQ(worker->ask(unknown), CUDA_ERROR_INVALID_VALUE);
  record::cuCtxSynchronize other_context;
  other_context.header.context = 9;
  EXPECT_EQ(worker->ask(other_context), CUDA_ERROR_INVALID_CONTEXT);
}

TEST_F(WorkerTest, HostFunctionRunsInTheClientInStreamOrder) {
  const std::uint64_t stream = Handle::make(HandleKind::stream, 1, 1);
  record::cuStreamCreate create;
  create.stream = stream;
  create.flags = CU_STREAM_NON_BLOCKING;
  worker->post(create);
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
  const std::uint64_t stream = Handle::make(HandleKind::stream, 1, 1);
  record::cuStreamCreate create;
  create.stream = stream;
  create.flags = CU_STREAM_NON_BLOCKING;
  worker->post(create);
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

TEST_F(WorkerTest, HostRegionIsSharedAtOneAddress) {
  constexpr std::uint64_t bytes = 1 << 20;
  const std::uint64_t address = host_window_base + (16 << 20);
  const UniqueFd fd(memfd_create("region", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(fd.get(), bytes), 0);
  fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  auto* const mine =
      static_cast<std::uint8_t*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0));
  const int fds[] = {fd.get()};
  HostRegion region;
  region.address = address;
  region.bytes = bytes;
  ASSERT_TRUE(send_message(worker->direct_socket(), region, fds));
  record::host_map map;
  map.address = address;
  map.bytes = bytes;
  reply::host_map mapped;
  ASSERT_EQ(worker->ask(map, mapped), CUDA_SUCCESS);
  EXPECT_EQ(mapped.dptr, address);
  std::memset(mine, 7, bytes);
  const std::uint64_t device = allocate(bytes);
  record::cuMemcpyAsync copy;
  copy.dst = device;
  copy.src = address;
  copy.ByteCount = bytes;
  worker->post(copy);
  std::swap(copy.dst, copy.src);
  copy.dst = address;
  copy.src = device;
  ASSERT_EQ(synchronize(), CUDA_SUCCESS);
  std::memset(mine, 0, bytes);
  worker->post(copy);
  ASSERT_EQ(synchronize(), CUDA_SUCCESS);
  EXPECT_EQ(mine[bytes - 1], 7);
  record::host_unmap unmap;
  unmap.address = address;
  EXPECT_EQ(worker->ask(unmap), CUDA_SUCCESS);
  EXPECT_EQ(worker->ask(unmap), CUDA_ERROR_INVALID_VALUE);
  worker->post(copy);
  EXPECT_EQ(synchronize(), CUDA_ERROR_INVALID_VALUE);
  munmap(mine, bytes);
}

TEST_F(WorkerTest, HostRegionThatCouldShrinkIsRefused) {
  const UniqueFd fd(memfd_create("region", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(fd.get(), 4096), 0);
  const int fds[] = {fd.get()};
  HostRegion region;
  region.address = host_window_base;
  region.bytes = 4096;
  ASSERT_TRUE(send_message(worker->direct_socket(), region, fds));
  record::host_map map;
  map.address = host_window_base;
  map.bytes = 4096;
  EXPECT_EQ(worker->ask(map), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(worker->ask(map), CUDA_ERROR_INVALID_VALUE);
}

TEST_F(WorkerTest, EndsWhenTheClientHangsUp) {
  worker->hang_up();
  const int status = worker->wait_for_end(1000);
  ASSERT_NE(status, -1);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  EXPECT_EQ(worker->channel().control().closed.load(), 1u);
}

TEST_F(WorkerTest, EndsAtACorruptRingAndSaysSoInTheChannel) {
  RingProducer producer(worker->channel());
  const auto slot = producer.reserve(64, [] { return true; });
  ASSERT_NE(slot.bytes, nullptr);
  const RecordHeader header{1, 0, 0xFFFFFFFF, 0, 0, 0};
  std::memcpy(slot.bytes, &header, sizeof header);
  producer.publish(slot);
  EXPECT_NE(worker->wait_for_end(2000), -1);
  EXPECT_EQ(worker->channel().control().closed.load(), 1u);
}

TEST_F(WorkerTest, RandomBytesInEveryFieldEndTheWorkerAtMost) {
  std::mt19937_64 random(11);
  for (int round = 0; round < 3000 && worker->channel().control().closed.load() == 0; ++round) {
    RingProducer producer(worker->channel());
    const std::size_t size = 16 + random() % 300;
    const auto slot = producer.reserve(size, [&] { return worker->wait_for_end(0) == -1; });
    if (!slot) break;
    for (std::size_t i = 0; i < size; i += 8) {
      const std::uint64_t value = random() % 3 == 0 ? random() : random() % 4;
      std::memcpy(slot.bytes + i, &value, std::min<std::size_t>(8, size - i));
    }
    const RecordHeader header{
        static_cast<std::uint16_t>(random() % 300), 0, static_cast<std::uint32_t>(size), 0, 0, 0};
    std::memcpy(slot.bytes, &header, sizeof header);
    producer.publish(slot);
  }
  worker->hang_up();
  EXPECT_NE(worker->wait_for_end(5000), -1);
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
