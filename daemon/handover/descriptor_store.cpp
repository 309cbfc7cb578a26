#include "daemon/handover/descriptor_store.hpp"

#include <algorithm>

#include "daemon/service/systemd.hpp"

namespace vgpu::daemon {

DescriptorStore::DescriptorStore() : enabled_(systemd::may_store()) {
  for (systemd::StoredFd& stored : systemd::take_stored()) {
    const auto slash = stored.name.find('/');
    if (slash == std::string::npos) continue;
    const std::string owner = stored.name.substr(0, slash);
    const std::string part = stored.name.substr(slash + 1);
    kept_[owner].push_back(part);
    inherited_[owner][part] = std::move(stored.fd);
  }
}

void DescriptorStore::keep(const std::string& owner, const std::string& part, int fd) {
  if (!enabled_) return;
  std::vector<std::string>& parts = kept_[owner];
  if (std::find(parts.begin(), parts.end(), part) == parts.end()) parts.push_back(part);
  systemd::store(owner + "/" + part, fd);
}

void DescriptorStore::drop(const std::string& owner) {
  const auto found = kept_.find(owner);
  if (found == kept_.end()) return;
  const std::string prefix = owner + "/";
  for (const std::string& part : found->second) systemd::unstore(std::string(prefix).append(part));
  kept_.erase(found);
  inherited_.erase(owner);
}

std::map<std::string, KeptParts> DescriptorStore::take_all(std::string_view owner_prefix) {
  std::map<std::string, KeptParts> taken;
  for (auto entry = inherited_.begin(); entry != inherited_.end();) {
    if (entry->first.rfind(owner_prefix, 0) == 0) {
      taken.insert(inherited_.extract(entry++));
    } else {
      ++entry;
    }
  }
  return taken;
}

}  // namespace vgpu::daemon
