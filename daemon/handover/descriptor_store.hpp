// Descriptors that outlive this process: copies kept by the service manager (systemd's file descriptor store)
// and handed to the vgpud that it starts next. Knows names, not what the descriptors mean.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "protocol/unique_fd.hpp"

namespace vgpu::daemon {

// Descriptors of one owner, by part.
using KeptParts = std::map<std::string, UniqueFd>;

// Each descriptor is kept under an owner ("session-12") and a part ("channel"); an owner's parts go together.
// Without a service manager all functions are present and keep nothing: what a vgpud holds ends with it.
// Belongs to one thread.
class DescriptorStore {
 public:
  // Takes what an earlier vgpud left behind; see take_all().
  DescriptorStore();
  DescriptorStore(const DescriptorStore&) = delete;
  DescriptorStore& operator=(const DescriptorStore&) = delete;

  // True where a service manager may keep descriptors. Whether it does (FileDescriptorStoreMax=) it does not
  // say: what is kept must end by itself when its last copy is closed.
  [[nodiscard]] bool enabled() const { return enabled_; }

  // Keeps a copy of `fd`, which stays the caller's. Names: printable ASCII without ':' and '/'.
  void keep(const std::string& owner, const std::string& part, int fd);
  // Forgets all parts of an owner, those included that an earlier vgpud kept; harmless when there is none.
  void drop(const std::string& owner);

  // What an earlier vgpud kept and nobody has taken yet, by owner. It remains kept until drop().
  [[nodiscard]] std::map<std::string, KeptParts> take_all(std::string_view owner_prefix);

 private:
  bool enabled_;
  std::map<std::string, KeptParts> inherited_;
  std::map<std::string, std::vector<std::string>> kept_;  // parts by owner
};

}  // namespace vgpu::daemon
