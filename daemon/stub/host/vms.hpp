// All VMs that the host's vgpud serves, by name.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/stub/host/vm.hpp"

namespace vgpu::daemon::stub_host {

// Belongs to the loop's thread.
class Vms {
 public:
  // What is in `store` outlives this process; it outlives the object, too.
  Vms(EventLoop& loop, SessionManager& sessions, DescriptorStore& store);

  // The configuration that classes are taken from; replaced at a reload.
  void apply(std::shared_ptr<const Config> config) { config_ = std::move(config); }
  // Serves the VMs of the configuration and those that were added to an earlier vgpud by hand: once, after
  // apply(). The error is a sentence.
  [[nodiscard]] tl::expected<void, std::string> start();
  // Serves one more VM. The error is a sentence.
  [[nodiscard]] tl::expected<void, std::string> add(VmConfig vm) { return add(std::move(vm), false); }
  // Ends it with its sessions; false when there is none of that name.
  bool remove(const std::string& name);
  [[nodiscard]] std::vector<VmStats> stats() const;

 private:
  [[nodiscard]] tl::expected<void, std::string> add(VmConfig vm, bool configured);

  EventLoop& loop_;
  SessionManager& sessions_;
  DescriptorStore& store_;
  std::map<std::string, KeptVm> kept_;  // of an earlier vgpud, until start() has ended
  std::shared_ptr<const Config> config_;
  std::map<std::string, std::unique_ptr<Vm>> vms_;
};

}  // namespace vgpu::daemon::stub_host
