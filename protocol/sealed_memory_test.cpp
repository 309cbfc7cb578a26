#include "protocol/sealed_memory.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

namespace vgpu {
namespace {

TEST(SealedMemory, HasItsSizeForEver) {
  const UniqueFd fd = sealed_memory("test", 3 * 4096);
  ASSERT_TRUE(fd);
  EXPECT_EQ(sealed_bytes(fd.get()), 3U * 4096);
  EXPECT_NE(ftruncate(fd.get(), 4096), 0);
  EXPECT_NE(ftruncate(fd.get(), 4 * 4096), 0);
  EXPECT_NE(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE), 0);
  EXPECT_EQ(pwrite(fd.get(), "x", 1, 4096), 1);
  EXPECT_EQ(sealed_bytes(fd.get()), 3U * 4096);
}

TEST(SealedMemory, WhatMayShrinkHasNoSize) {
  EXPECT_FALSE(sealed_bytes(-1));
  EXPECT_FALSE(sealed_bytes(STDIN_FILENO));
  const UniqueFd open(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(open.get(), 4096), 0);
  EXPECT_FALSE(sealed_bytes(open.get()));
  ASSERT_EQ(fcntl(open.get(), F_ADD_SEALS, F_SEAL_GROW), 0);
  EXPECT_FALSE(sealed_bytes(open.get()));
  ASSERT_EQ(fcntl(open.get(), F_ADD_SEALS, F_SEAL_SHRINK), 0);
  EXPECT_EQ(sealed_bytes(open.get()), 4096U);
}

}  // namespace
}  // namespace vgpu
