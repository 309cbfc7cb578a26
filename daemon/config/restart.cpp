#include "daemon/config/restart.hpp"

#include <algorithm>

namespace vgpu::daemon {
namespace {

// Collects the names of the keys whose values differ.
class Differences {
 public:
  template <class Value>
  void compare(const std::string& key, const Value& running, const Value& wanted) {
    if (running != wanted) keys_.push_back(key);
  }
  void add(std::string key) { keys_.push_back(std::move(key)); }
  [[nodiscard]] std::vector<std::string> take() { return std::move(keys_); }

 private:
  std::vector<std::string> keys_;
};

// All but prestart and max_workers.
void compare_devices(const DeviceConfig& running, const DeviceConfig& wanted, Differences& keys) {
  const std::string of = "device " + running.name + " ";
  keys.compare(of + "kind", running.kind, wanted.kind);
  keys.compare(of + "ordinal", running.ordinal, wanted.ordinal);
  keys.compare(of + "driver", running.driver, wanted.driver);
  keys.compare(of + "sharing", running.sharing, wanted.sharing);
  keys.compare(of + "function", running.function, wanted.function);
  keys.compare(of + "ids", running.ids, wanted.ids);
  keys.compare(of + "policy", running.policy, wanted.policy);
  keys.compare(of + "pool", running.pool, wanted.pool);
  const OversubscribeConfig& before = running.oversubscribe;
  const OversubscribeConfig& after = wanted.oversubscribe;
  keys.compare(of + "oversubscribe.host_limit", before.host_limit, after.host_limit);
  keys.compare(of + "oversubscribe.minimum_residence", before.minimum_residence, after.minimum_residence);
  keys.compare(of + "oversubscribe.idle_after", before.idle_after, after.idle_after);
  keys.compare(of + "oversubscribe.context_memory", before.context_memory, after.context_memory);
  keys.compare(of + "oversubscribe.reserve", before.reserve, after.reserve);
}

const DeviceConfig* find(const std::vector<DeviceConfig>& devices, const std::string& name) {
  const auto found =
      std::find_if(devices.begin(), devices.end(), [&](const auto& device) { return device.name == name; });
  return found != devices.end() ? &*found : nullptr;
}

}  // namespace

std::vector<std::string> needs_restart(const Config& running, const Config& wanted) {
  Differences keys;
  keys.compare("socket", running.socket, wanted.socket);
  keys.compare("control", running.control, wanted.control);
  keys.compare("group", running.group, wanted.group);
  keys.compare("worker", running.worker, wanted.worker);
  keys.compare("sysfs_root", running.sysfs_root, wanted.sysfs_root);
  keys.compare("limits control_connections", running.limits.control_connections,
               wanted.limits.control_connections);
  const PolicyOptions& before = running.scheduler.policy;
  const PolicyOptions& after = wanted.scheduler.policy;
  keys.compare("scheduler quantum", before.quantum, after.quantum);
  keys.compare("scheduler idle_after", before.idle_after, after.idle_after);
  keys.compare("scheduler linger", before.linger, after.linger);
  keys.compare("scheduler aging", before.aging, after.aging);
  keys.compare("scheduler anticipate", before.anticipate, after.anticipate);
  keys.compare("scheduler slice", before.slice, after.slice);
  keys.compare("scheduler turn", before.turn, after.turn);
  keys.compare("scheduler lead", before.lead, after.lead);
  for (const DeviceConfig& device : running.devices) {
    const DeviceConfig* same = find(wanted.devices, device.name);
    if (same != nullptr) {
      compare_devices(device, *same, keys);
    } else {
      keys.add("device " + device.name);
    }
  }
  for (const DeviceConfig& device : wanted.devices) {
    if (find(running.devices, device.name) == nullptr) keys.add("device " + device.name);
  }
  return keys.take();
}

std::string listed(const std::vector<std::string>& words) {
  std::string all;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i > 0) all += i + 1 == words.size() ? " and " : ", ";
    all += words[i];
  }
  return all;
}

}  // namespace vgpu::daemon
