#include "daemon/stub/host/vms.hpp"

#include <algorithm>
#include <cctype>
#include <vector>

#include "daemon/base/log.hpp"

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

Vms::Vms(EventLoop& loop, SessionManager& sessions, DescriptorStore& store)
    : loop_(loop), sessions_(sessions), store_(store), kept_(take_kept_vms(store)) {}

tl::expected<void, std::string> Vms::start() {
  for (const VmConfig& vm : config_->vms) {
    if (auto added = add(vm, true); !added) return tl::unexpected("VM '" + vm.name + "': " + added.error());
  }
  std::vector<VmRecord> others;
  for (const auto& [name, kept] : kept_) others.push_back(kept.record);
  for (const VmRecord& other : others) {
    const std::string& name = other.config.name;
    auto added = other.configured ? tl::unexpected(std::string("it is not configured any more"))
                                  : add(other.config, false);
    if (added) continue;
    log::warning("VM of an earlier vgpud is not served any more vm={} reason={}", name,
                 log::quoted(added.error()));
    VmKeeper(store_, name).forget();
  }
  kept_.clear();
  return {};
}

bool Vms::remove(const std::string& name) {
  const auto found = vms_.find(name);
  if (found == vms_.end()) return false;
  found->second->forget();
  vms_.erase(found);
  return true;
}

tl::expected<void, std::string> Vms::add(VmConfig vm, bool configured) {
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
  vm.socket = vm_socket(*config_, vm);
  if (!vm.socket.empty() && vm.socket.front() != '/')
    return tl::unexpected("the socket's path '" + vm.socket + "' is not absolute");
  const std::string name = vm.name;
  std::optional<KeptVm> kept;
  if (const auto found = kept_.find(name); found != kept_.end()) {
    kept = std::move(found->second);
    kept_.erase(found);
  }
  auto made = std::make_unique<Vm>(loop_, sessions_, store_, std::move(vm), configured,
                                   [this](const std::string& class_name) {
                                     const auto found = config_->classes.find(class_name);
                                     return found == config_->classes.end() ? nullptr : &found->second;
                                   });
  if (auto started = made->start(config_->vm_group, std::move(kept)); !started) return started;
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
