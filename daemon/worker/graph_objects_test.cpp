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
    graphs->add_memory(graph, *accounting, address, bytes);
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
