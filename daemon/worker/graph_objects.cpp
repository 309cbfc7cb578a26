#include "daemon/worker/graph_objects.hpp"

#include <algorithm>

namespace vgpu::worker {

/// Memory of an allocation node, for as long as anything keeps it.
class GraphObjects::Memory {
 public:
  Memory(AllocationTable& allocations, CUdeviceptr address, const Allocation& allocation)
      : allocations_(allocations), address_(address) {
    allocations_.add_graph_memory(address, allocation);
  }
  ~Memory() { allocations_.remove_graph_memory(address_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  CUdeviceptr address() const { return address_; }

 private:
  AllocationTable& allocations_;
  CUdeviceptr address_;
};

void GraphObjects::Kept::add(const Kept& more) {
  const auto append = [](auto& to, const auto& from) {
    for (const auto& one : from) {
      if (std::find(to.begin(), to.end(), one) == to.end()) to.push_back(one);
    }
  };
  append(memory, more.memory);
  append(frees, more.frees);
}

std::uint64_t GraphObjects::handle_of(CUgraphNode node) const {
  const auto known = nodes_.find(node);
  return known != nodes_.end() ? known->second : 0;
}

void GraphObjects::add_memory(const Name& graph, CUdeviceptr address, const Allocation& allocation) {
  kept(graph).memory.push_back(std::make_shared<Memory>(allocations_, address, allocation));
}

void GraphObjects::add_free(const Name& graph, CUdeviceptr address) {
  kept(graph).frees.push_back(address);
}

void GraphObjects::name_captured(CUgraph graph, std::uint64_t handle) {
  const auto found = captured_.find(graph);
  if (found == captured_.end()) return;
  kept_[handle].add(found->second);
  captured_.erase(found);
}

void GraphObjects::share_memory(std::uint64_t from, std::uint64_t to) {
  const auto found = kept_.find(from);
  if (found == kept_.end() || from == to) return;
  const Kept more = found->second;  // adding may move what is found
  kept_[to].add(more);
}

void GraphObjects::launched(std::uint64_t exec) {
  const auto found = kept_.find(exec);
  if (found == kept_.end()) return;
  for (const auto& memory : found->second.memory) allocations_.begin_graph_use(memory->address());
  for (const CUdeviceptr address : found->second.frees) allocations_.end_graph_use(address);
}

void GraphObjects::forget_all() {
  nodes_.clear();
  kept_.clear();
  captured_.clear();
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
