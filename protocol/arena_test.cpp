#include "protocol/arena.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>
#include <vector>

#include "protocol/reply_slots.hpp"

namespace vgpu {
namespace {

struct ArenaTest : testing::Test {
  void SetUp() override {
    auto fd = create_channel_memory(4 << 20);
    ASSERT_TRUE(fd);
    channel = std::move(*Channel::attach(fd->get()));
  }
  std::unique_ptr<Channel> channel;
};

TEST_F(ArenaTest, BlocksAreAlignedDisjointAndInside) {
  Arena arena(channel->arena());
  std::vector<ArenaBlock*> blocks;
  while (ArenaBlock* const block = arena.allocate(100'000)) {
    std::memset(Arena::data(block), static_cast<int>(blocks.size()), 100'000);
    blocks.push_back(block);
  }
  EXPECT_GT(blocks.size(), 30u);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(blocks[i]) % 64, 0u);
    EXPECT_EQ(Arena::data(blocks[i])[99'999], static_cast<std::byte>(i));
    EXPECT_EQ(block_at(channel->arena(), arena.offset(blocks[i]), 100'000), blocks[i]);
    arena.free(blocks[i]);
  }
  EXPECT_NE(arena.allocate(arena.largest()), nullptr);
}

TEST_F(ArenaTest, BlocksUnderWayComeBackWhenTheWorkerIsDone) {
  Arena arena(channel->arena());
  ArenaBlock* const first = arena.allocate(3 << 20);
  ASSERT_NE(first, nullptr);
  arena.free_when_done(first);
  EXPECT_EQ(arena.allocate(3 << 20), nullptr);
  EXPECT_EQ(arena.collect(), 1u);
  complete_block(*first, 0);
  EXPECT_NE(arena.allocate(3 << 20), nullptr);
}

TEST_F(ArenaTest, WorkerRefusesOffsetsOutside) {
  const auto memory = channel->arena();
  const std::uint64_t size = memory.size();
  EXPECT_NE(block_at(memory, 0, 64), nullptr);
  EXPECT_NE(block_at(memory, size - 128, 64), nullptr);
  EXPECT_EQ(block_at(memory, size - 128, 65), nullptr);
  EXPECT_EQ(block_at(memory, 1, 64), nullptr);
  EXPECT_EQ(block_at(memory, size, 0), nullptr);
  EXPECT_EQ(block_at(memory, UINT64_MAX - 63, 64), nullptr);
  EXPECT_EQ(block_at(memory, 64, UINT64_MAX), nullptr);
}

TEST_F(ArenaTest, SeveralThreadsAllocateAndFree) {
  Arena arena(channel->arena());
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&arena, t] {
      for (int i = 0; i < 500; ++i) {
        ArenaBlock* const block =
            arena.allocate(std::uint64_t{1000} * static_cast<unsigned>(t) + static_cast<unsigned>(i));
        ASSERT_NE(block, nullptr);
        if (i % 2 == 0) {
          arena.free(block);
        } else {
          complete_block(*block, 0);
          arena.free_when_done(block);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(arena.collect(), 0u);
}

}  // namespace
}  // namespace vgpu
