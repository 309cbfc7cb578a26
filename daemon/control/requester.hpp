// Who asks on the control socket, and what that allows. Knows configurations and numbers; never a socket.
#pragma once

#include <sys/types.h>

#include <vector>

#include "daemon/config/config.hpp"

namespace vgpu::daemon {

// Who asks, as the kernel says (SO_PEERCRED, SO_PEERGROUPS), when it connected.
struct Requester {
  pid_t pid = 0;
  uid_t uid = static_cast<uid_t>(-1);
  gid_t gid = static_cast<gid_t>(-1);
  std::vector<gid_t> groups;  // supplementary
};

// Root, the user that vgpud runs as, and members of the configuration's admin_group may do everything.
[[nodiscard]] bool is_administrator(const Requester& who, const Config& config);

// Administrators, and members of the configuration's monitor_group, see every user's clients.
[[nodiscard]] bool sees_all(const Requester& who, const Config& config);

// Whether a client of `owner` is the asking user's own.
[[nodiscard]] inline bool is_owner(const Requester& who, uid_t owner) {
  return who.uid == owner;
}

}  // namespace vgpu::daemon
