#include "daemon/policy/lowering.hpp"

#include <algorithm>

namespace vgpu::daemon {

std::string why_not_lower(const ClassConfig& wanted, const ClassConfig& granted) {
  const auto above = [](const char* key) {
    return std::string("'") + key + "' would be above what the policy gives; that needs an administrator";
  };
  if (wanted.weight > granted.weight) return above("weight");
  if (granted.memory_quota && (!wanted.memory_quota || *wanted.memory_quota > *granted.memory_quota)) {
    return above("memory_quota");
  }
  ClassConfig rest = wanted;
  rest.weight = granted.weight;
  rest.memory_quota = granted.memory_quota;
  if (rest != granted) return "the owner of a client may change weight and memory_quota only";
  return {};
}

Settings merge_settings(Settings base, const Settings& settings) {
  for (const auto& [key, value] : settings) {
    const auto same = std::find_if(base.begin(), base.end(), [&, &wanted = key](const auto& present) {
      return present.first == wanted;
    });
    if (same == base.end()) {
      base.emplace_back(key, value);
    } else {
      same->second = value;
    }
  }
  return base;
}

}  // namespace vgpu::daemon
