// Makes the broker's listening unix sockets. Replaces the socket that a dead broker left behind, never a
// living one's, nor anything that is no socket.
#pragma once

#include <string>
#include <tl/expected.hpp>

#include "protocol/unique_fd.hpp"

namespace vgpu::daemon {

// A listening socket at `path` and the duty to remove it: the file goes with the object. Movable.
class ListeningPath {
 public:
  ListeningPath() = default;
  ListeningPath(ListeningPath&& other) noexcept;
  ListeningPath& operator=(ListeningPath&& other) noexcept;
  ListeningPath(const ListeningPath&) = delete;
  ListeningPath& operator=(const ListeningPath&) = delete;
  ~ListeningPath();

  // Binds and listens. `type`: SOCK_SEQPACKET or SOCK_STREAM. Makes the parent folder if it is missing. The
  // file gets mode 0660 and the group `group`, or mode 0600 where that group is empty, does not exist or
  // cannot be given. The error is a sentence.
  [[nodiscard]] static tl::expected<ListeningPath, std::string> create(const std::string& path, int type,
                                                                       const std::string& group);

  // The socket, which the caller takes over; the path stays ours.
  UniqueFd take_socket() { return std::move(socket_); }

 private:
  void remove();

  UniqueFd socket_;
  std::string path_;
};

}  // namespace vgpu::daemon
