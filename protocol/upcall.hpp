// Upcalls: the worker asks the client to run a host function (cuLaunchHostFunc, cuStreamAddCallback) and
// waits until it has run. Functions are addresses of the client's own; the worker only hands them back.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

#include "protocol/channel.hpp"

namespace vgpu {

/// What the client is to run.
struct Upcall {
  std::uint32_t kind = 0;  ///< 0: CUhostFn(user), 1: CUstreamCallback(stream, status, user)
  std::int32_t status = 0;
  std::uint64_t function = 0;
  std::uint64_t user = 0;
  std::uint64_t stream = 0;
};

/// The worker's side. Thread-safe: driver threads call it.
class UpcallPoster {
 public:
  explicit UpcallPoster(const Channel& channel) : channel_(&channel) {}
  /// Posts and waits until the client ran it; returns early when `stop` becomes true.
  void call(const Upcall& upcall, const std::atomic<bool>& stop);

 private:
  const Channel* channel_;
  std::mutex mutex_;
  std::uint64_t posted_ = 0;
};

/// The client's side: one thread.
class UpcallReader {
 public:
  explicit UpcallReader(const Channel& channel) : channel_(&channel) {}
  /// Waits at most `timeout_ns` for an upcall; true when `upcall` is filled. Run it, then call finish().
  bool next(Upcall& upcall, std::uint64_t timeout_ns);
  /// Tells the worker that the upcall got by next() has run.
  void finish();

 private:
  const Channel* channel_;
  std::uint64_t position_ = 0;
};

}  // namespace vgpu
