#include "daemon/worker/allocation_table.hpp"

namespace vgpu::worker {
namespace {

/// The entry in which `address` lies or behind which it is; the end where it is before all.
template <class Map>
auto at_or_below(const Map& ranges, std::uint64_t address) {
  auto after = ranges.upper_bound(address);
  return after == ranges.begin() ? ranges.end() : --after;
}

}  // namespace

void AllocationTable::add(CUdeviceptr pointer, const Allocation& allocation) {
  const std::lock_guard lock(mutex_);
  allocations_[pointer] = allocation;
}

void AllocationTable::add_import(CUdeviceptr pointer, const Allocation& allocation) {
  const std::lock_guard lock(mutex_);
  allocations_[pointer] = allocation;
  ++imported_[pointer];
}

void AllocationTable::remove(CUdeviceptr pointer, bool movable) {
  std::uint64_t bytes = 0;
  Accounting* accounting = nullptr;
  {
    const std::lock_guard lock(mutex_);
    const auto found = allocations_.find(pointer);
    if (found == allocations_.end()) return;
    accounting = found->second.accounting;
    if (const auto imported = imported_.find(pointer); imported != imported_.end()) {
      if (--imported->second != 0) return;
      imported_.erase(imported);
    } else {
      bytes = found->second.bytes;
    }
    allocations_.erase(found);
    for (Offers* const offers : {&offered_memory_, &offered_pool_memory_}) {
      if (const auto offered = offers->find(pointer); offered != offers->end()) {
        ipc_.withdraw(offered->second);
        offers->erase(offered);
      }
    }
  }
  if (movable) {
    accounting->refund_quota(bytes);
  } else {
    accounting->refund(bytes);
  }
}

std::optional<Allocation> AllocationTable::find(CUdeviceptr pointer) const {
  const std::lock_guard lock(mutex_);
  const auto found = allocations_.find(pointer);
  return found != allocations_.end() ? std::optional(found->second) : std::nullopt;
}

std::optional<std::pair<CUdeviceptr, Allocation>> AllocationTable::around(std::uint64_t address) const {
  const std::lock_guard lock(mutex_);
  const auto found = at_or_below(allocations_, address);
  if (found == allocations_.end() || address - found->first >= found->second.bytes) return std::nullopt;
  return *found;
}

std::vector<CUdeviceptr> AllocationTable::of(const std::function<bool(const Allocation&)>& chosen) const {
  const std::lock_guard lock(mutex_);
  std::vector<CUdeviceptr> pointers;
  for (const auto& [pointer, allocation] : allocations_) {
    if (chosen(allocation)) pointers.push_back(pointer);
  }
  return pointers;
}

void AllocationTable::add_graph_memory(CUdeviceptr pointer, const Allocation& allocation) {
  const std::lock_guard lock(mutex_);
  graph_memory_[pointer] = allocation;
}

void AllocationTable::remove_graph_memory(CUdeviceptr pointer) {
  const std::lock_guard lock(mutex_);
  graph_memory_.erase(pointer);
}

bool AllocationTable::begins(CUdeviceptr pointer) const {
  const std::lock_guard lock(mutex_);
  return allocations_.contains(pointer) || graph_memory_.contains(pointer);
}

bool AllocationTable::covers(std::uint64_t address, std::uint64_t bytes) const {
  const std::lock_guard lock(mutex_);
  for (const auto* const ranges : {&allocations_, &graph_memory_}) {
    const auto found = at_or_below(*ranges, address);
    if (found == ranges->end()) continue;
    const std::uint64_t inside = address - found->first;
    const std::uint64_t size = found->second.bytes;
    if (inside <= size && size - inside >= bytes) return true;
  }
  return false;
}

bool AllocationTable::exportable(CUdeviceptr pointer) const {
  const std::lock_guard lock(mutex_);
  return allocations_.contains(pointer) && !imported_.contains(pointer);
}

std::optional<IpcToken> AllocationTable::offered(IpcKind kind, CUdeviceptr pointer) const {
  const std::lock_guard lock(mutex_);
  const Offers& offers = kind == IpcKind::memory ? offered_memory_ : offered_pool_memory_;
  const auto known = offers.find(pointer);
  return known != offers.end() ? std::optional(known->second) : std::nullopt;
}

void AllocationTable::offer(IpcKind kind, CUdeviceptr pointer, const IpcToken& token) {
  const std::lock_guard lock(mutex_);
  if (allocations_.contains(pointer)) {
    (kind == IpcKind::memory ? offered_memory_ : offered_pool_memory_)[pointer] = token;
  } else {
    ipc_.withdraw(token);
  }
}

}  // namespace vgpu::worker
