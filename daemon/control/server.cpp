#include "daemon/control/server.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "daemon/control/schema.hpp"
#include "daemon/policy/peer.hpp"

namespace vgpu::daemon {

ControlServer::ControlServer(EventLoop& loop, UniqueFd listener, unsigned max_connections, Handler handler)
    : loop_(loop),
      listener_(std::move(listener)),
      max_connections_(max_connections),
      handler_(std::move(handler)) {
  loop_.watch(listener_.get(), EPOLLIN, [this](std::uint32_t) { accept_one(); });
}

ControlServer::~ControlServer() {
  loop_.forget(listener_.get());
  for (const auto& [fd, connection] : connections_) loop_.forget(fd);
}

void ControlServer::accept_one() {
  UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket) return;
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return;
  const auto of_user =
      static_cast<unsigned>(std::count_if(connections_.begin(), connections_.end(), [&](const auto& entry) {
        return entry.second.who.uid == credentials.uid;
      }));
  const bool greedy = credentials.uid != 0 && of_user >= std::max(1U, max_connections_ / 4);
  if (greedy || connections_.size() >= max_connections_) return;
  const int fd = socket.get();
  if (!loop_.watch(fd, EPOLLIN, [this, fd](std::uint32_t events) { on_event(fd, events); })) return;
  Requester who{credentials.pid, credentials.uid, credentials.gid, peer_groups(fd)};
  connections_.emplace(fd, Connection{std::move(socket), std::move(who), {}, {}});
}

void ControlServer::on_event(int fd, std::uint32_t events) {
  Connection& connection = connections_.at(fd);
  bool good = (events & EPOLLERR) == 0;
  const bool waiting = connection.in.find('\n') != std::string::npos;
  if (good && !waiting && connection.out.empty() && (events & (EPOLLIN | EPOLLHUP)) != 0) {
    good = read_some(connection);
  }
  if (good) good = answer_one(connection) && write_some(connection);
  if (!good) {
    drop(fd);
    return;
  }
  // While an answer waits to be read no further request is taken: a peer that never reads costs one answer.
  // One request a turn, so that a peer that sends hundreds at once does not hold up clients.
  const bool more = !connection.out.empty() || connection.in.find('\n') != std::string::npos;
  loop_.change(fd, more ? EPOLLOUT : EPOLLIN);
}

bool ControlServer::read_some(Connection& connection) {
  std::array<char, 16384> buffer{};
  const ssize_t size = recv(connection.socket.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (size < 0) return errno == EAGAIN || errno == EINTR;
  if (size == 0) return false;
  connection.in.append(buffer.data(), static_cast<std::size_t>(size));
  return connection.in.size() <= control::kMaxRequest;
}

bool ControlServer::answer_one(Connection& connection) {
  if (!connection.out.empty()) return true;
  const std::size_t end = connection.in.find('\n');
  if (end == std::string::npos) return true;
  connection.out = handler_(connection.in.substr(0, end), connection.who) + "\n";
  connection.in.erase(0, end + 1);
  return connection.out.size() <= control::kMaxAnswer;
}

bool ControlServer::write_some(Connection& connection) {
  if (connection.out.empty()) return true;
  const ssize_t size = send(connection.socket.get(), connection.out.data(), connection.out.size(),
                            MSG_DONTWAIT | MSG_NOSIGNAL);
  if (size < 0) return errno == EAGAIN || errno == EINTR;
  connection.out.erase(0, static_cast<std::size_t>(size));
  return true;
}

void ControlServer::drop(int fd) {
  loop_.forget(fd);
  connections_.erase(fd);
}

}  // namespace vgpu::daemon
