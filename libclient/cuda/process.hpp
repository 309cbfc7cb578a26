// The process's one client: connection, contexts, handle tables and memory ranges, from a successful cuInit
// to the end of the process. Never destroyed: threads may still call while the process exits. After a fork
// the child has none.
#pragma once

#include <cuda.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "libclient/cuda/connection.hpp"
#include "libclient/cuda/contexts.hpp"
#include "libclient/cuda/memory_ranges.hpp"
#include "libclient/cuda/mirrors.hpp"
#include "libclient/cuda/object_table.hpp"
#include "libclient/cuda/objects.hpp"
#include "libclient/cuda/stream_work.hpp"

namespace vgpu::client {

struct Process {
  explicit Process(std::unique_ptr<Connection> opened);

  std::unique_ptr<Connection> connection;
  Contexts contexts;
  MemoryRanges memory;
  Mirrors mirrors;
  ObjectTable<Stream> streams{HandleKind::stream};
  ObjectTable<Event> events{HandleKind::event};
  ObjectTable<Image> modules{HandleKind::module};
  ObjectTable<Image> libraries{HandleKind::library};
  ObjectTable<Function> functions{HandleKind::function};
  ObjectTable<Function> kernels{HandleKind::kernel};
  ObjectTable<Graph> graphs{HandleKind::graph};
  ObjectTable<Opaque> graph_execs{HandleKind::graph_exec};
  ObjectTable<GraphNode> graph_nodes{HandleKind::graph_node};
  std::mutex graphs_mutex;  ///< which nodes belong to which graph
  ObjectTable<Opaque> user_objects{HandleKind::user_object};
  ObjectTable<Opaque> pools{HandleKind::mem_pool};
  ObjectTable<Opaque> allocations{HandleKind::mem_allocation};
  ObjectTable<Array> arrays{HandleKind::array};
  ObjectTable<MipmappedArray> mipmapped_arrays{HandleKind::mipmapped_array};
  ObjectTable<GreenContext> green_contexts{HandleKind::green_context};
  ObjectTable<LinkState> linkers{HandleKind::linker};
  std::atomic<std::uint32_t> captures{0};  ///< captures begun and not ended: while 0, no stream is capturing
  AllWork work;
  std::atomic<bool> shares_memory{false};  ///< with another process, or may: something was exported or opened
  std::atomic<std::uint64_t> next_stream_id{16};
  /// Of each device handles of memory pools: the default one, minted at start, and the current one.
  std::uint64_t default_pools[most_client_devices] = {};
  std::atomic<std::uint64_t> current_pools[most_client_devices] = {};

  std::atomic<bool> upcalls_run{false};  ///< the host-function thread was started
  std::mutex upcalls_mutex;

  /// What cuLaunchKernel checks, copied from the devices' reports: what one of them allows at least.
  struct {
    unsigned grid[3] = {};
    unsigned block[3] = {};
    unsigned threads = 0;
  } launch_limits;

  /// A capture that was begun and not ended.
  struct Capture {
    std::uint64_t stream = 0;
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
    const ThreadState* thread = nullptr;
    bool invalidated = false;  ///< a forbidden call was made meanwhile
  };
  std::once_flag last_words;  ///< what kernels wrote before a fault has been fetched
  std::mutex captures_mutex;
  std::vector<Capture> open_captures;  ///< under captures_mutex; `captures` is its size

  std::size_t device_count() const { return connection->devices().size(); }
  /// `number`: of one of the process's devices.
  const DeviceReport& device(CUdevice number = 0) const {
    return connection->devices()[static_cast<std::size_t>(number)];
  }
  bool has_device(CUdevice number) const {
    return number >= 0 && static_cast<std::size_t>(number) < device_count();
  }
};

namespace detail {
extern std::atomic<Process*> initialised_process;
}

/// The process's client; nullptr before a successful cuInit and in a forked child.
inline Process* process() {
  return detail::initialised_process.load(std::memory_order_acquire);
}

/// The capture that was begun in `stream` ends with the stream: it forbids nothing any more.
void forget_capture(Process& process, std::uint64_t stream);

/// Connects, once; several threads may call it. What cuInit returns.
CUresult initialise();
/// Connects without counting as cuInit: what the device's driver says of its version; nothing where there is
/// no device. For cuDriverGetVersion.
std::optional<int> driver_version();

}  // namespace vgpu::client
