#include "libclient/cuda/page_swap.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstring>

namespace vgpu::client {
namespace {

class PageSwap : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kSize = 4 * 4096;
  void SetUp() override {
    pages_ = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(pages_, MAP_FAILED);
    file_ = memfd_create("page-swap-test", MFD_CLOEXEC);
    ASSERT_EQ(ftruncate(file_, kSize), 0);
  }
  void TearDown() override {
    munmap(pages_, kSize);
    close(file_);
  }
  std::uint64_t begin() const { return reinterpret_cast<std::uint64_t>(pages_); }
  char* data() const { return static_cast<char*>(pages_); }

  void* pages_ = nullptr;
  int file_ = -1;
};

TEST_F(PageSwap, KeepsContentsAndSharesLaterWrites) {
  std::memcpy(data() + 5000, "before", sizeof "before");
  ASSERT_TRUE(can_swap_pages(begin(), kSize, begin() + 16, kSize - 100));
  ASSERT_TRUE(swap_pages_for_file(begin(), kSize, file_));
  EXPECT_STREQ(data() + 5000, "before");
  std::memcpy(data() + 6000, "after", sizeof "after");
  std::array<char, 8> seen{};
  ASSERT_EQ(pread(file_, seen.data(), seen.size(), 6000), 8);
  EXPECT_STREQ(seen.data(), "after");
}

TEST_F(PageSwap, KeepsApartWhatIsWrittenLater) {
  std::memcpy(data(), "before", sizeof "before");
  ASSERT_TRUE(swap_pages_for_file(begin(), kSize, file_));
  ASSERT_TRUE(part_with_file(begin(), kSize, file_));
  EXPECT_STREQ(data(), "before");
  data()[0] = 'B';
  char first = 0;
  ASSERT_EQ(pread(file_, &first, 1, 0), 1);
  EXPECT_EQ(first, 'b');
}

TEST_F(PageSwap, GivesPrivatePagesBack) {
  ASSERT_TRUE(swap_pages_for_file(begin(), kSize, file_));
  std::memcpy(data(), "kept", sizeof "kept");
  ASSERT_TRUE(swap_pages_for_private(begin(), kSize));
  EXPECT_STREQ(data(), "kept");
  data()[0] = 'K';
  char first = 0;
  ASSERT_EQ(pread(file_, &first, 1, 0), 1);
  EXPECT_EQ(first, 'k');
}

TEST_F(PageSwap, RefusesFilesReadOnlyPagesHolesAndTheStack) {
  EXPECT_TRUE(can_swap_pages(begin(), kSize, begin(), kSize));
  ASSERT_EQ(mprotect(pages_, 4096, PROT_READ), 0);
  EXPECT_FALSE(can_swap_pages(begin(), kSize, begin(), kSize));
  ASSERT_EQ(munmap(data() + 4096, 4096), 0);
  EXPECT_FALSE(can_swap_pages(begin(), kSize, begin(), kSize));
  int local = 0;
  const std::uint64_t page = reinterpret_cast<std::uint64_t>(&local) / 4096 * 4096;
  EXPECT_FALSE(can_swap_pages(page, 4096, page, 4096));
}

}  // namespace
}  // namespace vgpu::client
