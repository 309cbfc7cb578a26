#include "daemon/policy/peer.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstring>

#include "protocol/errno_text.hpp"

namespace vgpu::daemon {
namespace {

#ifndef SO_PEERPIDFD
constexpr int kSoPeerPidfd = 77;  // include/uapi/asm-generic/socket.h, Linux 6.5
#else
constexpr int kSoPeerPidfd = SO_PEERPIDFD;
#endif

constexpr std::size_t kMaxAncestors = 32;

// The first 4 KiB of a file of /proc; empty when it cannot be read.
std::string read_small(const std::string& path) {
  const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, 4096> buffer{};
  const ssize_t size = file ? read(file.get(), buffer.data(), buffer.size()) : -1;
  return size > 0 ? std::string(buffer.data(), static_cast<std::size_t>(size)) : std::string();
}

std::string proc(pid_t pid, const char* file) {
  return "/proc/" + std::to_string(pid) + "/" + file;
}

std::string read_executable(pid_t pid) {
  std::array<char, PATH_MAX> buffer{};
  const ssize_t size = readlink(proc(pid, "exe").c_str(), buffer.data(), buffer.size());
  return size > 0 ? std::string(buffer.data(), static_cast<std::size_t>(size)) : std::string();
}

std::string read_cgroup(pid_t pid) {
  const std::string text = read_small(proc(pid, "cgroup"));
  const auto line = text.rfind("0::", 0) == 0 ? 0 : text.find("\n0::");
  if (line == std::string::npos) return {};
  const auto start = text.find("0::", line) + 3;
  return text.substr(start, text.find('\n', start) - start);
}

pid_t parent_of(pid_t pid) {
  const std::string text = read_small(proc(pid, "stat"));
  const auto close = text.rfind(')');  // the name before it may hold anything
  if (close == std::string::npos || close + 4 >= text.size()) return 0;
  pid_t parent = 0;
  std::from_chars(text.data() + close + 4, text.data() + text.size(), parent);
  return parent;
}

bool has_ended(int pidfd) {
  pollfd poll_entry{pidfd, POLLIN, 0};
  return poll(&poll_entry, 1, 0) > 0;
}

UniqueFd pidfd_of(int socket_fd, pid_t pid) {
  int fd = -1;
  socklen_t size = sizeof fd;
  if (getsockopt(socket_fd, SOL_SOCKET, kSoPeerPidfd, &fd, &size) == 0) return UniqueFd(fd);
  return UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
}

}  // namespace

std::string unit_of_cgroup(std::string_view cgroup) {
  static constexpr std::array<std::string_view, 4> suffixes{".service", ".scope", ".socket", ".mount"};
  while (!cgroup.empty()) {
    const auto slash = cgroup.rfind('/');
    const std::string_view name = cgroup.substr(slash == std::string_view::npos ? 0 : slash + 1);
    for (const std::string_view suffix : suffixes) {
      if (name.size() > suffix.size() && name.substr(name.size() - suffix.size()) == suffix) {
        return std::string(name);
      }
    }
    cgroup = cgroup.substr(0, slash == std::string_view::npos ? 0 : slash);
  }
  return {};
}

std::vector<pid_t> ancestors_of(pid_t pid) {
  std::vector<pid_t> result;
  for (pid_t at = parent_of(pid); at > 1 && result.size() < kMaxAncestors; at = parent_of(at)) {
    if (std::find(result.begin(), result.end(), at) != result.end()) break;
    result.push_back(at);
  }
  return result;
}

uid_t peer_uid(int socket_fd) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (getsockopt(socket_fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return static_cast<uid_t>(-1);
  return credentials.uid;
}

std::vector<gid_t> peer_groups(int socket_fd) {
  std::vector<gid_t> groups(256);
  auto size = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
  int result = getsockopt(socket_fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size);
  if (result != 0 && errno == ERANGE) {  // socket(7): size now says how much is needed
    groups.resize(size / sizeof(gid_t));
    result = getsockopt(socket_fd, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size);
  }
  groups.resize(result == 0 ? size / sizeof(gid_t) : 0);
  return groups;
}

tl::expected<Peer, std::string> identify_peer(int socket_fd) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (getsockopt(socket_fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0 || credentials.pid <= 0) {
    return tl::unexpected(std::string("the peer's credentials are not available"));
  }
  Peer peer;
  peer.pidfd = pidfd_of(socket_fd, credentials.pid);
  if (!peer.pidfd) return tl::unexpected(errno_text("pidfd"));
  Identity& who = peer.identity;
  who.pid = credentials.pid;
  who.uid = credentials.uid;
  who.gid = credentials.gid;
  who.groups = peer_groups(socket_fd);
  who.executable = read_executable(who.pid);
  who.cgroup = read_cgroup(who.pid);
  who.unit = unit_of_cgroup(who.cgroup);
  who.ancestors = ancestors_of(who.pid);
  const std::string name = read_small(proc(who.pid, "comm"));
  who.program = who.executable.empty() ? name.substr(0, name.find('\n'))
                                       : who.executable.substr(who.executable.rfind('/') + 1);
  // All of /proc above belongs to that process only if it was still alive after the last read.
  if (has_ended(peer.pidfd.get())) return tl::unexpected(std::string("the process has already ended"));
  return peer;
}

}  // namespace vgpu::daemon
