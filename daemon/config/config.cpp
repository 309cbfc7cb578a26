#include "daemon/config/config.hpp"

#include <filesystem>

namespace vgpu::daemon {

const char* to_string(DeviceKind kind) {
  switch (kind) {
    case DeviceKind::automatic:
      return "auto";
    case DeviceKind::software:
      return "software";
    case DeviceKind::cuda:
      return "cuda";
    case DeviceKind::stub:
      return "stub";
  }
  return "auto";
}

const char* to_string(Priority priority) {
  switch (priority) {
    case Priority::high:
      return "high";
    case Priority::medium:
      return "medium";
    case Priority::low:
      return "low";
  }
  return "medium";
}

Config default_config() {
  Config config;
  DeviceConfig device;
  device.name = "gpu0";
  config.devices.push_back(device);
  ClassConfig fallback;
  fallback.name = "default";
  config.classes.emplace(fallback.name, fallback);
  return config;
}

std::string vm_socket(const Config& config, const VmConfig& vm) {
  if (!vm.socket.empty()) return vm.socket;
  return std::filesystem::path(config.socket).parent_path() / "vm" / (vm.name + ".sock");
}

}  // namespace vgpu::daemon
