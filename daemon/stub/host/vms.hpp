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
  Vms(EventLoop& loop, SessionManager& sessions) : loop_(loop), sessions_(sessions) {}

  // The configuration that classes are taken from; replaced at a reload.
  void apply(std::shared_ptr<const Config> config) { config_ = std::move(config); }
  // Serves one more VM. The error is a sentence.
  [[nodiscard]] tl::expected<void, std::string> add(VmConfig vm);
  // Ends it with its sessions; false when there is none of that name.
  bool remove(const std::string& name) { return vms_.erase(name) != 0; }
  [[nodiscard]] std::vector<VmStats> stats() const;

 private:
  EventLoop& loop_;
  SessionManager& sessions_;
  std::shared_ptr<const Config> config_;
  std::map<std::string, std::unique_ptr<Vm>> vms_;
};

}  // namespace vgpu::daemon::stub_host
