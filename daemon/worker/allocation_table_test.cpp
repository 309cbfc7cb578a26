// What ends with an allocation: its charge, and the tokens under which others may open it.
#include "daemon/worker/allocation_table.hpp"

#include <gtest/gtest.h>

#include "daemon/worker/account_fixture.hpp"

namespace vgpu::worker {
namespace {

struct AllocationTableTest : AccountFixture {
  static constexpr CUdeviceptr base = 0x10000;
  static constexpr std::uint64_t bytes = 0x1000;

  Allocation charged(std::uint16_t context = 0) {
    EXPECT_TRUE(accounting->charge(bytes));
    return {bytes, accounting.get(), context};
  }

  IpcLink ipc{-1};
  AllocationTable table{ipc};
};

TEST_F(AllocationTableTest, KnowsWhereItsBytesLie) {
  table.add(base, charged(3));
  EXPECT_TRUE(table.begins(base));
  EXPECT_FALSE(table.begins(base + 1));
  EXPECT_TRUE(table.covers(base, bytes));
  EXPECT_TRUE(table.covers(base + 1, bytes - 1));
  EXPECT_FALSE(table.covers(base + 1, bytes));
  EXPECT_FALSE(table.covers(base - 1, 1));
  ASSERT_TRUE(table.around(base + bytes - 1));
  EXPECT_EQ(table.around(base + bytes - 1)->first, base);
  EXPECT_FALSE(table.around(base + bytes));
  EXPECT_FALSE(table.around(base - 1));
  ASSERT_TRUE(table.find(base));
  EXPECT_EQ(table.find(base)->context, 3);
  EXPECT_EQ(table.of([](const Allocation& one) { return one.context == 3; }), std::vector{base});
  EXPECT_TRUE(table.of([](const Allocation& one) { return one.context == 0; }).empty());
}

TEST_F(AllocationTableTest, WhatEndsIsRefundedOnce) {
  table.add(base, charged());
  EXPECT_EQ(used(), bytes);
  table.remove(base);
  EXPECT_EQ(used(), 0u);
  table.remove(base);
  EXPECT_EQ(used(), 0u);
  EXPECT_FALSE(table.find(base));
}

TEST_F(AllocationTableTest, ATokenEndsWithItsMemory) {
  table.add(base, charged());
  EXPECT_FALSE(table.offered(IpcKind::memory, base));
  IpcToken token{};
  token[0] = 7;
  table.offer(IpcKind::memory, base, token);
  ASSERT_TRUE(table.offered(IpcKind::memory, base));
  EXPECT_EQ(*table.offered(IpcKind::memory, base), token);
  EXPECT_FALSE(table.offered(IpcKind::pool_pointer, base));
  table.remove(base);
  EXPECT_FALSE(table.offered(IpcKind::memory, base));
  table.offer(IpcKind::memory, base, token);
  table.add(base, charged());
  EXPECT_FALSE(table.offered(IpcKind::memory, base)) << "it was of memory that had been freed";
}

TEST_F(AllocationTableTest, AnotherClientsPoolMemoryCostsNothingAndStaysUntilItsLastEnd) {
  table.add_import(base, {bytes, accounting.get(), 0});
  table.add_import(base, {bytes, accounting.get(), 0});
  EXPECT_FALSE(table.exportable(base));
  table.remove(base);
  EXPECT_TRUE(table.begins(base));
  table.remove(base);
  EXPECT_FALSE(table.begins(base));
  EXPECT_EQ(used(), 0u);
  table.add(base, charged());
  EXPECT_TRUE(table.exportable(base));
}

TEST_F(AllocationTableTest, GraphsMemoryIsTheClientsButCannotBeShared) {
  const auto all = [](const Allocation&) { return true; };
  Allocation allocation = charged();
  allocation.context = 5;
  table.add_graph_memory(base, allocation);
  EXPECT_TRUE(table.begins(base));
  EXPECT_TRUE(table.covers(base, bytes));
  EXPECT_EQ(table.find(base)->context, 5);
  EXPECT_FALSE(table.exportable(base));
  EXPECT_TRUE(table.of(all).empty()) << "its graph has it";
  table.begin_graph_use(base);
  table.remove_graph_memory(base);
  EXPECT_EQ(table.of(all), std::vector<CUdeviceptr>{base});
  table.remove(base);
  EXPECT_FALSE(table.covers(base, 1));
  EXPECT_EQ(used(), 0u);
}

}  // namespace
}  // namespace vgpu::worker
