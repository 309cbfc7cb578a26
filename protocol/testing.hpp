#pragma once
// What the protocol's tests share. Only for tests.
#include <gtest/gtest.h>

#include <memory>

#include "protocol/channel.hpp"

namespace vgpu::testing_support {

/// A mapped channel of its own memory, with an arena of 1 MiB.
inline std::unique_ptr<Channel> new_channel() {
  const auto fd = create_channel_memory(1 << 20);
  EXPECT_TRUE(fd);
  auto channel = Channel::attach(fd->get());
  EXPECT_TRUE(channel);
  return std::move(*channel);
}

}  // namespace vgpu::testing_support
