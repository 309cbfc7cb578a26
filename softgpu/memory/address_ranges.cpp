#include "softgpu/memory/address_ranges.hpp"

#include <algorithm>
#include <iterator>

namespace softgpu {

AddressRanges::AddressRanges(std::uint64_t base, std::uint64_t size) : holes_{{base, size}}, cursor_(base) {}

void AddressRanges::cut(Holes::iterator hole, std::uint64_t address, std::uint64_t bytes) {
  const std::uint64_t start = hole->first;
  const std::uint64_t end = start + hole->second;
  const std::uint64_t tail = address + bytes;
  if (address == start) {
    holes_.erase(hole);
  } else {
    hole->second = address - start;
  }
  if (tail != end) holes_.emplace(tail, end - tail);
}

std::optional<std::uint64_t> AddressRanges::take_from(Holes::iterator hole, std::uint64_t from,
                                                      std::uint64_t bytes, std::uint64_t align) {
  const std::uint64_t end = hole->first + hole->second;
  const std::uint64_t address = (std::max(hole->first, from) + align - 1) & ~(align - 1);
  if (address >= end || end - address < bytes) return std::nullopt;
  cut(hole, address, bytes);
  cursor_ = address + bytes;
  return address;
}

std::optional<std::uint64_t> AddressRanges::take(std::uint64_t bytes, std::uint64_t align) {
  auto start = holes_.upper_bound(cursor_);
  if (start != holes_.begin()) start = std::prev(start);
  for (auto hole = start; hole != holes_.end(); ++hole) {
    if (const auto address = take_from(hole, cursor_, bytes, align)) return address;
  }
  for (auto hole = holes_.begin(); hole != holes_.end(); ++hole) {
    if (const auto address = take_from(hole, 0, bytes, align)) return address;
  }
  return std::nullopt;
}

bool AddressRanges::take_at(std::uint64_t address, std::uint64_t bytes) {
  auto hole = holes_.upper_bound(address);
  if (hole == holes_.begin()) return false;
  --hole;
  const std::uint64_t offset = address - hole->first;
  if (offset >= hole->second || hole->second - offset < bytes) return false;
  cut(hole, address, bytes);
  return true;
}

void AddressRanges::give_back(std::uint64_t address, std::uint64_t bytes) {
  auto next = holes_.lower_bound(address);
  if (next != holes_.end() && next->first == address + bytes) {
    bytes += next->second;
    next = holes_.erase(next);
  }
  if (next != holes_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == address) {
      before->second += bytes;
      return;
    }
  }
  holes_.emplace(address, bytes);
}

}  // namespace softgpu
