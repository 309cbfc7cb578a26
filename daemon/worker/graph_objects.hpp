// What is known of a client's graphs besides the objects that its handles name: the handles of nodes by
// node, the memory of allocation nodes and what keeps it, conditional handles, and the references to user
// objects that are the client's. Never calls the driver.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "daemon/worker/accounting.hpp"
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

  /// A node of the graph allocates memory, which has been charged: the client's to use, and charged, while a
  /// graph or executable keeps it.
  void add_memory(std::uint64_t graph, Accounting& accounting, CUdeviceptr address, std::uint64_t bytes);
  /// What keeps memory of graph `from` also keeps it for `to`: a clone, a parent, an executable.
  void share_memory(std::uint64_t from, std::uint64_t to);
  /// The graph or executable is gone.
  void forget_memory(std::uint64_t handle) { memory_.erase(handle); }
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

  AllocationTable& allocations_;
  std::unordered_map<CUgraphNode, std::uint64_t> nodes_;
  std::unordered_map<std::uint64_t, std::vector<std::shared_ptr<Memory>>> memory_;  // by who keeps it
  std::unordered_set<CUgraphConditionalHandle> conditionals_;
  std::map<std::uint64_t, UserObject> user_objects_;
};

}  // namespace vgpu::worker
