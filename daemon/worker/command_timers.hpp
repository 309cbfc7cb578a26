// Times commands on the device, by an event before each and one after it, and tells the estimates. Keeps the
// events, which are a context's own. Does not choose what is timed.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <initializer_list>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "daemon/worker/completions.hpp"
#include "daemon/worker/estimates.hpp"
#include "daemon/worker/stream_hold.hpp"
#include "daemon/worker/stream_ledger.hpp"
#include "vgpu/driver_table.hpp"

namespace vgpu::worker {

/// Dispatcher only but for what completions do. Contexts used with it are not destroyed before it.
class CommandTimers {
 public:
  /// The event before a command, and its stream; none: it is not timed.
  struct Started {
    StreamKey stream;
    CUevent event = nullptr;
    std::uint64_t at_ns = 0;  ///< when that event had been sent
    bool held = false;        ///< the stream waits before it
  };

  /// All outlive the object. `gap_ns`: what timing by events adds (event_gap.hpp); 0: nothing. `hold`: null:
  /// streams are not held.
  CommandTimers(const DriverTable& driver, Completions& completions, Estimates& estimates,
                std::uint64_t gap_ns, StreamHold* hold)
      : driver_(driver), completions_(completions), estimates_(estimates), gap_ns_(gap_ns), hold_(hold) {}

  /// Before a command in a stream of the current context; end() or drop() must follow. `hold`: the stream
  /// waits until all has been sent. Not for what the driver may send only when the device has got on.
  Started begin(const StreamKey& key, CUstream stream, bool hold);
  /// After it, of a kind that Estimates::predict() has named. True: the stream has got as far as before the
  /// command, so all that it had before has ended.
  bool end(const Started& started, CUstream stream, std::uint64_t kind);
  /// There was no command.
  void drop(const Started& started, std::uint64_t kind);

 private:
  CUevent take(CUcontext context);
  void put(CUcontext context, std::initializer_list<CUevent> events);

  const DriverTable& driver_;
  Completions& completions_;
  Estimates& estimates_;
  const std::uint64_t gap_ns_;
  StreamHold* const hold_;
  std::mutex mutex_;
  std::unordered_map<CUcontext, std::vector<CUevent>> free_;  // under mutex_
};

}  // namespace vgpu::worker
