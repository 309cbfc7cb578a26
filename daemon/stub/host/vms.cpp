#include "daemon/stub/host/vms.hpp"

#include <algorithm>
#include <cctype>
#include <filesystem>

namespace vgpu::daemon::stub_host {
namespace {

constexpr std::size_t kLongestName = 64;

bool good_name(const std::string& name) {
  return !name.empty() && name.size() <= kLongestName && name.front() != '.' &&
         std::all_of(name.begin(), name.end(), [](unsigned char letter) {
           return std::isalnum(letter) != 0 || letter == '-' || letter == '_' || letter == '.';
         });
}

}  // namespace

tl::expected<void, std::string> Vms::add(VmConfig vm) {
  if (!good_name(vm.name)) {
    return tl::unexpected(std::string("a VM's name may hold letters, digits, '-', '_' and '.', at most 64"));
  }
  if (vms_.count(vm.name) != 0) return tl::unexpected("there is a VM '" + vm.name + "' already");
  if (vm.class_name.empty()) vm.class_name = config_->default_class;
  if (config_->classes.count(vm.class_name) == 0) {
    return tl::unexpected("there is no class '" + vm.class_name + "'");
  }
  const auto is_named = [&](const DeviceConfig& device) { return device.name == vm.device; };
  if (!vm.device.empty() && std::none_of(config_->devices.begin(), config_->devices.end(), is_named)) {
    return tl::unexpected("there is no device '" + vm.device + "'");
  }
  if (vm.socket.empty()) {
    vm.socket = std::filesystem::path(config_->socket).parent_path() / "vm" / (vm.name + ".sock");
  }
  const std::string name = vm.name;
  auto made = std::make_unique<Vm>(loop_, sessions_, std::move(vm), [this](const std::string& class_name) {
    const auto found = config_->classes.find(class_name);
    return found == config_->classes.end() ? nullptr : &found->second;
  });
  if (auto started = made->start(config_->group); !started) return started;
  vms_.emplace(name, std::move(made));
  return {};
}

std::vector<VmStats> Vms::stats() const {
  std::vector<VmStats> all;
  all.reserve(vms_.size());
  for (const auto& [name, vm] : vms_) all.push_back(vm->stats());
  return all;
}

}  // namespace vgpu::daemon::stub_host
