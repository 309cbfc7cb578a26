// Device memory: allocation, accounting, holes, and virtual memory management.
#include <gtest/gtest.h>

#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstring>

#include "softgpu/memory/address_ranges.hpp"
#include "softgpu/memory/address_space.hpp"
#include "softgpu/memory/device_memory.hpp"

namespace softgpu {
namespace {

constexpr std::uint64_t mib = std::uint64_t{1} << 20;

volatile unsigned char* bytes_at(std::uint64_t address) {
  return reinterpret_cast<unsigned char*>(static_cast<std::uintptr_t>(address));
}

TEST(AddressRanges, FreedRangesMergeAndAreHandedOutLast) {
  AddressRanges ranges(0x1000, 0x3000);
  const auto first = ranges.take(0x1000, 0x1000);
  ASSERT_EQ(first, 0x1000U);
  ranges.give_back(*first, 0x1000);
  EXPECT_EQ(ranges.take(0x1000, 0x1000), 0x2000U) << "a freed range is not reused at once";
  EXPECT_EQ(ranges.take(0x1000, 0x1000), 0x3000U);
  EXPECT_EQ(ranges.take(0x1000, 0x1000), 0x1000U);
  EXPECT_FALSE(ranges.take(1, 1));
  ranges.give_back(0x2000, 0x1000);
  ranges.give_back(0x1000, 0x1000);
  ranges.give_back(0x3000, 0x1000);
  EXPECT_TRUE(ranges.take_at(0x1000, 0x3000));
  EXPECT_FALSE(ranges.take_at(0x1000, 1));
}

TEST(DeviceMemory, CountsWhatIsUsedAndRefusesMoreThanThereIs) {
  DeviceMemory memory(8 * mib);
  const auto first = memory.allocate(5 * mib, MemoryKind::device, nullptr);
  ASSERT_TRUE(first);
  EXPECT_EQ(memory.free_bytes(), 3 * mib);
  const auto refused = memory.allocate(4 * mib, MemoryKind::device, nullptr);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error(), MemoryError::out_of_memory);
  EXPECT_TRUE(memory.allocate(64 * mib, MemoryKind::host, nullptr)) << "host memory is not device memory";
  EXPECT_TRUE(memory.release(*first, {MemoryKind::device}));
  EXPECT_EQ(memory.free_bytes(), 8 * mib);
  EXPECT_FALSE(memory.release(*first, {MemoryKind::device})) << "freed twice";
}

TEST(DeviceMemory, KnowsWhichAllocationHoldsAnAddress) {
  DeviceMemory memory(8 * mib);
  const auto base = memory.allocate(1000, MemoryKind::device, &memory);
  ASSERT_TRUE(base);
  EXPECT_EQ(*base % 512, 0U);
  const auto found = memory.find(*base + 999);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->base, *base);
  EXPECT_EQ(found->bytes, 1000U);
  EXPECT_FALSE(memory.find(*base + 1000));
  EXPECT_TRUE(memory.accessible(*base, 1000));
  EXPECT_FALSE(memory.accessible(*base, 1001));
  memory.release_owner(&memory);
  EXPECT_FALSE(memory.find(*base));
}

TEST(DeviceMemoryDeathTest, FreedMemoryFaults) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  DeviceMemory memory(8 * mib);
  const auto base = memory.allocate(100, MemoryKind::device, nullptr);
  ASSERT_TRUE(base);
  bytes_at(*base)[0] = 1;
  ASSERT_TRUE(memory.release(*base, {MemoryKind::device}));
  EXPECT_DEATH(bytes_at(*base)[0] = 2, "");
}

TEST(PoolFile, APieceIsZeroedAndItsOwn) {
  const auto file = PoolFile::create(2 * mib);
  ASSERT_TRUE(file);
  DeviceMemory memory(8 * mib);
  const auto first = memory.allocate(mib, MemoryKind::pool, nullptr, {.pool = &memory, .file = file->get()});
  const auto second = memory.allocate(mib, MemoryKind::pool, nullptr, {.pool = &memory, .file = file->get()});
  ASSERT_TRUE(first && second);
  EXPECT_EQ(memory.used(), 2 * mib);
  EXPECT_FALSE(memory.allocate(4096, MemoryKind::pool, nullptr, {.pool = &memory, .file = file->get()}))
      << "the file is full";
  EXPECT_EQ(memory.offset_in_file(*first), 0U);
  EXPECT_EQ(memory.offset_in_file(*second), mib);
  bytes_at(*first)[0] = 1;
  bytes_at(*second)[0] = 2;
  ASSERT_TRUE(memory.release(*first, {MemoryKind::pool}));
  EXPECT_EQ(bytes_at(*second)[0], 2);
  const auto third = memory.allocate(100, MemoryKind::pool, nullptr, {.pool = &memory, .file = file->get()});
  ASSERT_TRUE(third);
  EXPECT_EQ(memory.offset_in_file(*third), 0U);
  EXPECT_EQ(bytes_at(*third)[0], 0) << "what the first piece held";
}

TEST(PoolFile, WhoMapsAPieceSeesItAndNothingBehindTheFile) {
  const auto file = PoolFile::create(2 * mib);
  ASSERT_TRUE(file);
  DeviceMemory memory(8 * mib);
  ASSERT_TRUE(memory.allocate(8192, MemoryKind::pool, nullptr, {.pool = &memory, .file = file->get()}));
  const auto made = memory.allocate(100, MemoryKind::pool, nullptr, {.pool = &memory, .file = file->get()});
  ASSERT_TRUE(made);
  const auto opened = PhysicalMemory::import((*file)->fd());
  ASSERT_TRUE(opened);
  const auto offset = memory.offset_in_file(*made);
  ASSERT_TRUE(offset);
  const auto seen = memory.attach_piece(*opened, *offset, 100, nullptr, &memory);
  ASSERT_TRUE(seen);
  EXPECT_EQ(memory.used(), 8192U + 4096U) << "its maker pays";
  EXPECT_FALSE(memory.offset_in_file(*seen));
  bytes_at(*seen)[7] = 3;
  EXPECT_EQ(bytes_at(*made)[7], 3);
  for (const auto& [at, bytes] : {std::pair{std::uint64_t{0}, 2 * mib + 1},
                                  {2 * mib, std::uint64_t{1}},
                                  {std::uint64_t{1}, std::uint64_t{1}},
                                  {std::uint64_t{0}, std::uint64_t{0}},
                                  {~std::uint64_t{4095}, std::uint64_t{8192}}}) {
    EXPECT_FALSE(memory.attach_piece(*opened, at, bytes, nullptr, &memory)) << at << " " << bytes;
  }
}

TEST(DeviceMemory, OneHandleMappedTwiceIsTheSameMemory) {
  DeviceMemory memory(16 * mib);
  const auto physical = memory.create_physical(2 * mib);
  ASSERT_TRUE(physical);
  EXPECT_EQ(memory.used(), 2 * mib);
  const auto window = memory.reserve(8 * mib, 0, 0);
  ASSERT_TRUE(window);
  ASSERT_TRUE(memory.map(*window, 2 * mib, 0, *physical, nullptr));
  EXPECT_FALSE(memory.map(*window, 2 * mib, 0, *physical, nullptr)) << "already mapped there";
  ASSERT_TRUE(memory.map(*window + 2 * mib, 2 * mib, 0, *physical, nullptr));
  EXPECT_FALSE(memory.accessible(*window, 1));
  ASSERT_TRUE(memory.set_access(*window, 4 * mib, DeviceMemory::Access::read_write));
  EXPECT_TRUE(memory.accessible(*window, 4 * mib));
  bytes_at(*window)[5] = 42;
  EXPECT_EQ(bytes_at(*window + 2 * mib)[5], 42);
  EXPECT_FALSE(memory.unreserve(*window, 8 * mib)) << "still mapped";
  ASSERT_TRUE(memory.unmap(*window, 4 * mib));
  EXPECT_TRUE(memory.unreserve(*window, 8 * mib));
}

TEST(DeviceMemory, PhysicalMemoryIsFreedWithItsLastReference) {
  DeviceMemory memory(16 * mib);
  auto physical = memory.create_physical(4 * mib);
  ASSERT_TRUE(physical);
  const auto window = memory.reserve(4 * mib, 0, 0);
  ASSERT_TRUE(memory.map(*window, 4 * mib, 0, *physical, nullptr));
  physical->reset();
  EXPECT_EQ(memory.used(), 4 * mib) << "the mapping keeps it";
  ASSERT_TRUE(memory.unmap(*window, 4 * mib));
  EXPECT_EQ(memory.used(), 0U);
}

TEST(DeviceMemory, DevicesAreCountedApart) {
  DeviceMemory memory(8 * mib);
  const auto on_second = memory.allocate(6 * mib, MemoryKind::device, nullptr, {.device = 1});
  ASSERT_TRUE(on_second);
  EXPECT_EQ(memory.find(*on_second)->device, 1);
  EXPECT_EQ(memory.used(1), 6 * mib);
  EXPECT_EQ(memory.free_bytes(0), 8 * mib);
  EXPECT_TRUE(memory.allocate(8 * mib, MemoryKind::device, nullptr)) << "the first device is empty";
  EXPECT_FALSE(memory.allocate(4 * mib, MemoryKind::device, nullptr, {.device = 1}));
  EXPECT_FALSE(memory.create_physical(4 * mib, 1));
  auto physical = memory.create_physical(2 * mib, 1);
  ASSERT_TRUE(physical);
  EXPECT_EQ((*physical)->device(), 1);
  EXPECT_EQ(memory.free_bytes(1), 0U);
  physical->reset();
  ASSERT_TRUE(memory.release(*on_second, {MemoryKind::device}));
  EXPECT_EQ(memory.used(1), 0U);
  EXPECT_EQ(memory.used(0), 8 * mib);
}

TEST(DeviceMemory, AMappingHasAnAccessForEachDevice) {
  using Access = DeviceMemory::Access;
  DeviceMemory memory(16 * mib);
  const auto physical = memory.create_physical(2 * mib, 1);
  ASSERT_TRUE(physical);
  const auto window = memory.reserve(2 * mib, 0, 0);
  ASSERT_TRUE(window);
  ASSERT_TRUE(memory.map(*window, 2 * mib, 0, *physical, nullptr));
  EXPECT_EQ(memory.find(*window)->device, 1);
  ASSERT_TRUE(memory.set_access(*window, 2 * mib, Access::read_write, 1));
  ASSERT_TRUE(memory.set_access(*window, 2 * mib, Access::read, 0));
  EXPECT_EQ(memory.mapping(*window)->access[0], Access::read);
  EXPECT_EQ(memory.mapping(*window)->access[1], Access::read_write);
  bytes_at(*window)[0] = 1;  // the second device may still write
  ASSERT_TRUE(memory.set_access(*window, 2 * mib, Access::none, 1));
  EXPECT_TRUE(memory.accessible(*window, 1)) << "the first one may still read";
  ASSERT_TRUE(memory.set_access(*window, 2 * mib, Access::none, 0));
  EXPECT_FALSE(memory.accessible(*window, 1));
}

TEST(DeviceMemory, RegisteredHostMemoryIsAllowedUntilUnregistered) {
  DeviceMemory memory(8 * mib);
  std::vector<char> buffer(10000);
  const auto address = reinterpret_cast<std::uintptr_t>(buffer.data());
  EXPECT_FALSE(host_range_allowed(address, 1));
  ASSERT_TRUE(memory.register_host(address, buffer.size(), nullptr, 0));
  EXPECT_TRUE(host_range_allowed(address + 9999, 1));
  EXPECT_FALSE(host_range_allowed(address + 9999, 2));
  const auto again = memory.register_host(address + 100, 10, nullptr, 0);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error(), MemoryError::exists);
  ASSERT_TRUE(memory.unregister_host(address));
  EXPECT_FALSE(host_range_allowed(address, 1));
  EXPECT_FALSE(memory.register_host(0x10, 100, nullptr, 0)) << "nothing is mapped there";
}

}  // namespace
}  // namespace softgpu
