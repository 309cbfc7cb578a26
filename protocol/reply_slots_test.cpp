#include "protocol/reply_slots.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <thread>

#include "protocol/futex.hpp"
#include "protocol/testing.hpp"

namespace vgpu {
namespace {

using testing_support::new_channel;

constexpr std::uint64_t second = 1'000'000'000;

TEST(ReplySlotPool, LeasesEachSlotOnce) {
  ReplySlotPool pool;
  std::set<std::uint32_t> leased;
  for (std::size_t i = 0; i < reply_slot_count; ++i) leased.insert(pool.lease().value());
  EXPECT_EQ(leased.size(), reply_slot_count);
  EXPECT_FALSE(pool.lease());
  pool.give_back(77);
  EXPECT_EQ(pool.lease(), 77u);
}

TEST(ReplySlots, ReplyWrittenBeforeTheWaitIsFound) {
  const auto channel = new_channel();
  ReplySlot& slot = channel->slots()[3];
  const std::uint32_t reference = begin_reply(slot, 3, 42);
  EXPECT_FALSE(await_reply(slot, 42, 0, 1000));
  const std::uint64_t payload = 0x1122334455667788;
  complete_reply(*channel, reference, 7, std::as_bytes(std::span(&payload, 1)));
  ASSERT_TRUE(await_reply(slot, 42, 0, 0));
  EXPECT_EQ(slot.result, 7);
  EXPECT_EQ(slot.payload_size, 8u);
  EXPECT_EQ(std::memcmp(slot.payload, &payload, 8), 0);
}

TEST(ReplySlots, SleeperIsWoken) {
  const auto channel = new_channel();
  ReplySlot& slot = channel->slots()[0];
  const std::uint32_t reference = begin_reply(slot, 0, 1);
  std::thread worker([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    complete_reply(*channel, reference, 0);
  });
  const std::uint64_t before = now_ns();
  while (!await_reply(slot, 1, 1000, 10 * second)) {
  }
  EXPECT_LT(now_ns() - before, 5 * second);
  worker.join();
}

TEST(ReplySlots, LateReplyToAnEarlierCallIsDropped) {
  const auto channel = new_channel();
  ReplySlot& slot = channel->slots()[9];
  const std::uint32_t old_reference = begin_reply(slot, 9, 5);
  const std::uint32_t reference = begin_reply(slot, 9, 6);
  complete_reply(*channel, old_reference, 1);
  EXPECT_FALSE(await_reply(slot, 6, 0, 0));
  complete_reply(*channel, reference, 2);
  EXPECT_TRUE(await_reply(slot, 6, 0, 0));
  EXPECT_EQ(slot.result, 2);
}

TEST(ReplySlots, OversizedPayloadIsCutOff) {
  const auto channel = new_channel();
  const std::vector<std::byte> payload(10000, std::byte{1});
  ReplySlot& neighbour = channel->slots()[12];
  begin_reply(neighbour, 12, 1);
  complete_reply(*channel, begin_reply(channel->slots()[11], 11, 1), 0, payload);
  EXPECT_EQ(channel->slots()[11].payload_size, reply_payload_bytes);
  EXPECT_FALSE(await_reply(neighbour, 1, 0, 0));
}

TEST(ReplySlots, ManyRoundTripsOfTwoThreads) {
  const auto channel = new_channel();
  ReplySlot& slot = channel->slots()[1];
  std::atomic<std::uint32_t> posted{0};
  std::thread worker([&] {
    for (std::uint32_t i = 1; i <= 20000; ++i) {
      while (posted.load(std::memory_order_acquire) != i) cpu_relax();
      complete_reply(*channel, ReplyRef::make(1, i), static_cast<std::int32_t>(i));
    }
  });
  for (std::uint32_t i = 1; i <= 20000; ++i) {
    begin_reply(slot, 1, i);
    posted.store(i, std::memory_order_release);
    while (!await_reply(slot, i, i % 2 == 0 ? 2000 : 0, second)) {
    }
    ASSERT_EQ(slot.result, static_cast<std::int32_t>(i));
  }
  worker.join();
}

TEST(ArenaBlockStates, WaiterSeesResult) {
  const auto channel = new_channel();
  auto* const block = new (channel->arena().data()) ArenaBlock{};
  begin_block(*block);
  EXPECT_FALSE(block_done(*block));
  std::thread worker([&] { complete_block(*block, 700); });
  while (!await_block(*block, 1000, second)) {
  }
  EXPECT_EQ(block->result, 700);
  worker.join();
}

}  // namespace
}  // namespace vgpu
