#include "daemon/worker/graph_objects.hpp"

#include <algorithm>

namespace vgpu::worker {

/// Memory of an allocation node, for as long as anything keeps it.
class GraphObjects::Memory {
 public:
  Memory(AllocationTable& allocations, Accounting& accounting, CUdeviceptr address, std::uint64_t bytes)
      : allocations_(allocations), address_(address), charge_(accounting, bytes) {
    allocations_.add_graph_memory(address, {bytes, &accounting, 0});
  }
  ~Memory() { allocations_.remove_graph_memory(address_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

 private:
  AllocationTable& allocations_;
  CUdeviceptr address_;
  Charge charge_;
};

std::uint64_t GraphObjects::handle_of(CUgraphNode node) const {
  const auto known = nodes_.find(node);
  return known != nodes_.end() ? known->second : 0;
}

void GraphObjects::add_memory(std::uint64_t graph, Accounting& accounting, CUdeviceptr address,
                              std::uint64_t bytes) {
  memory_[graph].push_back(std::make_shared<Memory>(allocations_, accounting, address, bytes));
}

void GraphObjects::share_memory(std::uint64_t from, std::uint64_t to) {
  const auto found = memory_.find(from);
  if (found == memory_.end()) return;
  const auto memory = found->second;
  auto& target = memory_[to];
  for (const auto& one : memory) {
    if (std::find(target.begin(), target.end(), one) == target.end()) target.push_back(one);
  }
}

void GraphObjects::forget_all() {
  nodes_.clear();
  memory_.clear();
}

GraphObjects::UserObject* GraphObjects::user_object(std::uint64_t handle) {
  const auto found = user_objects_.find(handle);
  return found != user_objects_.end() ? &found->second : nullptr;
}

void GraphObjects::disown(std::uint64_t handle, std::uint32_t count) {
  const auto found = user_objects_.find(handle);
  found->second.owned -= count;
  // Whether a graph still holds it or not: nobody can name it any more.
  if (found->second.owned == 0) user_objects_.erase(found);
}

}  // namespace vgpu::worker
