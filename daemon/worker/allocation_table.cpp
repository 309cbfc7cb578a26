#include "daemon/worker/allocation_table.hpp"

#include <algorithm>

namespace vgpu::worker {
namespace {

/// The entry in which `address` lies or behind which it is; the end where it is before all.
template <class Map>
auto at_or_below(const Map& ranges, std::uint64_t address) {
  auto after = ranges.upper_bound(address);
  return after == ranges.begin() ? ranges.end() : --after;
}

void refund(const Allocation& ended) {
  if (ended.bytes != 0) ended.accounting->refund(ended.bytes);
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
    std::unique_lock lock(mutex_);
    const auto found = allocations_.find(pointer);
    if (found == allocations_.end()) {
      const Allocation ended = end_use(pointer);
      lock.unlock();
      return refund(ended);
    }
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
  if (const auto found = allocations_.find(pointer); found != allocations_.end()) return found->second;
  const auto found = graph_memory_.find(pointer);
  return found != graph_memory_.end() ? std::optional(found->second.allocation) : std::nullopt;
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
  for (const auto& [pointer, memory] : graph_memory_) {
    if (memory.nodes == 0 && chosen(memory.allocation)) pointers.push_back(pointer);
  }
  return pointers;
}

void AllocationTable::add_graph_memory(CUdeviceptr pointer, const Allocation& allocation) {
  Allocation twice = allocation;
  {
    const std::lock_guard lock(mutex_);
    GraphMemory& memory = graph_memory_[pointer];
    twice.bytes = std::min(memory.allocation.bytes, allocation.bytes);
    const std::uint64_t bytes = std::max(memory.allocation.bytes, allocation.bytes);
    memory.allocation = allocation;
    memory.allocation.bytes = bytes;
    ++memory.nodes;
  }
  refund(twice);
}

void AllocationTable::remove_graph_memory(CUdeviceptr pointer) {
  Allocation ended;
  {
    const std::lock_guard lock(mutex_);
    const auto found = graph_memory_.find(pointer);
    if (found == graph_memory_.end() || --found->second.nodes != 0 || found->second.in_use) return;
    ended = found->second.allocation;
    graph_memory_.erase(found);
  }
  refund(ended);
}

void AllocationTable::begin_graph_use(CUdeviceptr pointer) {
  const std::lock_guard lock(mutex_);
  if (const auto found = graph_memory_.find(pointer); found != graph_memory_.end())
    found->second.in_use = true;
}

void AllocationTable::end_graph_use(CUdeviceptr pointer) {
  Allocation ended;
  {
    const std::lock_guard lock(mutex_);
    ended = end_use(pointer);
  }
  refund(ended);
}

Allocation AllocationTable::end_use(CUdeviceptr pointer) {
  const auto found = graph_memory_.find(pointer);
  if (found == graph_memory_.end()) return {};
  found->second.in_use = false;
  if (found->second.nodes != 0) return {};
  const Allocation ended = found->second.allocation;
  graph_memory_.erase(found);
  return ended;
}

bool AllocationTable::begins(CUdeviceptr pointer) const {
  const std::lock_guard lock(mutex_);
  return allocations_.contains(pointer) || graph_memory_.contains(pointer);
}

bool AllocationTable::covers(std::uint64_t address, std::uint64_t bytes) const {
  const std::lock_guard lock(mutex_);
  const auto inside = [&](std::uint64_t begin, const Allocation& allocation) {
    const std::uint64_t offset = address - begin;
    return offset <= allocation.bytes && allocation.bytes - offset >= bytes;
  };
  const auto found = at_or_below(allocations_, address);
  if (found != allocations_.end() && inside(found->first, found->second)) return true;
  const auto graphs = at_or_below(graph_memory_, address);
  return graphs != graph_memory_.end() && inside(graphs->first, graphs->second.allocation);
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
