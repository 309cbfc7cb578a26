// What the processes of a VM get of what it may have, and the figures of the VM as a whole.
#include <algorithm>

#include "daemon/stub/host/printable.hpp"
#include "daemon/stub/host/vm.hpp"

namespace vgpu::daemon::stub_host {

// The VM's weight and rates are divided among its processes that have work, its memory quota is for all of
// them together.
void Vm::share_out() {
  const ClassConfig* const client_class = class_of_(config_.class_name);
  if (client_class == nullptr) return;
  std::uint32_t busy = 0;
  std::uint64_t used = 0;
  for (const Slot& slot : slots_) {
    const GatePage* const page = slot.session != 0 ? sessions_.page_of(slot.session) : nullptr;
    if (page == nullptr) continue;
    used += page->memory_used.load(std::memory_order_relaxed);
    if (page->backlogged.load(std::memory_order_relaxed) != 0) ++busy;
  }
  busy = std::max(1U, busy);
  ClassConfig part = *client_class;
  const std::uint64_t quota = client_class->memory_quota.value_or(0);
  for (std::uint32_t index = 0; index < slots_.size(); ++index) {
    const Slot& slot = slots_[index];
    const GatePage* const page = slot.session != 0 ? sessions_.page_of(slot.session) : nullptr;
    if (page == nullptr) continue;
    const std::uint64_t own = page->memory_used.load(std::memory_order_relaxed);
    const std::uint64_t others = used - std::min(used, own);
    if (quota != 0) part.memory_quota = std::max<std::uint64_t>(1, quota - std::min(quota, others));
    sessions_.share_guest(slot.session, part, busy);
    stub::SlotHost& words = memory_->slot(index).host;
    words.memory_used.store(own, std::memory_order_relaxed);
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
  stats.doorbells = doorbell_thread_ ? doorbell_thread_->received() : 0;
  stats.sessions = opened_;
  stats.refused = refused_;
  stats.lost = lost_;
  if (memory_) stats.guest = printable(memory_->guest().name);
  for (const Slot& slot : slots_) {
    if (slot.state != stub::SlotState::open) continue;
    ++stats.slots_open;
    if (const GatePage* page = sessions_.page_of(slot.session)) {
      stats.memory_used += page->memory_used.load(std::memory_order_relaxed);
    }
  }
  if (const ClassConfig* client_class = class_of_(config_.class_name)) {
    stats.weight = client_class->weight;
    stats.memory_quota = client_class->memory_quota.value_or(0);
  }
  return stats;
}

}  // namespace vgpu::daemon::stub_host
