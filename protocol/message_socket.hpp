// Sending and receiving one message with descriptors over a SOCK_SEQPACKET socket. Messages are plain
// structs; the first u32 of each is its type (handshake.hpp).
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string>
#include <tl/expected.hpp>
#include <type_traits>
#include <utility>
#include <vector>

#include "protocol/unique_fd.hpp"

namespace vgpu {

/// A message as received: its bytes and the descriptors that came with it (close-on-exec, owned).
struct Message {
  std::vector<std::byte> bytes;
  std::vector<UniqueFd> fds;
  bool closed = false;  ///< the peer has hung up; bytes is empty
  bool none = false;    ///< nothing was there within the timeout

  /// The message as a T if it has exactly T's size and type.
  template <class T>
  const T* as() const {
    static_assert(std::is_trivially_copyable_v<T>);
    if (bytes.size() != sizeof(T)) return nullptr;
    const T* value = reinterpret_cast<const T*>(bytes.data());
    return value->type == T::message_type ? value : nullptr;
  }
};

/// Sends `bytes` with up to 8 descriptors (which stay the caller's). Never raises SIGPIPE. The error is a
/// sentence.
tl::expected<void, std::string> send_message(int socket, std::span<const std::byte> bytes,
                                             std::span<const int> fds = {});

/// The same, but never waits: false when the socket is full or the peer gone.
bool try_send_message(int socket, std::span<const std::byte> bytes);

template <class T>
tl::expected<void, std::string> send_message(int socket, const T& message, std::span<const int> fds = {}) {
  static_assert(std::is_trivially_copyable_v<T>);
  return send_message(socket, std::as_bytes(std::span(&message, 1)), fds);
}

/// Receives one message of at most 64 KiB. Waits at most `timeout_ms` (-1: for ever, 0: not at all).
tl::expected<Message, std::string> receive_message(int socket, int timeout_ms);

/// A connected pair of SEQPACKET sockets, close-on-exec.
tl::expected<std::pair<UniqueFd, UniqueFd>, std::string> message_socket_pair();

/// True when the peer of `socket` has hung up.
bool peer_hung_up(int socket);

/// Connects to a listening SEQPACKET socket by path. Does not wait longer than `timeout_ms`.
tl::expected<UniqueFd, std::string> connect_message_socket(const std::string& path, int timeout_ms);

}  // namespace vgpu
