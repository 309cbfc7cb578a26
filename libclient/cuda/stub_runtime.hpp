// One driver call on its way: the checks that every call begins with, the streams and handles in its record,
// and how it is sent. What both the generated stubs and the functions written by hand are made of. Never:
// holds a lock while it waits.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

#include "libclient/cuda/process.hpp"
#include "protocol/handle.hpp"
#include "protocol/record.hpp"

/// On the definition of each exported driver function.
#define VGPU_EXPORT extern "C" __attribute__((visibility("default")))

namespace vgpu::client {

/// A handle or address as the records hold it, and back.
template <class T>
std::uint64_t bits(T* pointer) {
  return reinterpret_cast<std::uint64_t>(pointer);
}
template <class T>
T from_bits(std::uint64_t value) {
  return reinterpret_cast<T>(value);  // NOLINT(performance-no-int-to-ptr): CUDA's handles are numbers
}

/// How a call that makes an object ends: by naming it to the program, or by taking its handle back into
/// `table` where `made` says that there is no such object.
template <class Table, class Out>
CUresult hand_out(Table& table, std::uint64_t handle, CUresult made, Out* out) {
  if (made != CUDA_SUCCESS) {
    table.destroy(handle);
  } else if constexpr (std::is_pointer_v<Out>) {
    *out = from_bits<Out>(handle);
  } else {
    *out = handle;
  }
  return made;
}

/// A call of the calling thread. Made on the stack, used once, by that thread alone.
class Call {
 public:
  Call() = default;
  ~Call() = default;
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  /// Initialised, not forked, no sticky error, worker alive, and a live context current. CUDA_SUCCESS = go
  /// on.
  CUresult enter() {
    if (const CUresult result = enter_without_context(); result != CUDA_SUCCESS) return result;
    context_ = thread_->current;
    if (context_ == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
    if (!context_->live.load(std::memory_order_relaxed)) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    return CUDA_SUCCESS;
  }
  /// The same for calls that need no current context; if there is one it is used.
  CUresult enter_without_context() {
    process_ = client::process();
    if (process_ == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
    thread_ = &this_thread();
    context_ = thread_->current;
    if (thread_->in_host_function) return CUDA_ERROR_NOT_PERMITTED;
    const CUresult error = process_->connection->error();
    return error == CUDA_SUCCESS ? CUDA_SUCCESS : failed(error);
  }
  /// The call ends with an error of the device's that no answer has told: what kernels wrote before a fault
  /// comes out first. Returns `error`.
  CUresult failed(CUresult error);

  /// The call is about this device of the process's: its record carries the device's primary context.
  /// CUDA_ERROR_INVALID_DEVICE where there is none such.
  CUresult on_device(CUdevice device) {
    if (!process_->has_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    context_ = &process_->contexts.primary(device);
    return CUDA_SUCCESS;
  }

  Process& process() const { return *process_; }
  ThreadState& thread() const { return *thread_; }
  /// The current context; null only after enter_without_context().
  Context* context() const { return context_; }
  Connection& connection() const { return *process_->connection; }

  /// What a record holds for `stream`: NULL and the legacy stream as they are, this thread's own stream for
  /// CU_STREAM_PER_THREAD and, where `per_thread`, for NULL. An unknown stream makes the call fail with
  /// CUDA_ERROR_INVALID_HANDLE when it is sent. The call counts as one that adds work to the stream, unless
  /// adds_no_work() says otherwise.
  std::uint64_t stream(CUstream stream, bool per_thread) {
    std::uint64_t value = bits(stream);
    if (value == 0 ? per_thread : value == bits(CU_STREAM_PER_THREAD)) value = per_thread_stream();
    stream_ = value > 1 ? process_->streams.find(value) : nullptr;
    if (value > 1 && stream_ == nullptr) bad_ = CUDA_ERROR_INVALID_HANDLE;
    adds_work_ = true;
    return value;
  }
  /// Whether the program has such an event, or executable of a graph.
  bool knows(CUevent event) const { return process_->events.find(bits(event)) != nullptr; }
  bool knows(CUgraphExec exec) const { return process_->graph_execs.find(bits(exec)) != nullptr; }
  /// Whether a memset of `height` rows of `width` elements can be right anywhere: aligned, its rows apart, no
  /// longer than any memory. Whether it is right where it points the worker judges.
  static bool may_set(CUdeviceptr to, std::size_t pitch, std::size_t element, std::size_t width,
                      std::size_t height);
  /// Whether an event may be recorded in the named stream: both are of one device.
  bool may_record(CUevent event) const { return process_->contexts.only_primary() || same_device(event); }
  /// The call only asks about the stream that it named, or waits for it.
  void adds_no_work() { adds_work_ = false; }
  /// Whether what it sends from here on is quiet (WorkCount).
  void adds_quiet_work(bool quiet) { quiet_ = quiet; }
  /// A record of the call's has been reserved at `position`: the work that it adds is counted. Thread-safe.
  void reserved(std::uint64_t position) const {
    if (adds_work_) count_work(position);
  }

  /// What a synchronisation covers: read before its record is sent.
  struct Covered {
    WorkCount::Value blocking;
    WorkCount::Value apart;
    WorkCount::Value legacy;
    WorkCount::Value own;
    std::uint64_t orphaned = 0;
  };
  Covered covered() const;
  /// True when all that was ever sent to the named stream (`whole_context`: to any stream) is known to have
  /// ended and there is nothing that a synchronisation would have to report or bring back.
  bool nothing_to_wait_for(bool whole_context) const;
  /// True when all work of the process that is not known to have ended is quiet, so that a synchronisation
  /// need not wait for it, and memory is not shared with another process, which would see.
  bool only_quiet_work() const;
  /// After a synchronisation of another stream. Work of the legacy stream that the program once sent and
  /// never synchronised would keep only_quiet_work() from being true for ever: unless there is more of it at
  /// each look, the worker is asked once whether it has ended.
  void look_at_legacy_stream();
  /// A synchronisation of the named stream (of the context) that had read `covered` has succeeded.
  void ended(const Covered& covered, bool whole_context);

  /// A new handle of a kind that the client keeps nothing about; forget() gives it back.
  std::uint64_t mint(HandleKind kind);
  void forget(std::uint64_t handle);

  /// CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED while a capture forbids calls of this thread that capture cannot
  /// record (allocations and the like), by the capture modes of cuStreamBeginCapture and
  /// cuThreadExchangeStreamCaptureMode.
  CUresult unsafe_in_capture() const {
    if (process_->captures.load(std::memory_order_relaxed) == 0) return CUDA_SUCCESS;
    return capture_forbids();
  }

  /// The error found while the record was filled in.
  CUresult problem() const { return bad_; }

  /// Sends a record without waiting. While a stream of the process is capturing it waits, so that the
  /// driver's refusals arrive where programs expect them.
  template <class Record>
  CUresult post(Record& record, std::span<const std::byte> tail = {}) {
    static_assert(std::is_trivially_copyable_v<Record>);
    if (bad_ != CUDA_SUCCESS) return bad_;
    if (process_->mirrors.any()) [[unlikely]]
      process_->mirrors.before_work(*this);
    prepare(record.header);
    if (process_->captures.load(std::memory_order_relaxed) != 0) {
      return connection()
          .ask(*thread_, bytes_of(record), tail, [this](std::uint64_t position) { reserved(position); })
          .result;
    }
    return connection().post(bytes_of(record), tail, [this](std::uint64_t position) { reserved(position); });
  }

  /// Sends a record and waits for the answer.
  template <class Record>
  CUresult ask(Record& record, std::span<const std::byte> tail = {}) {
    static_assert(std::is_trivially_copyable_v<Record>);
    if (bad_ != CUDA_SUCCESS) return bad_;
    prepare(record.header);
    return finish(record.header, connection()
                                     .ask(*thread_, bytes_of(record), tail,
                                          [this](std::uint64_t position) { reserved(position); })
                                     .result);
  }
  /// The same, with the answer's values in `out` where the call succeeded.
  template <class Record, class Answer>
  requires(!std::is_convertible_v<Answer&, std::span<const std::byte>>) CUresult
      ask(Record& record, Answer& out, std::span<const std::byte> tail = {}) {
    static_assert(std::is_trivially_copyable_v<Record> && std::is_trivially_copyable_v<Answer>);
    if (bad_ != CUDA_SUCCESS) return bad_;
    prepare(record.header);
    const Reply reply = connection().ask(*thread_, bytes_of(record), tail,
                                         [this](std::uint64_t position) { reserved(position); });
    if (reply.result != CUDA_SUCCESS) return reply.result;
    if constexpr (!std::is_empty_v<Answer>) {
      if (reply.payload.size() < sizeof out) return CUDA_ERROR_UNKNOWN;
      std::memcpy(&out, reply.payload.data(), sizeof out);
    }
    return CUDA_SUCCESS;
  }

  /// Fills in a record's context.
  void prepare(RecordHeader& header) const {
    header.context = context_ != nullptr ? context_->index : std::uint16_t{0};
  }

 private:
  template <class Record>
  static std::span<std::byte> bytes_of(Record& record) {
    return std::as_writable_bytes(std::span(&record, 1));
  }
  // What follows a call that waited: mirrors come back with the end of the device's work.
  CUresult finish(const RecordHeader& header, CUresult result) {
    if (process_->mirrors.any() && result == CUDA_SUCCESS) [[unlikely]]
      waited(header);
    return result;
  }
  void waited(const RecordHeader& header);
  bool answers_alone() const;
  void count_work(std::uint64_t position) const;
  bool same_device(CUevent event) const;
  std::uint64_t per_thread_stream();
  CUresult capture_forbids() const;

  Process* process_ = nullptr;
  ThreadState* thread_ = nullptr;
  Context* context_ = nullptr;
  Stream* stream_ = nullptr;  // the named one; nullptr: the legacy stream
  CUresult bad_ = CUDA_SUCCESS;
  bool adds_work_ = false;
  bool quiet_ = false;
};

}  // namespace vgpu::client
