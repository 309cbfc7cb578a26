#include "libclient/cuda/memory_ranges.hpp"

#include <gtest/gtest.h>

namespace vgpu::client {
namespace {

TEST(MemoryRanges, FindsTheRangeAroundAnAddress) {
  MemoryRanges ranges;
  ranges.insert({.base = 0x1000, .size = 0x100, .kind = MemoryKind::device});
  ranges.insert({.base = 0x2000, .size = 0x100, .kind = MemoryKind::pinned});
  EXPECT_EQ(ranges.find(0x1000)->base, 0x1000U);
  EXPECT_EQ(ranges.find(0x10ff)->base, 0x1000U);
  EXPECT_FALSE(ranges.find(0x1100));
  EXPECT_FALSE(ranges.find(0xfff));
  EXPECT_EQ(ranges.find(0x2080)->kind, MemoryKind::pinned);
}

TEST(MemoryRanges, GivesEachAllocationAnIdOfItsOwnEvenAtTheSameAddress) {
  MemoryRanges ranges;
  ranges.insert({.base = 0x1000, .size = 16});
  const auto first = ranges.find(0x1000)->id;
  EXPECT_TRUE(ranges.remove(0x1000));
  ranges.insert({.base = 0x1000, .size = 16});
  EXPECT_NE(ranges.find(0x1000)->id, first);
}

TEST(MemoryRanges, RemovesOnlyAtTheExactBase) {
  MemoryRanges ranges;
  ranges.insert({.base = 0x1000, .size = 0x100});
  EXPECT_FALSE(ranges.remove(0x1010));
  EXPECT_TRUE(ranges.remove(0x1000));
  EXPECT_FALSE(ranges.remove(0x1000));
}

TEST(MemoryRanges, PrefersWhatIsMappedOverTheReservationAroundIt) {
  MemoryRanges ranges;
  ranges.insert({.base = 0x10000, .size = 0x10000, .kind = MemoryKind::reserved});
  ranges.insert({.base = 0x10000, .size = 0x1000, .kind = MemoryKind::mapped});
  EXPECT_EQ(ranges.find(0x10010)->kind, MemoryKind::mapped);
  EXPECT_EQ(ranges.find(0x11000)->kind, MemoryKind::reserved);
  EXPECT_TRUE(ranges.remove(0x10000, true));
  EXPECT_EQ(ranges.find(0x10010)->kind, MemoryKind::mapped);
  EXPECT_FALSE(ranges.find_reserved(0x10010));
}

TEST(MemoryRanges, TellsOfAnotherAddressWhetherItIsTheDevices) {
  MemoryRanges ranges;
  ranges.insert({.base = 0x1000, .size = 0x100, .kind = MemoryKind::device});
  ranges.insert({.base = 0x3000, .size = 0x100, .kind = MemoryKind::pinned});
  bool of_device = false;
  EXPECT_EQ(ranges.find(0x3010, 0x1010, of_device)->base, 0x3000U);
  EXPECT_TRUE(of_device);
  EXPECT_TRUE(ranges.find(0x1010, 0x3010, of_device));
  EXPECT_FALSE(of_device);
  EXPECT_FALSE(ranges.find(0x5000, 0x5000, of_device));
  EXPECT_FALSE(of_device);
}

TEST(MemoryRanges, CountsHostMemoryOnlyIfTheWholeRangeFits) {
  MemoryRanges ranges;
  ranges.insert({.base = 0x1000, .size = 0x100, .kind = MemoryKind::pinned});
  ranges.insert({.base = 0x3000, .size = 0x100, .kind = MemoryKind::device});
  EXPECT_TRUE(ranges.find_host(0x1000, 0x100));
  EXPECT_FALSE(ranges.find_host(0x1001, 0x100));
  EXPECT_FALSE(ranges.find_host(0x1001, ~0ULL));
  EXPECT_FALSE(ranges.find_host(0x3000, 1));
}

TEST(MemoryRanges, DropsAModulesGlobalsTogether) {
  MemoryRanges ranges;
  ranges.insert({.base = 0x1000, .size = 4, .kind = MemoryKind::global, .owner = 7});
  ranges.insert({.base = 0x2000, .size = 4, .kind = MemoryKind::global, .owner = 8});
  ranges.remove_owned(MemoryKind::global, 7);
  EXPECT_FALSE(ranges.find(0x1000));
  EXPECT_TRUE(ranges.find(0x2000));
}

TEST(MemoryRanges, KeepsNothingOfNoSize) {
  MemoryRanges ranges;
  ranges.insert({.base = 0x1000, .size = 0});
  EXPECT_FALSE(ranges.find(0x1000));
}

}  // namespace
}  // namespace vgpu::client
