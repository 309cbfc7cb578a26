#include "libclient/cuda/kernel_parameters.hpp"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <numeric>

namespace vgpu::client {
namespace {

TEST(ParameterLayout, PacksEachArgumentAtItsOffset) {
  const ParameterLayout layout({{0, 8}, {8, 4}, {16, 24}});
  ASSERT_EQ(layout.total_bytes(), 40U);
  std::uint64_t pointer = 0x1122334455667788;
  float scale = 1.5F;
  std::array<char, 24> block{};
  std::iota(block.begin(), block.end(), 'a');
  std::array<void*, 3> arguments{&pointer, &scale, block.data()};
  std::array<std::byte, 40> packed{};
  layout.pack(arguments.data(), packed.data());
  EXPECT_EQ(std::memcmp(packed.data(), &pointer, 8), 0);
  const auto scale_bits = std::bit_cast<std::uint32_t>(scale);
  EXPECT_EQ(std::memcmp(packed.data() + 8, &scale_bits, 4), 0);
  EXPECT_EQ(std::memcmp(packed.data() + 16, block.data(), 24), 0);
  EXPECT_EQ(packed[12], std::byte{0});
}

TEST(ParameterLayout, IsEmptyForAKernelWithoutParameters) {
  const ParameterLayout layout;
  EXPECT_EQ(layout.total_bytes(), 0U);
  layout.pack(nullptr, nullptr);
}

TEST(ExtraList, GivesTheBufferAndItsSize) {
  std::array<char, 12> data{};
  std::size_t bytes = data.size();
  std::array<void*, 5> extra{CU_LAUNCH_PARAM_BUFFER_POINTER, data.data(), CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes,
                             CU_LAUNCH_PARAM_END};
  ExtraBuffer buffer;
  ASSERT_EQ(read_extra(extra.data(), buffer), CUDA_SUCCESS);
  EXPECT_EQ(buffer.data, data.data());
  EXPECT_EQ(buffer.bytes, 12U);
}

TEST(ExtraList, RefusesUnknownKeysAndMissingSizes) {
  int anything = 0;
  ExtraBuffer buffer;
  std::array<void*, 3> unknown{reinterpret_cast<void*>(0x77), &anything, CU_LAUNCH_PARAM_END};
  EXPECT_EQ(read_extra(unknown.data(), buffer), CUDA_ERROR_INVALID_VALUE);
  std::array<void*, 3> no_size{CU_LAUNCH_PARAM_BUFFER_POINTER, &anything, CU_LAUNCH_PARAM_END};
  EXPECT_EQ(read_extra(no_size.data(), buffer), CUDA_ERROR_INVALID_VALUE);
}

}  // namespace
}  // namespace vgpu::client
