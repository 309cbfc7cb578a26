#include "libclient/cuda/object_table.hpp"

#include <gtest/gtest.h>

#include <set>
#include <thread>

namespace vgpu::client {
namespace {

struct Thing {
  int value = 0;
  void reset() { value = 0; }
};

TEST(ObjectTable, FindsWhatItMade) {
  ObjectTable<Thing> table(HandleKind::stream);
  const auto [thing, handle] = table.create();
  thing->value = 5;
  ASSERT_NE(handle, 0U);
  EXPECT_EQ(table.find(handle)->value, 5);
}

TEST(ObjectTable, RefusesForeignAndStaleHandles) {
  ObjectTable<Thing> streams(HandleKind::stream);
  ObjectTable<Thing> events(HandleKind::event);
  const auto handle = streams.create().second;
  EXPECT_EQ(events.find(handle), nullptr);
  EXPECT_EQ(streams.find(0), nullptr);
  EXPECT_EQ(streams.find(1), nullptr);
  EXPECT_EQ(streams.find(0x7fff12345678), nullptr);
  EXPECT_TRUE(streams.destroy(handle));
  EXPECT_EQ(streams.find(handle), nullptr);
  EXPECT_FALSE(streams.destroy(handle));
  const auto [again, newer] = streams.create();
  EXPECT_NE(newer, handle);
  EXPECT_EQ(again->value, 0);
  EXPECT_EQ(streams.find(handle), nullptr);
}

TEST(ObjectTable, GivesDistinctHandlesToManyThreads) {
  ObjectTable<Thing> table(HandleKind::event);
  std::array<std::vector<std::uint64_t>, 4> made;
  std::vector<std::thread> threads;
  threads.reserve(made.size());
  for (auto& list : made) {
    threads.emplace_back([&table, &list] {
      list.reserve(2000);
      for (int i = 0; i < 2000; ++i) list.push_back(table.create().second);
    });
  }
  for (auto& thread : threads) thread.join();
  std::set<std::uint64_t> all;
  for (const auto& list : made) all.insert(list.begin(), list.end());
  EXPECT_EQ(all.size(), 8000U);
  for (const auto handle : all) EXPECT_NE(table.find(handle), nullptr);
}

}  // namespace
}  // namespace vgpu::client
