#include "daemon/stub/host/ivshmem_server.hpp"

#include <endian.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "daemon/base/log.hpp"

namespace vgpu::daemon::stub_host {
namespace {

constexpr std::int64_t kProtocolVersion = 0;
constexpr std::int64_t kMemoryFollows = -1;

// One number, perhaps with a descriptor. The socket's buffer is empty and holds far more than what is sent.
bool send_number(int socket, std::int64_t number, int fd = -1) {
  std::uint64_t wire = htole64(static_cast<std::uint64_t>(number));
  iovec part{&wire, sizeof wire};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == static_cast<ssize_t>(sizeof wire);
}

}  // namespace

IvshmemServer::IvshmemServer(EventLoop& loop, Callbacks callbacks)
    : loop_(loop), callbacks_(std::move(callbacks)) {}

IvshmemServer::~IvshmemServer() {
  if (listener_) loop_.forget(listener_.get());
  if (qemu_) loop_.forget(qemu_.get());
}

tl::expected<void, std::string> IvshmemServer::listen(const std::string& path, const std::string& group) {
  auto made = ListeningPath::create(path, SOCK_STREAM, group);
  if (!made) return tl::unexpected(made.error());
  listener_ = made->take_socket();
  path_ = std::move(*made);
  loop_.watch(listener_.get(), EPOLLIN, [this](std::uint32_t) { accept_one(); });
  return {};
}

void IvshmemServer::accept_one() {
  UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket) return;
  if (qemu_) {
    // Two guests in one memory would write over each other.
    if (lines_.allows()) log::warning("a second QEMU was turned away from a VM's socket");
    return;
  }
  const std::int64_t peer = next_peer_++;
  const Device device = callbacks_.on_connect();
  if (device.doorbells == nullptr) return;
  if (!introduce(socket.get(), peer, device)) {
    const int why = errno;
    if (lines_.allows())
      log::warning("QEMU could not be given the VM's memory reason={}", std::strerror(why));
    callbacks_.on_disconnect();  // it may have been told a part
    return;
  }
  qemu_ = std::move(socket);
  loop_.watch(qemu_.get(), EPOLLIN | EPOLLRDHUP, [this](std::uint32_t) { on_qemu(); });
  callbacks_.on_served(qemu_.get());
}

void IvshmemServer::adopt(UniqueFd qemu, std::int64_t next_peer) {
  next_peer_ = next_peer;
  qemu_ = std::move(qemu);
  if (qemu_) loop_.watch(qemu_.get(), EPOLLIN | EPOLLRDHUP, [this](std::uint32_t) { on_qemu(); });
}

bool IvshmemServer::introduce(int socket, std::int64_t peer, const Device& device) {
  for (UniqueFd& doorbell : guest_doorbells_) doorbell.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!send_number(socket, kProtocolVersion) || !send_number(socket, peer) ||
      !send_number(socket, kMemoryFollows, device.memory)) {
    return false;
  }
  for (const UniqueFd& doorbell : *device.doorbells) {
    if (!send_number(socket, host_peer, doorbell.get())) return false;
  }
  for (const UniqueFd& doorbell : guest_doorbells_) {
    if (!doorbell || !send_number(socket, peer, doorbell.get())) return false;
  }
  return true;
}

void IvshmemServer::on_qemu() {
  std::array<char, 256> ignored{};
  const ssize_t got = recv(qemu_.get(), ignored.data(), ignored.size(), MSG_DONTWAIT);
  if (got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR))) return;
  loop_.forget(qemu_.get());
  qemu_.reset();
  callbacks_.on_disconnect();
}

}  // namespace vgpu::daemon::stub_host
