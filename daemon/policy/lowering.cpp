#include "daemon/policy/lowering.hpp"

#include <algorithm>

namespace vgpu::daemon {

std::string why_not_lower(const ClassConfig& wanted, const ClassConfig& granted) {
  const auto above = [](const char* key) {
    return std::string("'") + key + "' would be above what the policy gives; that needs an administrator";
  };
  // 0 is no limit.
  const auto less = [](std::uint64_t value, std::uint64_t limit) {
    return limit == 0 || (value != 0 && value <= limit);
  };
  if (wanted.weight > granted.weight) return above("weight");
  if (wanted.priority < granted.priority) return above("priority");
  if (!less(wanted.memory_quota.value_or(0), granted.memory_quota.value_or(0))) return above("memory_quota");
  if (!less(wanted.launch_rate, granted.launch_rate)) return above("launch_rate");
  if (!less(wanted.bandwidth.value_or(0), granted.bandwidth.value_or(0))) return above("bandwidth");
  ClassConfig rest = wanted;
  rest.weight = granted.weight;
  rest.priority = granted.priority;
  rest.memory_quota = granted.memory_quota;
  rest.launch_rate = granted.launch_rate;
  rest.bandwidth = granted.bandwidth;
  if (rest != granted) {
    return "the owner of a client may change weight, priority, memory_quota, launch_rate and bandwidth only";
  }
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
