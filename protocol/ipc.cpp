#include "protocol/ipc.hpp"

#include <sys/random.h>

#include <algorithm>
#include <cstring>

namespace vgpu {
namespace {

// What the 64 bytes hold; the rest is zero.
struct Layout {
  std::uint64_t magic;
  std::uint32_t kind;
  std::uint32_t reserved;
  IpcToken token;
  std::array<std::byte, 16> zero;
};
static_assert(sizeof(Layout) == ipc_handle_bytes);

constexpr std::uint64_t handle_magic = 0x3143504955504756;  // "VGPUIPC1"

}  // namespace

std::optional<IpcToken> make_ipc_token() {
  IpcToken token{};
  if (getrandom(token.data(), token.size(), 0) != static_cast<ssize_t>(token.size())) return std::nullopt;
  return token;
}

void write_ipc_handle(const IpcToken& token, IpcKind kind, std::span<std::byte, ipc_handle_bytes> out) {
  Layout layout{};
  layout.magic = handle_magic;
  layout.kind = static_cast<std::uint32_t>(kind);
  layout.token = token;
  std::memcpy(out.data(), &layout, sizeof layout);
}

std::optional<IpcToken> read_ipc_handle(std::span<const std::byte, ipc_handle_bytes> handle, IpcKind kind) {
  Layout layout{};
  std::memcpy(&layout, handle.data(), sizeof layout);
  const bool zero =
      std::all_of(layout.zero.begin(), layout.zero.end(), [](std::byte byte) { return byte == std::byte{}; });
  if (layout.magic != handle_magic || layout.kind != static_cast<std::uint32_t>(kind) ||
      layout.reserved != 0 || !zero) {
    return std::nullopt;
  }
  return layout.token;
}

}  // namespace vgpu
