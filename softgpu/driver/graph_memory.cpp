#include "softgpu/driver/graph_memory.hpp"

#include <algorithm>
#include <mutex>
#include <unordered_map>

#include "softgpu/driver/memory_pool.hpp"

namespace softgpu {
namespace {

struct Kept {
  std::weak_ptr<GraphMemory> owner;
  bool live = false;
};

// By address, over all graphs.
struct AllKept {
  std::mutex mutex;
  std::unordered_map<std::uint64_t, Kept> memory;
};

AllKept& all() {
  static auto* const instance = new AllKept;
  return *instance;
}

}  // namespace

GraphMemory::~GraphMemory() {
  for (const std::uint64_t address : addresses_) {
    {
      const std::unique_lock lock(all().mutex);
      const auto found = all().memory.find(address);
      if (found == all().memory.end()) continue;  // became the program's
      const bool live = found->second.live;
      all().memory.erase(found);
      if (live) continue;
    }
    release_from_pool(address);
  }
}

void GraphMemory::keep(std::uint64_t address) {
  addresses_.push_back(address);
  const std::unique_lock lock(all().mutex);
  all().memory[address] = {weak_from_this(), false};
}

bool begin_use(std::span<const std::uint64_t> addresses, bool again) {
  const std::unique_lock lock(all().mutex);
  auto& memory = all().memory;
  const auto live = [&](std::uint64_t address) {
    const auto found = memory.find(address);
    return found != memory.end() && found->second.live;
  };
  if (!again && std::any_of(addresses.begin(), addresses.end(), live)) return false;
  for (const std::uint64_t address : addresses) {
    if (const auto found = memory.find(address); found != memory.end()) found->second.live = true;
  }
  return true;
}

GraphFree end_use(std::uint64_t address, std::shared_ptr<GraphMemory>& keeper) {
  const std::unique_lock lock(all().mutex);
  const auto found = all().memory.find(address);
  if (found == all().memory.end()) return GraphFree::no_graphs;
  if (!found->second.live) return GraphFree::not_live;
  keeper = found->second.owner.lock();
  if (keeper == nullptr) {
    // Its graph is just going away and leaves it to the program.
    all().memory.erase(found);
    return GraphFree::no_graphs;
  }
  found->second.live = false;
  return GraphFree::ended;
}

bool is_graph_memory(std::uint64_t address) {
  const std::unique_lock lock(all().mutex);
  return all().memory.contains(address);
}

}  // namespace softgpu
