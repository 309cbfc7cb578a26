// QEMU's end of an ivshmem-doorbell socket, for tests. Source of the protocol: QEMU,
// docs/specs/ivshmem-spec.rst.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <filesystem>

#include "protocol/unique_fd.hpp"

namespace vgpu::daemon::testing {

// What the server says: a number, perhaps with a descriptor; INT64_MIN: nothing has come.
struct Number {
  std::int64_t value = INT64_MIN;
  UniqueFd fd;
};

inline Number receive_number(int socket) {
  Number number;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  iovec part{&number.value, sizeof number.value};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  if (recvmsg(socket, &message, MSG_DONTWAIT) != sizeof number.value) return {};
  if (const cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr && header->cmsg_type == SCM_RIGHTS) {
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
    number.fd.reset(fd);
  }
  return number;
}

// None when nobody listens there.
inline UniqueFd connect_to(const std::filesystem::path& path) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.string().copy(address.sun_path, sizeof address.sun_path - 1);
  if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) socket.reset();
  return socket;
}

}  // namespace vgpu::daemon::testing
