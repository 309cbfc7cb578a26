// What a session works with, and the ways in which it ends. Owns nothing.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <vector>

#include "daemon/worker/accounting.hpp"
#include "daemon/worker/console.hpp"
#include "daemon/worker/driver_library.hpp"
#include "daemon/worker/host_regions.hpp"
#include "protocol/channel.hpp"
#include "vgpu/driver_table.hpp"

namespace vgpu::worker {

/// A device of the client's; it outlives the session.
struct ClientDevice {
  CUdevice device = 0;
  CUcontext context = nullptr;  ///< its primary one
  Accounting* accounting = nullptr;
};

/// What the session works with. All outlive it.
struct SessionParts {
  const DriverTable& driver;
  const DriverLibrary* library = nullptr;  ///< nullptr in tests with a table of their own
  CUdevice device = 0;
  CUcontext context = nullptr;
  Channel& channel;
  Accounting& accounting;
  HostRegions& regions;
  Console* console = nullptr;  ///< where the driver prints to; nullptr: not collected
  int direct_socket = -1;
  int broker_socket = -1;
  int memory_fd = -1;  ///< of a process in a VM: the VM's memory; host regions are parts of the arena
  std::uint64_t arena_offset = 0;       ///< of the arena in it
  std::vector<ClientDevice> further{};  ///< those besides the first

  /// All of them, in the client's order.
  std::vector<ClientDevice> devices() const {
    std::vector<ClientDevice> all{{device, context, &accounting}};
    all.insert(all.end(), further.begin(), further.end());
    return all;
  }
};

/// Why a session ended.
enum class SessionEnd {
  client_gone,
  broker_gone,
  corrupt_ring,
  stopped,
  orphaned,  ///< it waits for an event whose maker has ended; the client's error is set
};

}  // namespace vgpu::worker
