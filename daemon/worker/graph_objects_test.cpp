// For how long a graph's memory is the client's, and what becomes of names and references.
#include "daemon/worker/graph_objects.hpp"

#include <gtest/gtest.h>

#include "daemon/worker/account_fixture.hpp"

namespace vgpu::worker {
namespace {

struct GraphObjectsTest : AccountFixture {
  static constexpr CUdeviceptr address = 0x20000;
  static constexpr std::uint64_t bytes = 0x1000;

  void SetUp() override {
    AccountFixture::SetUp();
    graphs = std::make_unique<GraphObjects>(allocations);
  }
  void add_memory(std::uint64_t graph) {
    ASSERT_TRUE(accounting->charge(bytes));
    graphs->add_memory({graph}, address, {bytes, accounting.get(), 0});
  }

  IpcLink ipc{-1};
  AllocationTable allocations{ipc};
  std::unique_ptr<GraphObjects> graphs;
};

TEST_F(GraphObjectsTest, MemoryStaysUntilNothingKeepsIt) {
  add_memory(1);
  graphs->share_memory(1, 2);
  graphs->share_memory(1, 2);  // an executable that is updated with the graph it was made of
  graphs->forget_memory(1);
  EXPECT_TRUE(allocations.covers(address, bytes));
  EXPECT_EQ(used(), bytes);
  graphs->share_memory(2, 3);
  graphs->forget_memory(2);
  EXPECT_TRUE(allocations.covers(address, bytes));
  graphs->forget_memory(3);
  EXPECT_FALSE(allocations.covers(address, 1));
  EXPECT_EQ(used(), 0u);
}

TEST_F(GraphObjectsTest, MemoryInUseOutlivesItsGraphUntilItIsFreed) {
  add_memory(1);
  graphs->share_memory(1, 2);
  graphs->launched(2);
  allocations.remove(address);  // a free beside the graph: the next launch allocates it again
  EXPECT_EQ(used(), bytes);
  graphs->launched(2);
  graphs->forget_memory(1);
  graphs->forget_memory(2);
  EXPECT_TRUE(allocations.covers(address, bytes));
  EXPECT_EQ(used(), bytes);
  allocations.remove(address);
  EXPECT_FALSE(allocations.begins(address));
  EXPECT_EQ(used(), 0u);
}

TEST_F(GraphObjectsTest, WhatALaunchFreesIsNotInUse) {
  add_memory(1);
  graphs->add_free({1}, address);
  graphs->share_memory(1, 2);
  for (int i = 0; i < 3; ++i) graphs->launched(2);
  EXPECT_EQ(used(), bytes);
  graphs->forget_memory(1);
  graphs->forget_memory(2);
  EXPECT_EQ(used(), 0u);
}

TEST_F(GraphObjectsTest, AnotherGraphMayFreeIt) {
  add_memory(1);
  graphs->add_free({2}, address);
  graphs->launched(1);
  graphs->forget_memory(1);
  EXPECT_EQ(used(), bytes);
  graphs->launched(2);
  EXPECT_EQ(used(), 0u);
  // The address is an allocation of another sort by now.
  ASSERT_TRUE(accounting->charge(bytes));
  allocations.add(address, {bytes, accounting.get(), 0});
  graphs->launched(2);
  EXPECT_EQ(used(), bytes);
}

TEST_F(GraphObjectsTest, NodesThatFollowOneAnotherHaveTheirAddressTogether) {
  add_memory(1);
  ASSERT_TRUE(accounting->charge(3 * bytes));
  graphs->add_memory({1}, address, {3 * bytes, accounting.get(), 0});
  EXPECT_EQ(used(), 3 * bytes);
  add_memory(1);
  EXPECT_EQ(used(), 3 * bytes);
  EXPECT_TRUE(allocations.covers(address, 3 * bytes));
  graphs->forget_memory(1);
  EXPECT_EQ(used(), 0u);
}

TEST_F(GraphObjectsTest, CapturedMemoryIsItsGraphsOnceThatHasAHandle) {
  const auto graph = reinterpret_cast<CUgraph>(&allocations);
  const auto failed = reinterpret_cast<CUgraph>(&ipc);
  ASSERT_TRUE(accounting->charge(2 * bytes));
  graphs->add_memory({0, graph}, address, {bytes, accounting.get(), 0});
  graphs->add_memory({0, failed}, address + bytes, {bytes, accounting.get(), 0});
  EXPECT_TRUE(allocations.covers(address, bytes));
  graphs->name_captured(graph, 1);
  graphs->add_free({1, graph}, address);
  graphs->forget_captured();
  EXPECT_EQ(used(), bytes) << "the capture that failed is gone";
  graphs->launched(1);
  graphs->forget_memory(1);
  EXPECT_EQ(used(), 0u);
}

TEST_F(GraphObjectsTest, AGraphWithoutMemorySharesNone) {
  graphs->share_memory(1, 2);
  add_memory(2);
  graphs->forget_all();
  EXPECT_FALSE(allocations.begins(address));
}

TEST_F(GraphObjectsTest, NodesHaveTheirHandleUntilTheyAreForgotten) {
  const auto node = reinterpret_cast<CUgraphNode>(&allocations);
  EXPECT_EQ(graphs->handle_of(node), 0u);
  graphs->name_node(node, 77);
  EXPECT_EQ(graphs->handle_of(node), 77u);
  graphs->forget_node(node);
  EXPECT_FALSE(graphs->names_nodes());
}

TEST_F(GraphObjectsTest, AUserObjectIsForgottenWithTheClientsLastReference) {
  const auto object = reinterpret_cast<CUuserObject>(&allocations);
  graphs->add_user_object(5, {object, 3});
  graphs->disown(5, 2);
  ASSERT_NE(graphs->user_object(5), nullptr);
  EXPECT_EQ(graphs->user_object(5)->owned, 1u);
  graphs->disown(5, 1);
  EXPECT_EQ(graphs->user_object(5), nullptr);
}

}  // namespace
}  // namespace vgpu::worker
