// What is known of a client's graphs besides the objects that its handles name: the handles of nodes by
// node, the memory of allocation nodes, what keeps it and whether it is in use, conditional handles, and the
// references to user objects that are the client's. Never calls the driver.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "daemon/worker/allocation_table.hpp"

namespace vgpu::worker {

/// Dispatcher only.
class GraphObjects {
 public:
  /// `allocations`, in which the nodes' memory is the client's, outlives the object.
  explicit GraphObjects(AllocationTable& allocations) : allocations_(allocations) {}

  /// The client's handle names this node.
  void name_node(CUgraphNode node, std::uint64_t handle) { nodes_[node] = handle; }
  /// Its handle, 0 for none.
  std::uint64_t handle_of(CUgraphNode node) const;
  bool names_nodes() const { return !nodes_.empty(); }
  void forget_node(CUgraphNode node) { nodes_.erase(node); }

  /// A graph: by the client's handle, or by the driver's as long as it is being captured and the client has
  /// none of it.
  struct Name {
    std::uint64_t handle = 0;
    CUgraph captured = nullptr;
  };
  /// A node of the graph, added or captured, allocates memory, which has been charged: the client's to use,
  /// and charged, while a graph or executable keeps it or a launch has allocated it and nobody freed it.
  void add_memory(const Name& graph, CUdeviceptr address, const Allocation& allocation);
  /// A node of the graph frees memory of this or another graph.
  void add_free(const Name& graph, CUdeviceptr address);
  /// The client has a handle of a graph that is being, or was, captured.
  void name_captured(CUgraph graph, std::uint64_t handle);
  /// No capture is under way: what others captured, that failed, is gone.
  void forget_captured() { captured_.clear(); }
  /// What keeps memory of graph `from` also keeps it for `to`: a clone, a parent, an executable.
  void share_memory(std::uint64_t from, std::uint64_t to);
  /// The executable was launched: what it allocates is in use, but for what it frees.
  void launched(std::uint64_t exec);
  /// The graph or executable is gone.
  void forget_memory(std::uint64_t handle) { kept_.erase(handle); }
  /// All graphs and nodes are.
  void forget_all();

  /// The driver's conditional handles: it follows the number.
  bool knows_conditional(CUgraphConditionalHandle handle) const { return conditionals_.contains(handle); }
  bool may_add_conditional() const { return conditionals_.size() < max_objects; }
  void add_conditional(CUgraphConditionalHandle handle) { conditionals_.insert(handle); }

  /// An object of cuUserObjectCreate that the client holds references of.
  struct UserObject {
    CUuserObject object = nullptr;
    std::uint64_t owned = 0;
  };
  /// By the client's handle; null: the client has none such.
  UserObject* user_object(std::uint64_t handle);
  bool may_add_user_object() const { return user_objects_.size() < max_objects; }
  void add_user_object(std::uint64_t handle, const UserObject& object) { user_objects_[handle] = object; }
  /// So many references are the client's no more; it has them.
  void disown(std::uint64_t handle, std::uint32_t count);

 private:
  static constexpr std::size_t max_objects = 1u << 16;  // of a sort: what a hostile client can make us hold
  class Memory;
  /// What the nodes of a graph or executable allocate and free.
  struct Kept {
    std::vector<std::shared_ptr<Memory>> memory;
    std::vector<CUdeviceptr> frees;
    void add(const Kept& more);
  };
  Kept& kept(const Name& graph) {
    return graph.handle != 0 ? kept_[graph.handle] : captured_[graph.captured];
  }

  AllocationTable& allocations_;
  std::unordered_map<CUgraphNode, std::uint64_t> nodes_;
  std::unordered_map<std::uint64_t, Kept> kept_;  // by the client's handle
  std::unordered_map<CUgraph, Kept> captured_;
  std::unordered_set<CUgraphConditionalHandle> conditionals_;
  std::map<std::uint64_t, UserObject> user_objects_;
};

}  // namespace vgpu::worker
