#include "daemon/control/requester.hpp"

#include <unistd.h>

#include <algorithm>

namespace vgpu::daemon {

namespace {

bool is_member(const Requester& who, const std::optional<gid_t>& group) {
  return group &&
         (who.gid == *group || std::find(who.groups.begin(), who.groups.end(), *group) != who.groups.end());
}

}  // namespace

bool is_administrator(const Requester& who, const Config& config) {
  return who.uid == 0 || who.uid == geteuid() || is_member(who, config.admin_gid);
}

bool sees_all(const Requester& who, const Config& config) {
  return is_administrator(who, config) || is_member(who, config.monitor_gid);
}

}  // namespace vgpu::daemon
