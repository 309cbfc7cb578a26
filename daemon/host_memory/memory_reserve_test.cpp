// Holding memory: how much, and never more than there is to spare.
#include "daemon/host_memory/memory_reserve.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>

#include "daemon/host_memory/huge_pages.hpp"
#include "daemon/host_memory/spare.hpp"

namespace vgpu::host_memory {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t mebibyte = 1ULL << 20U;

std::uint64_t plenty() {
  return 1024 * mebibyte;
}

bool settle(MemoryReserve& reserve) {
  pollfd entry{reserve.settled_fd(), POLLIN, 0};
  const bool came = poll(&entry, 1, 20'000) == 1;
  reserve.settled();
  return came;
}

// Of a process, in bytes.
std::uint64_t resident(const std::string& process = "self") {
  std::ifstream statm("/proc/" + process + "/statm");
  std::uint64_t all = 0;
  std::uint64_t pages = 0;
  statm >> all >> pages;
  return pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

TEST(MemoryReserve, HoldsWhatItIsToldInWholeChunks) {
  MemoryReserve reserve(128 * mebibyte, plenty);
  EXPECT_EQ(reserve.held(), 0U);
  const std::uint64_t before = resident();
  reserve.aim(96 * mebibyte);
  ASSERT_TRUE(settle(reserve));
  EXPECT_EQ(reserve.held(), 96 * mebibyte);
  EXPECT_GE(resident(), before + 96 * mebibyte);
  reserve.aim(33 * mebibyte);
  EXPECT_EQ(reserve.held(), 64 * mebibyte) << "at once";
  EXPECT_LT(resident(), before + 96 * mebibyte);
  ASSERT_TRUE(settle(reserve));
  reserve.aim(1024 * mebibyte);
  ASSERT_TRUE(settle(reserve));
  EXPECT_EQ(reserve.held(), 128 * mebibyte) << "no more than was said at first";
  reserve.aim(0);
  ASSERT_TRUE(settle(reserve));
  EXPECT_EQ(reserve.held(), 0U);
}

TEST(MemoryReserve, WhatIsLatestHolds) {
  MemoryReserve reserve(256 * mebibyte, plenty);
  for (int i = 0; i < 20; ++i) {
    reserve.aim(256 * mebibyte);
    reserve.aim(64 * mebibyte);
    EXPECT_LE(reserve.held(), 64 * mebibyte);
  }
  ASSERT_TRUE(settle(reserve));
  EXPECT_EQ(reserve.held(), 64 * mebibyte);
}

TEST(MemoryReserve, StopsWhereThereIsNoMoreToSpare) {
  std::atomic<std::uint64_t> asked{0};
  MemoryReserve reserve(1024 * mebibyte, [&] { return asked++ < 2 ? chunk_bytes : chunk_bytes - 1; });
  reserve.aim(1024 * mebibyte);
  ASSERT_TRUE(settle(reserve));
  EXPECT_EQ(reserve.held(), 2 * chunk_bytes);
  EXPECT_LE(asked, 2 + lanes());
}

TEST(MemoryReserve, WhatTheSystemRefusesIsNothing) {
  MemoryReserve reserve(1ULL << 50U, plenty);
  reserve.aim(chunk_bytes);
  ASSERT_TRUE(settle(reserve));
  EXPECT_EQ(reserve.held(), 0U);
}

// The program as a whole, told by its input.
TEST(MemoryReserve, TheProgramHoldsWhatItSaysAndEndsWithItsInput) {
  int in[2];
  int out[2];
  ASSERT_EQ(pipe(in), 0);
  ASSERT_EQ(pipe(out), 0);
  const pid_t child = fork();
  if (child == 0) {
    dup2(in[0], 0);
    dup2(out[1], 1);
    for (const int end : {in[0], in[1], out[0], out[1]}) close(end);
    execl(VGPUD_RESERVE_PATH, "vgpud-reserve", std::to_string(128 * mebibyte).c_str(), nullptr);
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  const auto tell = [&](const std::string& line) {
    EXPECT_EQ(write(in[1], line.data(), line.size()), static_cast<ssize_t>(line.size()));
    std::string said(64, '\0');
    const ssize_t size = read(out[0], said.data(), said.size());
    return size > 1 ? std::stoull(said) : ~0ULL;
  };
  const std::uint64_t held = tell(std::to_string(128 * mebibyte) + "\n");
  // A machine that has nothing to spare while the tests run is no fault.
  if (spare_bytes() > 512 * mebibyte) {
    EXPECT_EQ(held, 128 * mebibyte);
  }
  EXPECT_GE(resident(std::to_string(child)), held);
  EXPECT_EQ(tell("nonsense\n0\n"), 0U);
  EXPECT_LT(resident(std::to_string(child)), 64 * mebibyte);
  close(in[1]);
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  close(out[0]);
}

// A /proc and a /sys of a test's own.
class Spare : public ::testing::Test {
 protected:
  Spare() {
    std::string name = (fs::temp_directory_path() / "vgpud-spare-XXXXXX").string();
    root_ = mkdtemp(name.data());
    put("/proc/meminfo", "MemTotal: 1600 kB\nMemFree: 1 kB\nMemAvailable: 1000 kB\n");
    put("/proc/self/cgroup", "1:name=systemd:/x\n0::/a/b\n");
  }
  ~Spare() override { fs::remove_all(root_); }
  void put(const std::string& path, const std::string& text) const {
    fs::create_directories(fs::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  std::string root_;
};

TEST_F(Spare, LeavesASixteenthOfTheMachine) {
  EXPECT_EQ(spare_bytes(root_), 900U * 1024);
  put("/proc/meminfo", "MemTotal: 1600 kB\nMemAvailable: 99 kB\n");
  EXPECT_EQ(spare_bytes(root_), 0U);
  put("/proc/meminfo", "MemTotal: 1600 kB\n");
  EXPECT_EQ(spare_bytes(root_), 0U);
}

TEST_F(Spare, EveryLimitOfItsCgroupsHolds) {
  put("/sys/fs/cgroup/a/b/memory.max", "max\n");
  put("/sys/fs/cgroup/a/b/memory.high", "max\n");
  put("/sys/fs/cgroup/a/b/memory.current", "400000\n");
  EXPECT_EQ(spare_bytes(root_), 900U * 1024);
  put("/sys/fs/cgroup/a/memory.max", "640000\n");
  put("/sys/fs/cgroup/a/memory.current", "400000\n");
  EXPECT_EQ(spare_bytes(root_), 200000U);
  // Files that were read are given back when memory is wanted.
  put("/sys/fs/cgroup/a/memory.stat", "anon 5\ninactive_file 50000\n");
  EXPECT_EQ(spare_bytes(root_), 250000U);
  put("/sys/fs/cgroup/a/b/memory.high", "480000\n");
  EXPECT_EQ(spare_bytes(root_), 50000U);
  // A container's own limit, at the root of what it sees.
  put("/sys/fs/cgroup/memory.max", "160000\n");
  put("/sys/fs/cgroup/memory.current", "160000\n");
  EXPECT_EQ(spare_bytes(root_), 0U);
}

}  // namespace
}  // namespace vgpu::host_memory
