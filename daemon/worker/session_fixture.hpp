// For tests of a session in the test's own process: a session and all that it works with.
#pragma once

#include <cuda.h>

#include <memory>
#include <utility>

#include "daemon/worker/accounting.hpp"
#include "daemon/worker/host_regions.hpp"
#include "daemon/worker/session.hpp"
#include "protocol/arena.hpp"
#include "protocol/channel.hpp"
#include "protocol/gate.hpp"
#include "protocol/unique_fd.hpp"
#include "vgpu/driver_table.hpp"

namespace vgpu::worker {

/// A session over a driver table of the test's, with a gate page, a channel and an arena of its own. For
/// fixtures to derive from, beside testing::Test. It runs nothing: a fixture hands the session its records,
/// or runs it in a thread, which has to end before this does. Never starts a process or a thread, loads a
/// driver library, or opens a socket.
struct OwnSession {
  /// Makes the session. Its driver is a copy of `table`. `broker_socket` stays the caller's, who keeps it
  /// open as long as the session; -1: there is no broker.
  void start_session(const DriverTable& table, int broker_socket = -1) {
    driver = table;
    gate = std::move(*GateMapping::create(gate_fd));
    const auto channel_fd = create_channel_memory(8 << 20);
    channel = std::move(*Channel::attach(channel_fd->get()));
    arena = std::make_unique<Arena>(channel->arena());
    accounting = std::make_unique<Accounting>(gate->page(), nullptr, -1);
    session =
        std::make_unique<Session>(SessionParts{driver, nullptr, 0, reinterpret_cast<CUcontext>(0x10),
                                               *channel, *accounting, regions, nullptr, -1, broker_socket});
  }

  DriverTable driver;
  UniqueFd gate_fd;
  std::unique_ptr<GateMapping> gate;
  std::unique_ptr<Channel> channel;
  std::unique_ptr<Arena> arena;
  std::unique_ptr<Accounting> accounting;
  HostRegions regions{driver};
  std::unique_ptr<Session> session;
};

}  // namespace vgpu::worker
