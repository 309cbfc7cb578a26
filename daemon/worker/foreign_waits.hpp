// Waits for events that another client made and this one has opened. If the maker ends before the event has
// happened, it never will: a GPU's stream that waits for it stands still for ever. This finds out, so that
// the session can end with an error. Never: ends anything itself.
//
// It says so only of what is certain: the stream has got to the wait and not past it, the maker has ended,
// and nobody who lives could have recorded the event again: neither this client nor a third one.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <functional>
#include <unordered_map>
#include <vector>

#include "daemon/worker/ipc_link.hpp"
#include "vgpu/driver_table.hpp"

namespace vgpu::worker {

/// Dispatcher only.
class ForeignWaits {
 public:
  /// Both outlive the object.
  ForeignWaits(const DriverTable& driver, IpcLink& ipc) : driver_(driver), ipc_(ipc) {}

  /// `handle` names an event of the session `maker`.
  void opened(std::uint64_t handle, std::uint64_t maker) { events_[handle] = {maker, false}; }
  /// It names nothing any more; nobody waits for it on the host.
  void closed(std::uint64_t handle);
  bool knows(std::uint64_t handle) const { return !events_.empty() && events_.contains(handle); }
  /// The client has recorded it itself: when it happens is its own affair.
  void recorded(std::uint64_t handle);

  /// Has `stream` wait for the event, in the current context, of this index.
  CUresult wait(std::uint64_t handle, CUevent event, CUstream stream, unsigned flags, std::uint16_t context);
  /// A thread of the client waits for the event.
  void wait_on_host(std::uint64_t handle, CUevent event);
  /// The context goes, and its streams and events with it; `alive` tells of a handle whether it names an
  /// event still.
  void forget_context(std::uint16_t context, const std::function<bool(std::uint64_t)>& alive);

  /// Whether one of the waits will never end. Looks at most every `pause_ns`, and asks the broker where a
  /// wait has lasted long.
  bool stuck(std::uint64_t now);

  static constexpr std::uint64_t pause_ns = 200'000'000;
  /// What a wait may last before it is looked into, and then again: the end of a maker takes a moment, and
  /// what it had submitted may still happen.
  static constexpr std::uint64_t patience_ns = 1'000'000'000;

 private:
  struct Event {
    std::uint64_t maker = 0;
    bool recorded_here = false;
  };
  struct Wait {
    std::uint64_t handle = 0;
    std::uint64_t maker = 0;
    CUevent before = nullptr;  // null: a wait on the host, and `after` is the foreign event itself
    CUevent after = nullptr;
    std::uint16_t context = 0;
    std::uint64_t next_look = 0;
    bool orphaned = false;
  };
  CUevent mark(CUstream stream);
  bool over(Wait& wait, std::uint64_t now, bool& never);
  void drop(CUevent event) const;

  const DriverTable& driver_;
  IpcLink& ipc_;
  std::unordered_map<std::uint64_t, Event> events_;  // by client handle
  std::vector<Wait> waits_;
  std::uint64_t next_look_ = 0;
};

}  // namespace vgpu::worker
