#include <map>
#include <mutex>
#include <shared_mutex>

#include "softgpu/memory/address_space.hpp"

namespace softgpu {
namespace {

struct HostRanges {
  std::shared_mutex mutex;
  std::map<std::uint64_t, std::uint64_t> bytes_at;
};

// Never destroyed: kernels may still run on other threads while the process exits.
HostRanges& ranges() {
  static auto* const instance = new HostRanges;
  return *instance;
}

}  // namespace

void add_host_range(std::uint64_t address, std::uint64_t bytes) {
  const std::unique_lock lock(ranges().mutex);
  ranges().bytes_at[address] = bytes;
}

void remove_host_range(std::uint64_t address) {
  const std::unique_lock lock(ranges().mutex);
  ranges().bytes_at.erase(address);
}

bool host_range_allowed(std::uint64_t address, std::uint64_t bytes) {
  const std::shared_lock lock(ranges().mutex);
  auto next = ranges().bytes_at.upper_bound(address);
  if (next == ranges().bytes_at.begin()) return false;
  const auto& [start, size] = *--next;
  const std::uint64_t offset = address - start;
  return offset < size && size - offset >= bytes;
}

}  // namespace softgpu
