// Reads who the process at the other end of a socket is: SO_PEERCRED, a pidfd, /proc. Never trusts what it
// says itself.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "daemon/policy/policy.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu::daemon {

// A connected peer: who, and a pidfd that becomes readable when that process has ended.
struct Peer {
  Identity identity;
  UniqueFd pidfd;
};

// Credentials of the process that connected `socket_fd` (a unix socket). The pidfd is the kernel's own
// (SO_PEERPIDFD, Linux 6.5) or opened and checked against reuse of the pid. Reads a few small files of /proc.
[[nodiscard]] tl::expected<Peer, std::string> identify_peer(int socket_fd);

// Only uid and pid, without /proc: for connections that have not earned more work yet. (uid_t)-1 on failure.
[[nodiscard]] uid_t peer_uid(int socket_fd);

// The supplementary groups of the process that connected `socket_fd`, when it did; empty when there are none.
[[nodiscard]] std::vector<gid_t> peer_groups(int socket_fd);

// The systemd unit that a cgroup path belongs to: the last component ending in .service, .scope or the like;
// empty when there is none.
[[nodiscard]] std::string unit_of_cgroup(std::string_view cgroup);

// The parents of `pid`, nearest first, at most 32; ends at init or where /proc cannot be read.
[[nodiscard]] std::vector<pid_t> ancestors_of(pid_t pid);

}  // namespace vgpu::daemon
