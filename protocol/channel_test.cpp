#include "protocol/channel.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstring>

namespace vgpu {
namespace {

TEST(Channel, SizeIsSealed) {
  auto fd = create_channel_memory();
  ASSERT_TRUE(fd) << fd.error();
  EXPECT_NE(ftruncate(fd->get(), 4096), 0);
  EXPECT_NE(ftruncate(fd->get(), 1 << 30), 0);
  EXPECT_NE(fcntl(fd->get(), F_ADD_SEALS, F_SEAL_WRITE), 0);
}

TEST(Channel, RingDataIsMappedTwiceInARow) {
  auto fd = create_channel_memory();
  auto channel = Channel::attach(fd->get());
  ASSERT_TRUE(channel) << channel.error();
  std::byte* const data = (*channel)->ring_data();
  data[ring_bytes] = std::byte{0x5A};
  EXPECT_EQ(data[0], std::byte{0x5A});
  data[ring_bytes - 1] = std::byte{0xA5};
  EXPECT_EQ(data[2 * ring_bytes - 1], std::byte{0xA5});
  EXPECT_EQ((*channel)->arena().size(), default_arena_bytes);
}

TEST(Channel, UnsealedMemoryIsRefused) {
  const UniqueFd fd(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(fd.get(), static_cast<off_t>(channel_offset::arena + 4096)), 0);
  const auto channel = Channel::attach(fd.get());
  ASSERT_FALSE(channel);
  EXPECT_NE(channel.error().find("sealed"), std::string::npos) << channel.error();
}

TEST(Channel, WrongSizeIsRefused) {
  const UniqueFd fd(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(fd.get(), 8192), 0);
  fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
  const auto channel = Channel::attach(fd.get());
  ASSERT_FALSE(channel);
  EXPECT_NE(channel.error().find("size"), std::string::npos) << channel.error();
}

TEST(Channel, OtherProtocolIsRefused) {
  auto fd = create_channel_memory();
  const std::uint64_t other = 1;
  ASSERT_EQ(pwrite(fd->get(), &other, 8, offsetof(ChannelHeader, protocol_hash)), 8);
  const auto channel = Channel::attach(fd->get());
  ASSERT_FALSE(channel);
  EXPECT_NE(channel.error().find("another version"), std::string::npos) << channel.error();
}

TEST(Channel, SomethingElseThanMemoryIsRefused) {
  const UniqueFd fd(open("/dev/null", O_RDWR | O_CLOEXEC));
  EXPECT_FALSE(Channel::attach(fd.get()));
  EXPECT_FALSE(Channel::attach(-1));
}

TEST(Channel, ArenaSizeIsChecked) {
  EXPECT_FALSE(create_channel_memory(0));
  EXPECT_FALSE(create_channel_memory(5000));
  EXPECT_FALSE(create_channel_memory(max_arena_bytes + 4096));
}

}  // namespace
}  // namespace vgpu
