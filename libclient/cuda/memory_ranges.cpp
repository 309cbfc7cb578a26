#include "libclient/cuda/memory_ranges.hpp"

#include <mutex>

namespace vgpu::client {

const MemoryRange* MemoryRanges::lookup(const Layer& layer, std::uint64_t address) {
  auto after = layer.upper_bound(address);
  if (after == layer.begin()) return nullptr;
  const MemoryRange& range = std::prev(after)->second;
  return address - range.base < range.size ? &range : nullptr;
}

const MemoryRange* MemoryRanges::lookup(std::uint64_t address) const {
  const MemoryRange* const range = lookup(ranges_, address);
  return range != nullptr ? range : lookup(reserved_, address);
}

void MemoryRanges::insert(MemoryRange range) {
  if (range.size == 0) return;
  const std::unique_lock lock(mutex_);
  range.id = next_id_++;
  Layer& layer = range.kind == MemoryKind::reserved ? reserved_ : ranges_;
  layer.insert_or_assign(range.base, range);
  if (range.kind == MemoryKind::registered) ++registered_;
}

std::optional<MemoryRange> MemoryRanges::remove(std::uint64_t base, bool reserved) {
  const std::unique_lock lock(mutex_);
  Layer& layer = reserved ? reserved_ : ranges_;
  const auto found = layer.find(base);
  if (found == layer.end()) return std::nullopt;
  const MemoryRange range = found->second;
  layer.erase(found);
  if (range.kind == MemoryKind::registered) --registered_;
  return range;
}

void MemoryRanges::remove_owned(MemoryKind kind, std::uint64_t owner) {
  const std::unique_lock lock(mutex_);
  std::erase_if(ranges_,
                [&](const auto& entry) { return entry.second.kind == kind && entry.second.owner == owner; });
}

void MemoryRanges::remove_within(MemoryKind kind, std::uint64_t base, std::uint64_t size) {
  const std::unique_lock lock(mutex_);
  std::erase_if(ranges_, [&](const auto& entry) {
    const MemoryRange& range = entry.second;
    return range.kind == kind && range.base >= base && range.base - base < size;
  });
}

void MemoryRanges::remove_context(std::uint64_t context) {
  const std::unique_lock lock(mutex_);
  std::erase_if(ranges_, [&](const auto& entry) {
    const MemoryRange& range = entry.second;
    return range.context == context && !is_host(range.kind) && range.kind != MemoryKind::mapped;
  });
}

std::optional<MemoryRange> MemoryRanges::find(std::uint64_t address) const {
  const std::shared_lock lock(mutex_);
  const MemoryRange* const range = lookup(address);
  if (range == nullptr) return std::nullopt;
  return *range;
}

std::optional<MemoryRange> MemoryRanges::find(std::uint64_t address, std::uint64_t other,
                                              bool& other_is_device) const {
  const std::shared_lock lock(mutex_);
  const MemoryRange* const known = lookup(other);
  other_is_device = known != nullptr && !is_host(known->kind);
  const MemoryRange* const range = lookup(address);
  if (range == nullptr) return std::nullopt;
  return *range;
}

std::optional<MemoryRange> MemoryRanges::find_reserved(std::uint64_t address) const {
  const std::shared_lock lock(mutex_);
  const MemoryRange* range = lookup(reserved_, address);
  if (range == nullptr) return std::nullopt;
  return *range;
}

std::optional<MemoryRange> MemoryRanges::find_host(std::uint64_t address, std::uint64_t size) const {
  const std::shared_lock lock(mutex_);
  const MemoryRange* range = lookup(ranges_, address);
  if (range == nullptr || !is_host(range->kind) || size > range->size - (address - range->base))
    return std::nullopt;
  return *range;
}

bool MemoryRanges::overlaps_host(std::uint64_t address, std::uint64_t size) const {
  const std::shared_lock lock(mutex_);
  auto next = ranges_.lower_bound(address + size);
  while (next != ranges_.begin()) {
    --next;
    const MemoryRange& range = next->second;
    if (range.base + range.size <= address) return false;
    if (is_host(range.kind)) return true;
  }
  return false;
}

bool MemoryRanges::set_sync_memops(std::uint64_t address, bool value) {
  const std::unique_lock lock(mutex_);
  const MemoryRange* range = lookup(ranges_, address);
  if (range == nullptr) return false;
  ranges_[range->base].sync_memops = value;
  return true;
}

std::vector<MemoryRange> MemoryRanges::take_all() {
  std::vector<MemoryRange> all;
  all.reserve(ranges_.size() + reserved_.size());
  for (const auto& [base, range] : ranges_) all.push_back(range);
  for (const auto& [base, range] : reserved_) all.push_back(range);
  ranges_.clear();
  registered_ = 0;
  reserved_.clear();
  return all;
}

}  // namespace vgpu::client
