// What of a VM outlives this vgpud, so that its QEMU does not notice a restart: the little that the next
// vgpud cannot know otherwise, and, while a QEMU is connected, its connection with the shared memory and the
// doorbells that it was given. Decides nothing.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "daemon/config/config.hpp"
#include "daemon/handover/descriptor_store.hpp"
#include "daemon/handover/state_memory.hpp"
#include "daemon/stub/host/ivshmem_server.hpp"

namespace vgpu::daemon::stub_host {

// What is written down of a VM beside its descriptors.
struct VmRecord {
  VmConfig config;
  bool configured = false;     // stands in the configuration; else it was added by hand
  std::int64_t next_peer = 1;  // ids that QEMU must not see again are below
};

// A QEMU with all that it was given.
struct KeptQemu {
  UniqueFd memory;
  IvshmemServer::Doorbells doorbells;
  UniqueFd connection;
};

// A VM as an earlier vgpud left it.
struct KeptVm {
  VmRecord record;
  StateMemory state;
  std::optional<KeptQemu> qemu;  // none: no QEMU was connected
};

// Keeps one VM's descriptors up to date with the service manager. Belongs to one thread; without a service
// manager it keeps nothing.
class VmKeeper {
 public:
  VmKeeper(DescriptorStore& store, const std::string& vm);

  // Begins to keep a VM, or goes on with one that was taken over with its `state`.
  void begin(const VmRecord& record, std::optional<StateMemory> state);
  // Before a QEMU is told its id: the record says that it is used.
  void update(const VmRecord& record);
  void qemu_came(int memory, const IvshmemServer::Doorbells& doorbells, int connection);
  void qemu_left();
  // The VM is no more.
  void forget();

 private:
  void write(const VmRecord& record);

  DescriptorStore& store_;
  std::string vm_;
  std::optional<StateMemory> state_;
};

// All VMs of an earlier vgpud, by name. What is incomplete or damaged is dropped and logged.
[[nodiscard]] std::map<std::string, KeptVm> take_kept_vms(DescriptorStore& store);

}  // namespace vgpu::daemon::stub_host
