#include <bit>
#include <filesystem>
#include <map>
#include <set>

#include "daemon/config/sections.hpp"
#include "protocol/stub_layout.hpp"

namespace vgpu::daemon {
namespace {

std::string in_mebibytes(std::uint64_t bytes) {
  return std::to_string(bytes / mebibyte) + " MiB";
}

void check_size(const VmConfig& vm, ErrorSink& errors) {
  if (!std::has_single_bit(vm.bytes)) {
    errors.add(vm.place, "the size of a VM's memory must be a power of two");
    return;
  }
  if (stub::divide(vm.bytes, vm.slots).sound()) return;
  unsigned most = vm.slots;
  while (most > 0 && !stub::divide(vm.bytes, most).sound()) --most;
  errors.add(vm.place, "a memory of " + in_mebibytes(vm.bytes) + " has room for at most " +
                           std::to_string(most) + " slots, not " + std::to_string(vm.slots));
}

}  // namespace

void read_vms(const YAML::Node& node, bool main, Config& config, ErrorSink& errors) {
  if (!node.IsDefined() || node.IsNull()) return;
  if (!node.IsSequence()) {
    errors.add(node.Mark(), "'vms' must be a list");
    return;
  }
  if (main) config.vms.clear();
  std::set<std::string> names;
  for (const YAML::Node& item : node) {
    const std::string name = name_of(item);
    if (!good_name(name) || name.front() == '.') {
      errors.add(item.Mark(),
                 "a VM needs a name of letters, digits, '-', '_' and '.', not '.' first, at most 64");
    } else if (!names.insert(name).second) {
      errors.add(item.Mark(), "two VMs are named '" + name + "'");
    }
    auto found = find_named(config.vms, name);
    if (found == config.vms.end()) found = config.vms.emplace(config.vms.end());
    VmConfig& vm = *found;
    vm.place = errors.place(item.Mark());
    MapReader map(item, "a VM", errors);
    map.text("name", vm.name);
    map.size("size", vm.bytes, stub::least_memory, stub::most_memory);
    map.integer("slots", vm.slots, 1, stub::most_slots);
    if (map.child("class").IsDefined()) vm.class_place = errors.place(map.child("class").Mark());
    map.text("class", vm.class_name);
    if (map.child("device").IsDefined()) vm.device_place = errors.place(map.child("device").Mark());
    map.text("device", vm.device);
    map.path("socket", vm.socket);
    map.path("pci_tree", vm.pci_tree);
    map.duration("guest_timeout", vm.guest_timeout, std::chrono::milliseconds(1000));
    map.finish();
  }
}

void check_vms(const Config& config, ErrorSink& errors) {
  std::map<std::string, std::string> taken;  // whose each path is
  const auto normal = [](const std::string& path) {
    return std::filesystem::path(path).lexically_normal().string();
  };
  taken.emplace(normal(config.socket), "'socket'");
  taken.emplace(normal(config.control), "'control'");
  for (const VmConfig& vm : config.vms) {
    if (!vm.class_name.empty() && config.classes.count(vm.class_name) == 0) {
      errors.add(vm.class_place, "there is no class '" + vm.class_name + "'");
    }
    const auto is_named = [&](const DeviceConfig& device) { return device.name == vm.device; };
    if (!vm.device.empty() && std::none_of(config.devices.begin(), config.devices.end(), is_named)) {
      errors.add(vm.device_place, "there is no device '" + vm.device + "'");
    }
    check_size(vm, errors);
    const std::string path = vm.pci_tree.empty() ? vm_socket(config, vm) : vm.pci_tree;
    if (const auto wrong = wrong_socket_path(path); vm.pci_tree.empty() && wrong)
      errors.add(vm.place, *wrong);
    const auto [other, is_new] = taken.emplace(normal(path), "VM '" + vm.name + "'");
    if (!is_new) errors.add(vm.place, path + " is the place of " + other->second + " already");
  }
}

}  // namespace vgpu::daemon
