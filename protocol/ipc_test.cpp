// The 64 bytes that programs pass to each other.
#include "protocol/ipc.hpp"

#include <gtest/gtest.h>

namespace vgpu {
namespace {

using Bytes = std::array<std::byte, ipc_handle_bytes>;

TEST(IpcHandle, HoldsItsTokenForOneKindOnly) {
  const auto token = make_ipc_token();
  ASSERT_TRUE(token);
  Bytes handle{};
  write_ipc_handle(*token, IpcKind::event, handle);
  EXPECT_EQ(read_ipc_handle(handle, IpcKind::event), token);
  EXPECT_FALSE(read_ipc_handle(handle, IpcKind::memory));
}

TEST(IpcHandle, TokensDiffer) {
  EXPECT_NE(make_ipc_token(), make_ipc_token());
}

TEST(IpcHandle, RefusesWhatItDidNotWrite) {
  EXPECT_FALSE(read_ipc_handle(Bytes{}, IpcKind::memory));
  Bytes handle{};
  write_ipc_handle(IpcToken{1}, IpcKind::memory, handle);
  for (const std::size_t at : {std::size_t{0}, std::size_t{13}, std::size_t{63}}) {
    Bytes broken = handle;
    broken[at] ^= std::byte{1};
    EXPECT_FALSE(read_ipc_handle(broken, IpcKind::memory)) << at;
  }
}

}  // namespace
}  // namespace vgpu
