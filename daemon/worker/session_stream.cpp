// Streams and events: creation, ends, and waiting for them without holding up the dispatcher.
#include <algorithm>
#include <array>
#include <cstring>

#include "daemon/worker/session.hpp"
#include "protocol/futex.hpp"
#include "protocol/graph_node.hpp"

namespace vgpu::worker {
namespace {

/// For how long a stream that later records wait for is asked whether it has ended.
constexpr std::uint64_t longest_asking_ns = 200'000;

}  // namespace

CUresult Session::handle(const record::cuStreamCreate& record, reply::cuStreamCreate&, Tail) {
  if (driver_.cuStreamCreateWithPriority == nullptr) return unsupported(record.header.call);
  if (!can_bind(HandleKind::stream, record.stream)) return CUDA_ERROR_INVALID_HANDLE;
  CUstream stream = nullptr;
  const CUresult result =
      driver_.cuStreamCreateWithPriority(&stream, record.flags, stream_priority(record.priority));
  if (result != CUDA_SUCCESS) return result;
  bind(HandleKind::stream, record.stream, stream);
  contexts_.add_stream(stream, contexts_.current());
  return CUDA_SUCCESS;
}

void Session::orphan_work(const StreamKey& stream) {
  const StreamLedger::Done ended = ledger_.orphan(stream);
  // It goes on; the fence tells when it has ended.
  const CUresult result = after_stream(stream, ended);
  errors_.note(result);
  if (result != CUDA_SUCCESS) ended(result);
}

CUresult Session::handle(const record::cuStreamDestroy_v2& record, reply::cuStreamDestroy_v2&, Tail) {
  if (driver_.cuStreamDestroy_v2 == nullptr) return unsupported(record.header.call);
  CUstream stream = nullptr;
  if (!handles_.look_up(HandleKind::stream, record.stream, stream)) return CUDA_ERROR_INVALID_HANDLE;
  const bool captured = capturing(stream);
  if (captured && captures_ != 0) --captures_;
  const StreamKey key = contexts_.key_of(stream);
  if (!captured && ledger_.busy(key)) orphan_work(key);
  ledger_.forget(key);
  contexts_.remove_stream(stream);
  handles_.forget(HandleKind::stream, record.stream);
  return driver_.cuStreamDestroy_v2(stream);
}

CUresult Session::query_stream(CUstream stream) {
  const StreamLedger::Mark mark = ledger_.mark(contexts_.key_of(stream));
  const CUresult result = driver_.cuStreamQuery(stream);
  if (result != CUDA_ERROR_NOT_READY) ledger_.ended(mark);
  return result;
}

CUresult Session::handle(const record::cuStreamSynchronize& record, reply::cuStreamSynchronize&, Tail) {
  CUstream stream = nullptr;
  if (!resolve(record.hStream, stream)) return CUDA_ERROR_INVALID_HANDLE;
  if (driver_.cuStreamQuery == nullptr) return unsupported(record.header.call);
  // Also refuses a capturing stream, in which an event must not be recorded.
  if (const CUresult result = query_stream(stream); result != CUDA_ERROR_NOT_READY) {
    // Returns at once, and lets the driver write out what kernels printed, also before a fault.
    return something_written(result) && driver_.cuStreamSynchronize != nullptr
               ? driver_.cuStreamSynchronize(stream)
               : result;
  }
  const PendingReply pending = defer();
  const CUresult result = after_stream_soon(
      contexts_.key_of(stream), [this, pending](CUresult what) { answer(pending, what); }, true);
  if (result != CUDA_SUCCESS) answer(pending, result);
  return deferred;
}

CUresult Session::handle(const record::await_stream& record, reply::await_stream&, Tail) {
  CUstream stream = nullptr;
  if (!resolve(record.stream, stream)) return CUDA_ERROR_INVALID_HANDLE;
  if (driver_.cuStreamQuery == nullptr) return unsupported(record.header.call);
  awaited_ = AwaitedStream{record.stream, stream, contexts_.index(), 0};
  return CUDA_SUCCESS;
}

Session::NextRecord Session::behind_awaited() {
  std::array<std::byte, std::max({sizeof(record::copy_to_device_inline), sizeof(record::copy_to_device_block),
                                  sizeof(record::await_stream)})>
      next{};
  std::uint64_t position = ring_.position();
  const RingConsumer::Status seen = ring_.look(position, next);
  if (seen != RingConsumer::Status::record) {
    // What is wrong with it next() will say.
    return seen == RingConsumer::Status::empty ? NextRecord::none : NextRecord::may_run;
  }
  RecordHeader header;
  std::memcpy(&header, next.data(), sizeof header);
  const auto same_stream = [&]<class Record>(Record record) {
    std::memcpy(&record, next.data(), sizeof record);
    return record.stream == awaited_->handle && header.context == awaited_->context;
  };
  switch (static_cast<CallId>(header.call)) {
    case CallId::copy_to_device_inline:
      if (same_stream(record::copy_to_device_inline{})) return NextRecord::may_run;
      break;
    case CallId::copy_to_device_block:
      if (same_stream(record::copy_to_device_block{})) return NextRecord::may_run;
      break;
    case CallId::await_stream:
      if (same_stream(record::await_stream{})) return NextRecord::may_run;
      break;
    default:
      break;
  }
  if (contexts_.switch_to(awaited_->context) != CUDA_SUCCESS) {
    awaited_.reset();
    return NextRecord::may_run;
  }
  const CUresult result = query_stream(awaited_->stream);
  if (result != CUDA_ERROR_NOT_READY) {
    errors_.note(result);
    awaited_.reset();
    return NextRecord::may_run;
  }
  const std::uint64_t now = now_ns();
  if (awaited_->asked_since == 0) awaited_->asked_since = now;
  if (now - awaited_->asked_since < longest_asking_ns) return NextRecord::waits;
  // Others have the device: this thread sleeps until it is over.
  const StreamKey key = contexts_.key_of(awaited_->stream);
  awaited_.reset();
  hold_records();
  if (after_stream(key, [this](CUresult) { release_records(); }) != CUDA_SUCCESS) release_records();
  return NextRecord::waits;
}

CUresult Session::handle(const record::cuStreamQuery& record, reply::cuStreamQuery&, Tail) {
  CUstream stream = nullptr;
  if (!resolve(record.hStream, stream)) return CUDA_ERROR_INVALID_HANDLE;
  if (driver_.cuStreamQuery == nullptr) return unsupported(record.header.call);
  return driver_.cuStreamQuery(stream);
}

CUresult Session::handle(const record::cuEventDestroy_v2& record, reply::cuEventDestroy_v2&, Tail) {
  if (driver_.cuEventDestroy_v2 == nullptr) return unsupported(record.header.call);
  CUevent event = nullptr;
  if (!resolve(record.event, event)) return CUDA_ERROR_INVALID_HANDLE;
  handles_.forget(HandleKind::event, record.event);
  shared_.withdraw(record.event);
  foreign_waits_.closed(record.event);
  if (completions_.waits_for(event)) {
    // Another thread of the client waits for it: it goes when that wait has ended.
    completions_.after_event(
        event, [this, event](CUresult) { errors_.note_unwaited(driver_.cuEventDestroy_v2(event)); });
    return CUDA_SUCCESS;
  }
  return driver_.cuEventDestroy_v2(event);
}

CUresult Session::handle(const record::cuEventQuery& record, reply::cuEventQuery&, Tail) {
  CUevent event = nullptr;
  if (!resolve(record.hEvent, event)) return CUDA_ERROR_INVALID_HANDLE;
  if (driver_.cuEventQuery == nullptr) return unsupported(record.header.call);
  return driver_.cuEventQuery(event);
}

CUresult Session::handle(const record::cuEventSynchronize& record, reply::cuEventSynchronize&, Tail) {
  CUevent event = nullptr;
  if (!resolve(record.hEvent, event)) return CUDA_ERROR_INVALID_HANDLE;
  if (driver_.cuEventQuery == nullptr) return unsupported(record.header.call);
  if (const CUresult result = driver_.cuEventQuery(event); result != CUDA_ERROR_NOT_READY) {
    return something_written(result) && driver_.cuEventSynchronize != nullptr
               ? driver_.cuEventSynchronize(event)
               : result;
  }
  foreign_waits_.wait_on_host(record.hEvent, event);
  const PendingReply pending = defer();
  completions_.after_event(event, [this, pending](CUresult what) { answer(pending, what); });
  return deferred;
}

CUresult Session::handle(const record::cuEventRecord& record, reply::cuEventRecord&, Tail) {
  if (driver_.cuEventRecord == nullptr) return unsupported(record.header.call);
  CUevent event = nullptr;
  CUstream stream = nullptr;
  if (!resolve(record.hEvent, event) || !resolve(record.hStream, stream)) return CUDA_ERROR_INVALID_HANDLE;
  foreign_waits_.recorded(record.hEvent);
  return driver_.cuEventRecord(event, stream);
}

CUresult Session::handle(const record::cuEventRecordWithFlags& record, reply::cuEventRecordWithFlags&, Tail) {
  if (driver_.cuEventRecordWithFlags == nullptr) return unsupported(record.header.call);
  CUevent event = nullptr;
  CUstream stream = nullptr;
  if (!resolve(record.hEvent, event) || !resolve(record.hStream, stream)) return CUDA_ERROR_INVALID_HANDLE;
  foreign_waits_.recorded(record.hEvent);
  return driver_.cuEventRecordWithFlags(event, stream, record.flags);
}

CUresult Session::handle(const record::cuStreamWaitEvent& record, reply::cuStreamWaitEvent&, Tail) {
  if (driver_.cuStreamWaitEvent == nullptr) return unsupported(record.header.call);
  CUevent event = nullptr;
  CUstream stream = nullptr;
  if (!resolve(record.hEvent, event) || !resolve(record.hStream, stream)) return CUDA_ERROR_INVALID_HANDLE;
  const bool foreign = foreign_waits_.knows(record.hEvent);
  const CUresult result =
      foreign && !capturing(stream)
          ? foreign_waits_.wait(record.hEvent, event, stream, record.Flags, contexts_.index())
          : driver_.cuStreamWaitEvent(stream, event, record.Flags);
  if (result != CUDA_SUCCESS) return result;
  note_stream_work(stream, 0);
  if (foreign) note_held(stream);
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::cuStreamBatchMemOp_v2& record, reply::cuStreamBatchMemOp_v2&,
                         Tail tail) {
  if (driver_.cuStreamBatchMemOp_v2 == nullptr) return unsupported(record.header.call);
  CUstream stream = nullptr;
  if (!resolve(record.stream, stream)) return CUDA_ERROR_INVALID_HANDLE;
  if (record.count == 0 || record.count > max_batch_operations ||
      tail.size() != record.count * sizeof(CUstreamBatchMemOpParams)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::vector<CUstreamBatchMemOpParams> operations(record.count);
  std::memcpy(operations.data(), tail.data(), tail.size());
  const CUresult result =
      driver_.cuStreamBatchMemOp_v2(stream, record.count, operations.data(), record.flags);
  if (result != CUDA_SUCCESS) return result;
  note_stream_work(stream, 0);
  note_held(stream);  // some of them may be waits
  return CUDA_SUCCESS;
}

}  // namespace vgpu::worker
