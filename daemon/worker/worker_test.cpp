// What vgpud-worker tells its client and takes from it, what it refuses, and when it ends.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>

#include "daemon/worker/worker_fixture.hpp"
#include "protocol/handle.hpp"
#include "protocol/jit_options.hpp"
#include "protocol/ring.hpp"

namespace vgpu::worker {
namespace {

TEST_F(WorkerTest, ReportsItsDevice) {
  EXPECT_NE(worker->report().name[0], '\0');
  EXPECT_GT(worker->report().total_memory, 0u);
  EXPECT_EQ(worker->report().compute_major, 7);
  EXPECT_EQ(worker->report().compute_minor, 5);
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

}  // namespace
}  // namespace vgpu::worker
