// Sharing memory, pools and events between two clients of one user: the tokens that their programs pass to
// each other, and what workers and broker say about them. A program never sees the driver's own handle, which
// a reader of it could guess or forge: it gets a token, an unguessable number under which its worker has
// shown the driver's handle to the broker; the worker of the program that presents the token asks the broker
// for it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "protocol/handshake.hpp"

namespace vgpu {

inline constexpr std::size_t ipc_handle_bytes = 64;  ///< CU_IPC_HANDLE_SIZE

/// 256 bits of the kernel's random source.
using IpcToken = std::array<std::uint8_t, 32>;

/// What a token names. The numbers are part of the protocol.
enum class IpcKind : std::uint32_t {
  memory = 1,        ///< cuIpcGetMemHandle
  event = 2,         ///< cuIpcGetEventHandle
  allocation = 3,    ///< cuMemExportToShareableHandle
  pool = 4,          ///< cuMemPoolExportToShareableHandle
  pool_pointer = 5,  ///< cuMemPoolExportPointer
};

constexpr bool is_ipc_kind(IpcKind kind) {
  return kind >= IpcKind::memory && kind <= IpcKind::pool_pointer;
}
/// Whether the driver's handle is a descriptor, instead of 64 bytes.
constexpr bool has_descriptor(IpcKind kind) {
  return kind == IpcKind::allocation || kind == IpcKind::pool;
}

/// A fresh token; nothing when the kernel has no randomness to give.
std::optional<IpcToken> make_ipc_token();

/// Writes the 64 bytes that a program passes around.
void write_ipc_handle(const IpcToken& token, IpcKind kind, std::span<std::byte, ipc_handle_bytes> out);
/// The token in them; nothing when they are not a handle of this kind.
std::optional<IpcToken> read_ipc_handle(std::span<const std::byte, ipc_handle_bytes> handle, IpcKind kind);

enum class IpcAction : std::uint32_t {
  offer = 1,     ///< this token names `native`
  withdraw = 2,  ///< it names nothing any more; not answered
  resolve = 3,   ///< what does it name?
  orphaned = 4,  ///< has the session `maker` ended, and has nobody else who lives opened events of it?
};

/// Worker -> broker. An offer comes with the driver's descriptor if has_descriptor().
struct IpcRequest {
  static constexpr auto message_type = MessageType::ipc_request;
  MessageType type = message_type;
  IpcAction action = IpcAction::resolve;
  IpcKind kind = IpcKind::memory;
  std::uint32_t device = 0;  ///< offer: on which of its client's devices it lies
  std::uint64_t number = 0;  ///< comes back in the answer
  std::uint64_t maker = 0;   ///< orphaned: the session
  IpcToken token{};
  std::array<std::byte, ipc_handle_bytes> native{};  ///< offer: the driver's handle
};

enum class IpcResult : std::uint32_t {
  done = 0,          ///< orphaned: yes; else it is not so, or not known
  unknown = 1,       ///< no such token, of another kind, or another user's
  other_device = 2,  ///< it lies on a device that the one who asks does not have
  full = 3,          ///< this client has offered too much
  later = 4,         ///< just restarted, or a VM has just begun: the broker does not know all yet
};

/// Broker -> worker. To a resolve it comes with the driver's descriptor if has_descriptor().
struct IpcAnswer {
  static constexpr auto message_type = MessageType::ipc_answer;
  MessageType type = message_type;
  IpcResult result = IpcResult::unknown;
  std::uint64_t number = 0;
  std::uint64_t maker = 0;  ///< resolve: the session that offered it
  std::array<std::byte, ipc_handle_bytes> native{};
};

/// Broker -> worker, after a restart: offer again what you have offered.
struct IpcAgain {
  static constexpr auto message_type = MessageType::ipc_again;
  MessageType type = message_type;
  std::uint32_t reserved = 0;
};

}  // namespace vgpu
