// What the processes of a VM get of what it may have, and the figures of the VM as a whole.
#include <algorithm>

#include "daemon/stub/host/printable.hpp"
#include "daemon/stub/host/vm.hpp"

namespace vgpu::daemon::stub_host {

// The VM's weight and rates are divided among its processes that have work. Its memory quota each has whole:
// their workers' account holds them to it together.
void Vm::share_out() {
  const ClassConfig* const client_class = class_of_(config_.class_name);
  if (client_class == nullptr) return;
  const auto page_of = [this](const Slot& slot) {
    return slot.session != 0 ? sessions_.page_of(slot.session) : nullptr;
  };
  const auto busy = std::count_if(slots_.begin(), slots_.end(), [&](const Slot& slot) {
    const GatePage* const page = page_of(slot);
    return page != nullptr && page->backlogged.load(std::memory_order_relaxed) != 0;
  });
  const unsigned parts = std::max(1U, static_cast<unsigned>(busy));
  for (std::uint32_t index = 0; index < slots_.size(); ++index) {
    const GatePage* const page = page_of(slots_[index]);
    if (page == nullptr) continue;
    sessions_.share_guest(slots_[index].session, *client_class, parts);
    stub::SlotHost& words = memory_->slot(index).host;
    words.memory_used.store(page->memory_used.load(std::memory_order_relaxed), std::memory_order_relaxed);
    words.memory_peak.store(page->memory_peak.load(std::memory_order_relaxed), std::memory_order_relaxed);
  }
}

VmStats Vm::stats() const {
  VmStats stats;
  stats.name = config_.name;
  stats.class_name = config_.class_name;
  stats.socket = config_.pci_tree.empty() ? config_.socket : config_.pci_tree;
  stats.bytes = config_.bytes;
  stats.slots = config_.slots;
  stats.connected = server_ ? server_->connected() : attached_;
  stats.attached = attached_;
  stats.doorbells = doorbells_received();
  stats.sessions = opened_;
  stats.refused = refused_;
  stats.lost = lost_;
  if (memory_) stats.guest = printable(memory_->guest().name);
  for (const Slot& slot : slots_) {
    if (slot.state == stub::SlotState::open) ++stats.slots_open;
  }
  if (account_) stats.memory_used = account_->used();
  if (const ClassConfig* client_class = class_of_(config_.class_name)) {
    stats.weight = client_class->weight;
    stats.memory_quota = client_class->memory_quota.value_or(0);
  }
  return stats;
}

}  // namespace vgpu::daemon::stub_host
