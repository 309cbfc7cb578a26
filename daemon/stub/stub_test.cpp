// The parts of the link between guest and host: layout, rings, host memory kept equal, QEMU's protocol,
// slots.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "daemon/stub/guest/host_memory.hpp"
#include "daemon/stub/guest/pci_function.hpp"
#include "daemon/stub/guest/remote_ring.hpp"
#include "daemon/stub/guest/slot.hpp"
#include "daemon/stub/host/vm.hpp"
#include "daemon/testing/ivshmem_client.hpp"
#include "protocol/address_space.hpp"
#include "protocol/stub_layout.hpp"

namespace vgpu {
namespace {

using daemon::EventLoop;
using stub_guest::HostMemory;
using stub_guest::PciFunction;

constexpr std::uint64_t kMiB = 1U << 20U;

TEST(StubLayout, SlotsLieInsideTheMemoryAndApart) {
  for (const std::uint64_t bytes : {16 * kMiB, 64 * kMiB, 256 * kMiB, 4096 * kMiB}) {
    for (const std::uint32_t slots : {1U, 2U, 3U, 16U, 64U}) {
      const stub::Division division = stub::divide(bytes, slots);
      if (!division.sound()) continue;
      EXPECT_GE(division.memory(0), division.control(slots));
      EXPECT_LE(division.memory(slots - 1) + division.slot_stride, bytes);
      EXPECT_LE(channel_offset::arena + division.arena_bytes(), division.slot_stride);
    }
  }
  EXPECT_TRUE(stub::divide(16 * kMiB, 4).sound());
  EXPECT_FALSE(stub::divide(16 * kMiB, 16).sound());
  EXPECT_FALSE(stub::divide(48 * kMiB, 4).sound());
  EXPECT_FALSE(stub::divide(8 * kMiB, 1).sound());
}

TEST(StubLayout, DivisionsOfAHostileHostAreRefused) {
  stub::Division division = stub::divide(64 * kMiB, 4);
  ASSERT_TRUE(division.sound());
  division.slot_stride = UINT64_MAX / 4 & ~std::uint64_t{4095};
  EXPECT_FALSE(division.sound());
  division = stub::divide(64 * kMiB, 4);
  division.slot_base = 4096;
  EXPECT_FALSE(division.sound());
  division = stub::divide(64 * kMiB, 4);
  division.slot_count = 65;
  EXPECT_FALSE(division.sound());
}

TEST(RemoteRing, RecordsArriveInOrderOverManyRounds) {
  auto fd = create_channel_memory(kMiB);
  ASSERT_TRUE(fd);
  auto channel = Channel::attach_at(fd->get(), 0, kMiB);
  ASSERT_TRUE(channel);
  constexpr std::uint32_t count = 200'000;
  std::thread guest([&] {
    stub_guest::RemoteRing ring(**channel);
    std::array<std::byte, 200> bytes{};
    for (std::uint32_t i = 0; i < count; ++i) {
      RecordHeader header;
      header.size = sizeof header + sizeof i + i % 150;
      std::memcpy(bytes.data(), &header, sizeof header);
      std::memcpy(bytes.data() + sizeof header, &i, sizeof i);
      while (!ring.has_room()) std::this_thread::yield();
      ring.push(std::span(bytes).first(header.size));
    }
  });
  RingConsumer consumer(**channel);
  std::vector<std::byte> buffer(max_record_bytes);
  for (std::uint32_t i = 0; i < count;) {
    std::size_t size = 0;
    const auto status = consumer.next(buffer, size);
    if (status == RingConsumer::Status::empty) {
      std::this_thread::yield();
      continue;
    }
    ASSERT_EQ(status, RingConsumer::Status::record);
    std::uint32_t number = 0;
    std::memcpy(&number, buffer.data() + sizeof(RecordHeader), sizeof number);
    ASSERT_EQ(number, i++);
  }
  guest.join();
}

TEST(RemoteRing, AHostThatClaimsNonsenseGivesNoRoom) {
  auto fd = create_channel_memory(kMiB);
  auto channel = Channel::attach_at(fd->get(), 0, kMiB);
  ASSERT_TRUE(channel);
  stub_guest::RemoteRing ring(**channel);
  std::vector<std::byte> record(max_record_bytes);
  unsigned sent = 0;
  while (ring.has_room()) {
    ring.push(record);
    ++sent;
  }
  EXPECT_EQ(sent, ring_bytes / max_record_bytes);
  (*channel)->control().consumed_units.store(UINT64_MAX);
  EXPECT_FALSE(ring.has_room());
}

// A client's region: its memfd as the client has it mapped, and an arena of a slot.
class HostMemoryTest : public testing::Test {
 protected:
  static constexpr std::uint64_t kBytes = 64 << 10;

  std::byte* region(std::uint64_t address, bool managed = false) {
    fds_.emplace_back(memfd_create("test", MFD_CLOEXEC));
    EXPECT_EQ(ftruncate(fds_.back().get(), kBytes), 0);
    void* const place = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fds_.back().get(), 0);
    const auto room = memory_.take(kBytes);
    EXPECT_TRUE(room && memory_.add(address, kBytes, fds_.back().get(), *room, managed));
    device_ = arena_.data() + *room;
    return static_cast<std::byte*>(place);
  }

  std::vector<std::byte> arena_ = std::vector<std::byte>(kMiB);
  std::vector<UniqueFd> fds_;
  CopyCrew crew_{2};
  HostMemory memory_{arena_, 4096, crew_};
  std::byte* device_ = nullptr;  // the pages in BAR2 of the last region
  static constexpr std::uint64_t kAddress = host_window_base + (1 << 20);
};

TEST_F(HostMemoryTest, CopiesCarryExactlyTheirBytes) {
  std::byte* const client = region(kAddress);
  std::memset(client, 1, kBytes);
  memory_.before_copy_from(kAddress + 100, 50);
  EXPECT_EQ(device_[99], std::byte{0});
  EXPECT_EQ(device_[100], std::byte{1});
  EXPECT_EQ(device_[149], std::byte{1});
  EXPECT_EQ(device_[150], std::byte{0});
  memory_.before_copy_to(kAddress + 1000, 10, 7, 0, 1);
  std::memset(device_ + 1000, 9, 10);
  EXPECT_EQ(client[1000], std::byte{1});
  memory_.learned_stream(7, 0, 2);
  EXPECT_EQ(client[999], std::byte{1});
  EXPECT_EQ(client[1000], std::byte{9});
  EXPECT_EQ(client[1010], std::byte{1});
  EXPECT_FALSE(memory_.tracks());
}

TEST_F(HostMemoryTest, WhatTheClientWritesAfterACopyStays) {
  std::byte* const client = region(kAddress);
  memory_.before_copy_to(kAddress, 16, 7, 0, 1);
  std::memset(device_, 9, 16);
  memory_.learned_stream(7, 0, 2);
  client[3] = std::byte{5};
  memory_.learned_all(0, 3);
  memory_.learned_something();
  EXPECT_EQ(client[3], std::byte{5});
}

TEST_F(HostMemoryTest, AnEndLearnedInAnotherWayStillBringsTheBytesOnce) {
  std::byte* const client = region(kAddress);
  memory_.before_copy_to(kAddress, 16, 7, 0, 1);
  std::memset(device_, 9, 16);
  memory_.learned_stream(0, 0, 2);  // the default stream has waited for stream 7
  EXPECT_EQ(client[3], std::byte{9});
  client[3] = std::byte{5};
  memory_.learned_stream(7, 0, 3);
  EXPECT_EQ(client[3], std::byte{5});
}

TEST_F(HostMemoryTest, AnotherStreamsEndSaysNothing) {
  std::byte* const client = region(kAddress);
  memory_.before_copy_to(kAddress, 16, 7, 0, 1);
  memory_.learned_stream(8, 0, 2);
  std::memset(device_, 9, 16);
  memory_.learned_stream(7, 0, 2);
  EXPECT_EQ(client[3], std::byte{9});
  EXPECT_FALSE(memory_.tracks());
}

TEST_F(HostMemoryTest, ACopyBackAndForthWithoutAWaitKeepsTheDevicesBytes) {
  std::byte* const client = region(kAddress);
  std::memset(client, 1, 16);
  memory_.before_copy_to(kAddress, 8, 7, 0, 1);
  std::memset(device_, 9, 8);
  memory_.before_copy_from(kAddress, 16);
  EXPECT_EQ(device_[7], std::byte{9});
  EXPECT_EQ(device_[8], std::byte{1});
}

TEST_F(HostMemoryTest, ACopyThatHasEndedComesBackOnce) {
  std::byte* const client = region(kAddress);
  const std::uint64_t number = memory_.before_copy_to(kAddress + 10, 100, 5, 0, 1);
  ASSERT_NE(number, 0U);
  device_[10] = std::byte{1};
  memory_.ended_copy_to(number, false);
  EXPECT_EQ(client[10], std::byte{1});
  client[10] = std::byte{2};
  memory_.ended_copy_to(number, false);
  memory_.learned_stream(5, 0, 2);
  EXPECT_EQ(client[10], std::byte{2});
}

TEST_F(HostMemoryTest, OnlyTheLastCopyToAPlaceComesBack) {
  std::byte* const client = region(kAddress);
  const std::uint64_t first = memory_.before_copy_to(kAddress, 100, 5, 0, 1);
  const std::uint64_t second = memory_.before_copy_to(kAddress, 100, 5, 0, 2);
  device_[0] = std::byte{1};
  memory_.ended_copy_to(first, false);
  EXPECT_EQ(client[0], std::byte{0});
  device_[0] = std::byte{2};
  memory_.ended_copy_to(second, false);
  EXPECT_EQ(client[0], std::byte{2});
}

TEST_F(HostMemoryTest, ARefusedCopyLeavesTheClientsBytes) {
  std::byte* const client = region(kAddress);
  device_[0] = std::byte{1};
  client[0] = std::byte{2};
  memory_.ended_copy_to(memory_.before_copy_to(kAddress, 100, 5, 0, 1), true);
  memory_.learned_all(0, 2);
  EXPECT_EQ(client[0], std::byte{2});
}

TEST_F(HostMemoryTest, WhatIsTrackedIsTold) {
  using Kind = HostMemory::Kind;
  region(kAddress);
  EXPECT_EQ(memory_.kind(kAddress + 1, 100), Kind::only_copied);
  EXPECT_EQ(memory_.kind(kAddress + 1, kMiB), Kind::other);
  memory_.track_all();
  EXPECT_EQ(memory_.kind(kAddress + 1, 100), Kind::tracked);
  EXPECT_EQ(memory_.before_copy_to(kAddress, 100, 5, 0, 1), 0U);
}

TEST_F(HostMemoryTest, TrackedMemoryMergesBothSidesByBytes) {
  std::byte* const client = region(kAddress, true);
  EXPECT_TRUE(memory_.tracks());
  client[10] = std::byte{1};
  memory_.flush();
  EXPECT_EQ(device_[10], std::byte{1});
  device_[11] = std::byte{2};
  client[12] = std::byte{3};
  memory_.learned_something();
  memory_.flush();
  EXPECT_EQ(client[11], std::byte{2});
  EXPECT_EQ(device_[12], std::byte{3});
}

TEST_F(HostMemoryTest, AddressesInLaunchesAndInMappedStructsAreFollowed) {
  std::byte* const inner = region(kAddress);
  std::byte* const inner_device = device_;
  std::byte* const outer = region(kAddress + kMiB);
  const std::uint64_t pointer = kAddress + 8;
  std::memcpy(outer + 256, &pointer, sizeof pointer);
  inner[8] = std::byte{7};
  std::array<std::uint64_t, 3> parameters{1, kAddress + kMiB + 100, 2};
  EXPECT_TRUE(memory_.note_addresses(std::as_bytes(std::span(parameters))));
  EXPECT_EQ(inner_device[8], std::byte{7});
  inner[9] = std::byte{8};
  memory_.flush();
  EXPECT_EQ(inner_device[9], std::byte{8});
}

TEST_F(HostMemoryTest, RoomIsBoundedAndComesBack) {
  const auto all = memory_.take(memory_.size());
  ASSERT_TRUE(all);
  EXPECT_FALSE(memory_.take(1));
  memory_.give_back(*all);
  EXPECT_TRUE(memory_.take(1));
  EXPECT_FALSE(memory_.take(UINT64_MAX));
}

// A VM without devices behind it, and its other side.
class VmTest : public testing::Test {
 protected:
  VmTest() {
    config_ = std::make_shared<const daemon::Config>(daemon::default_config());
    sessions_ = std::make_unique<daemon::SessionManager>(loop_, config_, store_);
  }
  ~VmTest() override { std::filesystem::remove_all(folder_); }

  void start(bool tree) {
    daemon::VmConfig wanted;
    wanted.name = "vm1";
    wanted.bytes = 16 * kMiB;
    wanted.slots = 2;
    wanted.class_name = "default";
    wanted.socket = folder_ / "vm1.sock";
    if (tree) wanted.pci_tree = folder_ / "tree";
    vm_ = std::make_unique<daemon::stub_host::Vm>(
        loop_, *sessions_, store_, wanted, true,
        [this](const std::string&) { return &config_->classes.at("default"); });
    const auto started = vm_->start("", std::nullopt);
    ASSERT_TRUE(started) << started.error();
  }
  void turn(int times = 20) {
    for (int i = 0; i < times; ++i) loop_.run_once(std::chrono::milliseconds(5));
  }

  std::filesystem::path folder_ =
      std::filesystem::path(testing::TempDir()) / ("stub_test_" + std::to_string(getpid()));
  EventLoop loop_;
  std::shared_ptr<const daemon::Config> config_;
  daemon::DescriptorStore store_;
  std::unique_ptr<daemon::SessionManager> sessions_;
  std::unique_ptr<daemon::stub_host::Vm> vm_;
};

TEST_F(VmTest, QemuIsGivenMemoryAndDoorbellsAndPeerIdsAreNotUsedAgain) {
  start(false);
  std::int64_t last = 0;
  for (int round = 0; round < 3; ++round) {
    const UniqueFd qemu = daemon::testing::connect_to(folder_ / "vm1.sock");
    turn();
    EXPECT_EQ(daemon::testing::receive_number(qemu.get()).value, 0);
    const std::int64_t peer = daemon::testing::receive_number(qemu.get()).value;
    EXPECT_GT(peer, last);
    last = peer;
    const daemon::testing::Number memory = daemon::testing::receive_number(qemu.get());
    EXPECT_EQ(memory.value, -1);
    void* const place = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, memory.fd.get(), 0);
    ASSERT_NE(place, MAP_FAILED);
    EXPECT_EQ(static_cast<const stub::HostPage*>(place)->magic.load(), stub::magic);
    munmap(place, 4096);
    EXPECT_LT(ftruncate(memory.fd.get(), 4096), 0);
    for (const std::int64_t owner : {std::int64_t{0}, std::int64_t{0}, peer, peer}) {
      const daemon::testing::Number doorbell = daemon::testing::receive_number(qemu.get());
      EXPECT_EQ(doorbell.value, owner);
      EXPECT_TRUE(doorbell.fd);
    }
    const UniqueFd second = daemon::testing::connect_to(folder_ / "vm1.sock");
    turn();
    EXPECT_EQ(daemon::testing::receive_number(second.get()).value, INT64_MIN);
  }
}

TEST_F(VmTest, AGuestFindsTheFunctionAndHearsWhyItIsRefused) {
  start(true);
  const auto folder = stub_guest::find_function(folder_ / "tree", "", {"1af4:1110"});
  ASSERT_TRUE(folder) << folder.error();
  auto function = PciFunction::open(*folder);
  ASSERT_TRUE(function) << function.error();
  (*function)->guest().generation.store(1);
  std::thread loop([this] { turn(100); });
  const auto slot = stub_guest::Slot::open(**function, [] { return true; });
  loop.join();
  ASSERT_FALSE(slot);
  EXPECT_NE(slot.error().find("there is no device"), std::string::npos) << slot.error();
}

TEST_F(VmTest, WrongFunctionsSayWhatIsWrong) {
  EXPECT_NE(stub_guest::find_function(folder_, "", {"1af4:1110"}).error().find("no VGPU-STUB function"),
            std::string::npos);
  EXPECT_NE(stub_guest::find_function(folder_, "0000:00:09.0", {}).error().find("0000:00:09.0"),
            std::string::npos);
  start(true);
  const auto folder = stub_guest::find_function(folder_ / "tree", "", {"1af4:1110"});
  vm_->memory().host().protocol_hash.store(1);
  EXPECT_NE(PciFunction::open(*folder).error().find("another build"), std::string::npos);
  vm_->look();  // writes it anew
  EXPECT_TRUE(PciFunction::open(*folder));
  EXPECT_FALSE(stub_guest::find_function(folder_ / "tree", "", {"10de:0001"}));
}

}  // namespace
}  // namespace vgpu
