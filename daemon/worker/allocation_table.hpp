// The client's device memory by address: what lies where, who is charged for it, and the tokens under which
// other clients may open it, which end with it. Never allocates, frees or charges: who uses it does, and says
// so here. What ends is refunded.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "daemon/worker/accounting.hpp"
#include "daemon/worker/ipc_link.hpp"

namespace vgpu::worker {

/// Device memory of the client's.
struct Allocation {
  std::uint64_t bytes = 0;
  Accounting* accounting = nullptr;  ///< to which it is charged
  std::uint16_t context = 0;         ///< in which it was made
};

/// Thread-safe.
class AllocationTable {
 public:
  /// `ipc`, by which tokens are withdrawn, outlives the object.
  explicit AllocationTable(IpcLink& ipc) : ipc_(ipc) {}

  void add(CUdeviceptr pointer, const Allocation& allocation);
  /// The same of memory of another client's pool, which pays for it; it may be opened more than once.
  void add_import(CUdeviceptr pointer, const Allocation& allocation);
  /// Ends what either added, or the use of a graph's memory. `movable`: its room on the device is seen to
  /// elsewhere.
  void remove(CUdeviceptr pointer, bool movable = false);
  /// Of either sort.
  std::optional<Allocation> find(CUdeviceptr pointer) const;
  /// The allocation in which an address lies, and where that begins.
  std::optional<std::pair<CUdeviceptr, Allocation>> around(std::uint64_t address) const;
  /// Where those begin for which chosen() is true; of the memory of graphs that which its graph has left.
  std::vector<CUdeviceptr> of(const std::function<bool(const Allocation&)>& chosen) const;

  /// A node of a graph allocates memory, which has been charged: the client's to use while anything keeps the
  /// node, whether a launch has allocated it or not. Nodes that follow one another may have the same address:
  /// the largest is charged.
  void add_graph_memory(CUdeviceptr pointer, const Allocation& allocation);
  /// Nothing keeps the node any more. Memory that is in use then stays until it is freed.
  void remove_graph_memory(CUdeviceptr pointer);
  /// A launch has allocated it: in use until remove() or end_graph_use().
  void begin_graph_use(CUdeviceptr pointer);
  /// A launch has freed it. Harmless when nothing of a graph's begins here.
  void end_graph_use(CUdeviceptr pointer);
  /// Whether an allocation of either sort begins here.
  bool begins(CUdeviceptr pointer) const;
  /// Whether the bytes lie in an allocation of either sort.
  bool covers(std::uint64_t address, std::uint64_t bytes) const;

  /// Whether others may be offered what begins here as memory of a pool of the client's own.
  bool exportable(CUdeviceptr pointer) const;
  /// The token of what begins here; `kind`: memory or pool_pointer.
  std::optional<IpcToken> offered(IpcKind kind, CUdeviceptr pointer) const;
  /// Keeps it, or withdraws it if the memory has been freed meanwhile, by work that ended.
  void offer(IpcKind kind, CUdeviceptr pointer, const IpcToken& token);

 private:
  struct GraphMemory {
    Allocation allocation;
    std::uint32_t nodes = 0;  // that are kept
    bool in_use = false;
  };
  using Offers = std::map<CUdeviceptr, IpcToken>;

  // What is to be refunded, if anything. Under the lock.
  Allocation end_use(CUdeviceptr pointer);

  IpcLink& ipc_;
  mutable std::mutex mutex_;  // all below; by address
  std::map<CUdeviceptr, Allocation> allocations_;
  std::map<CUdeviceptr, GraphMemory> graph_memory_;
  std::map<CUdeviceptr, std::uint32_t> imported_;  // how often
  Offers offered_memory_;
  Offers offered_pool_memory_;
};

}  // namespace vgpu::worker
