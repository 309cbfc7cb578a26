#include "daemon/handover/state_memory.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace vgpu::daemon {
namespace {

using Bytes = std::vector<std::uint8_t>;

UniqueFd copy_of(const StateMemory& memory) {
  return UniqueFd(fcntl(memory.fd(), F_DUPFD_CLOEXEC, 3));
}

TEST(StateMemory, TheNextProcessReadsTheLastValue) {
  auto memory = StateMemory::create("test");
  ASSERT_TRUE(memory) << memory.error();
  EXPECT_FALSE(memory->read()) << "nothing was written yet";
  for (const Bytes& value : {Bytes{1, 2, 3}, Bytes{}, Bytes(5000, 7), Bytes{9}}) {
    ASSERT_TRUE(memory->write(value));
    const auto next = StateMemory::open(copy_of(*memory));
    ASSERT_TRUE(next) << next.error();
    EXPECT_EQ(next->read().value(), value);
  }
}

TEST(StateMemory, AnUnfinishedWriteLeavesTheOldValue) {
  auto memory = StateMemory::create("test");
  ASSERT_TRUE(memory && memory->write(Bytes{1, 1, 1}) && memory->write(Bytes{2, 2, 2}));
  // What the next write() does before it writes the head: the data of the slot that held {1, 1, 1}.
  Bytes all(1 << 20);
  const ssize_t size = pread(memory->fd(), all.data(), all.size(), 0);
  ASSERT_GT(size, 0);
  const Bytes old{1, 1, 1};
  const auto found = std::search(all.begin(), all.begin() + size, old.begin(), old.end());
  ASSERT_NE(found, all.begin() + size);
  const Bytes half{3, 3};
  ASSERT_EQ(pwrite(memory->fd(), half.data(), half.size(), found - all.begin()), 2);
  EXPECT_EQ(memory->read().value(), (Bytes{2, 2, 2}));
}

TEST(StateMemory, RefusesWhatIsNone) {
  EXPECT_FALSE(StateMemory::open(UniqueFd()));
  UniqueFd empty(memfd_create("test", MFD_CLOEXEC));
  EXPECT_FALSE(StateMemory::open(std::move(empty)));
  auto memory = StateMemory::create("test");
  ASSERT_TRUE(memory);
  EXPECT_FALSE(memory->write(Bytes(StateMemory::max_bytes + 1)));
  const std::uint64_t wrong = 99;
  ASSERT_EQ(pwrite(memory->fd(), &wrong, sizeof wrong, 8), 8);
  const auto other = StateMemory::open(copy_of(*memory));
  ASSERT_FALSE(other);
  EXPECT_NE(other.error().find("version 99"), std::string::npos);
  ASSERT_EQ(pwrite(memory->fd(), &wrong, sizeof wrong, 0), 8);
  EXPECT_FALSE(StateMemory::open(copy_of(*memory)));
}

}  // namespace
}  // namespace vgpu::daemon
