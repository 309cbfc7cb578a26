// Contexts, streams and events: whose work is in which order.
#pragma once

#include <cuda.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "softgpu/driver/scheduler.hpp"
#include "softgpu/driver/work.hpp"

namespace softgpu {

class Context;
class SharedEvent;
struct Capture;
struct GraphNode;

/// A queue of operations that run in order.
struct Stream {
  enum class Kind : std::uint8_t { legacy, per_thread, created };

  Stream(Context& its_context, Kind its_kind, unsigned its_flags, int its_priority);

  Context& context;
  const Kind kind;
  const unsigned flags;  ///< CU_STREAM_NON_BLOCKING or CU_STREAM_DEFAULT
  const int priority;
  const std::uint64_t id;
  bool blocking() const { return (flags & CU_STREAM_NON_BLOCKING) == 0; }
  /// As programs name it.
  CUstream handle();

  OperationRef tail;  ///< last operation; under the scheduler's mutex

  std::atomic<bool> capturing{false};
  std::shared_ptr<Capture> capture;  ///< under the graph mutex, as the next
  std::vector<GraphNode*> capture_tail;

  std::array<CUstreamAttrValue, 16> attributes{};  ///< hints: kept and returned; under the graph mutex
};

/// A point in a stream's order, and the time when it was passed.
struct Event {
  Event(Context& its_context, unsigned its_flags);

  Context& context;
  const unsigned flags;
  OperationRef point;                ///< under the scheduler's mutex; null before the first record
  std::shared_ptr<Capture> capture;  ///< under the graph mutex: recorded in a capture
  std::vector<GraphNode*> capture_point;
  std::shared_ptr<SharedEvent> shared;  ///< of an interprocess event; set before anybody knows the event
};

/// Contexts are never freed, so that a stale handle is always found out; there are few.
class Context {
 public:
  Context(int device, bool primary, unsigned flags);

  const std::uint64_t id;
  const int device;  ///< its ordinal
  const bool primary;
  std::atomic<unsigned> flags;
  std::atomic<unsigned> api_version{CUDA_VERSION};
  std::atomic<bool> alive{true};
  std::atomic<bool> cancel{false};  ///< ends running grids
  std::array<std::atomic<std::size_t>, CU_LIMIT_MAX> limits{};
  std::atomic<int> cache_config{0};
  std::atomic<int> shared_config{0};

  CUcontext handle() { return reinterpret_cast<CUcontext>(this); }

  /// The sticky error, CUDA_SUCCESS if there is none.
  CUresult error() const { return static_cast<CUresult>(error_.load(std::memory_order_acquire)); }
  /// Sets the sticky error; the first one stays.
  void fail(CUresult error);

  const std::shared_ptr<Stream>& legacy_stream() const { return legacy_; }
  /// The calling thread's default stream in this context, made at the first use.
  std::shared_ptr<Stream> per_thread_stream();
  std::shared_ptr<Stream> create_stream(Stream::Kind kind, unsigned stream_flags, int priority);
  /// Forgets a stream; its pending work goes on and is still waited for.
  void forget_stream(const Stream& stream);

  /// Submits with the scheduler's mutex held: after the stream's last operation, what stream 0's rules add,
  /// and `also`. The operation becomes the stream's last.
  void submit_locked(Stream& stream, const OperationRef& operation, std::vector<OperationRef> also = {});
  /// What an operation submitted to this stream now would wait for.
  std::vector<OperationRef> predecessors_locked(const Stream& stream) const;
  /// An operation for `work`, in this context.
  OperationRef make_operation(const void* queue, std::shared_ptr<const Work> work);
  /// Submits work to a stream that is not capturing.
  OperationRef submit(Stream& stream, Work work, std::vector<OperationRef> also = {});

  /// Waits for all work submitted so far.
  void synchronize();
  bool idle() const;
  /// Last operations of all streams that are not done.
  std::vector<OperationRef> pending_locked() const;

  /// Ends all work and frees all resources of the context; a primary context can be used again afterwards.
  void reset();

 private:
  std::atomic<int> error_{CUDA_SUCCESS};
  std::shared_ptr<Stream> legacy_;
  // Under the scheduler's mutex:
  std::vector<std::shared_ptr<Stream>> streams_;  ///< all but the legacy one
  mutable std::vector<OperationRef> orphans_;     ///< pending work of destroyed streams
  std::atomic<std::uint64_t> generation_{0};      ///< counts resets: per-thread streams are remade
};

/// Default values of cuCtxGetLimit.
std::size_t default_limit(CUlimit limit);

}  // namespace softgpu
