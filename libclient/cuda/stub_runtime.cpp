#include "libclient/cuda/stub_runtime.hpp"

#include "protocol/call_table.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {

std::uint64_t Call::per_thread_stream() {
  const CUcontext context = context_ != nullptr ? context_->cu() : nullptr;
  for (const PerThreadStream& own : thread_->streams) {
    if (own.context == context && process_->streams.find(own.stream) != nullptr) return own.stream;
  }
  const auto [stream, handle] = process_->streams.create();
  if (stream == nullptr) {
    bad_ = CUDA_ERROR_OUT_OF_MEMORY;
    return 0;
  }
  stream->context = bits(context);
  stream->id = process_->next_stream_id++;
  record::cuStreamCreate create;
  create.stream = handle;
  prepare(create.header);
  if (const CUresult result = connection().post(bytes_of(create), {}, [](std::uint64_t) {});
      result != CUDA_SUCCESS)
    bad_ = result;
  thread_->streams.push_back({context, handle});
  return handle;
}

CUresult Call::failed(CUresult error) {
  if (connection().error() == CUDA_SUCCESS) return error;
  std::call_once(process_->last_words, [this] {
    record::cuStreamSynchronize record;
    prepare(record.header);
    static_cast<void>(connection().ask(*thread_, bytes_of(record), {}, [](std::uint64_t) {}));
  });
  return error;
}

void Call::count_work(std::uint64_t position) const {
  AllWork& all = process_->work;
  const bool blocking = stream_ == nullptr || (stream_->flags & CU_STREAM_NON_BLOCKING) == 0;
  (stream_ != nullptr ? stream_->work : all.legacy).count(position, quiet_);
  (blocking ? all.blocking : all.apart).count(position, quiet_);
}

bool Call::may_set(CUdeviceptr to, std::size_t pitch, std::size_t element, std::size_t width,
                   std::size_t height) {
  if (width == 0 || height == 0) return true;
  if (to == 0 || to % element != 0) return false;
  std::size_t row = 0;
  if (__builtin_mul_overflow(width, element, &row)) return false;
  std::size_t bytes = row;
  if (height > 1) {
    if (pitch < row || pitch % element != 0) return false;
    if (__builtin_mul_overflow(height - 1, pitch, &bytes) || __builtin_add_overflow(bytes, row, &bytes))
      return false;
  }
  return true;
}

bool Call::same_device(CUevent event) const {
  const auto context_of = [this](std::uint64_t handle) {
    return process_->contexts.find(from_bits<CUcontext>(handle));
  };
  const Event* const known = process_->events.find(bits(event));
  const Context* const of_event = known != nullptr ? context_of(known->context) : nullptr;
  const Context* const of_stream = stream_ != nullptr ? context_of(stream_->context) : context_;
  // What is not known the worker judges.
  return of_event == nullptr || of_stream == nullptr || of_event->device == of_stream->device;
}

Call::Covered Call::covered() const {
  const AllWork& all = process_->work;
  return {all.blocking.value(), all.apart.value(), all.legacy.value(),
          stream_ != nullptr ? stream_->work.value() : WorkCount::Value{},
          all.orphaned.load(std::memory_order_acquire)};
}

bool Call::answers_alone() const {
  // The counts are of all contexts together, and the driver refuses some synchronisations during a capture.
  return process_->contexts.only_primary() && process_->captures.load(std::memory_order_relaxed) == 0 &&
         !process_->mirrors.any() && !connection().has_async_error();
}

bool Call::nothing_to_wait_for(bool whole_context) const {
  if (!answers_alone()) return false;
  const AllWork& all = process_->work;
  const bool blocking_ended = all.blocking.value() == all.blocking_ended.value();
  if (blocking_ended && all.apart.value() == all.apart_ended.value()) return true;
  if (whole_context) return false;
  if (stream_ == nullptr) return blocking_ended;
  return stream_->work.value() == stream_->work_ended.value() &&
         ((stream_->flags & CU_STREAM_NON_BLOCKING) != 0 ||
          all.legacy.value() == stream_->legacy_ended.value());
}

bool Call::only_quiet_work() const {
  if (!answers_alone() || process_->shares_memory.load(std::memory_order_acquire)) return false;
  AllWork& all = process_->work;
  const auto quiet = [](const WorkCount::Value& value, const WorkCount& before) {
    return value.quiet_until(before.value());
  };
  // Before the streams are looked at: they count first.
  const WorkCount::Value blocking = all.blocking.value();
  const WorkCount::Value apart = all.apart.value();
  if (quiet(blocking, all.blocking_quiet) && quiet(apart, all.apart_quiet)) return true;
  if (!quiet(blocking, all.blocking_ended) || !quiet(apart, all.apart_ended)) {
    if (all.orphaned.load(std::memory_order_acquire) != all.orphaned_ended.load(std::memory_order_acquire) ||
        !quiet(all.legacy.value(), all.legacy_ended)) {
      return false;
    }
    if (!process_->streams.all_of([&](const Stream& stream, std::uint64_t) {
          return quiet(stream.work.value(), stream.work_ended);
        })) {
      return false;
    }
  }
  all.blocking_quiet.set(blocking);
  all.apart_quiet.set(apart);
  return true;
}

void Call::look_at_legacy_stream() {
  AllWork& all = process_->work;
  const WorkCount::Value legacy = all.legacy.value();
  if (legacy.quiet_until(all.legacy_ended.value())) return;
  // A program that uses it all the time synchronises it, too.
  if (all.legacy_seen.value() != legacy) return all.legacy_seen.set(legacy);
  if (all.legacy_asked.value() == legacy || !answers_alone()) return;
  all.legacy_asked.set(legacy);
  record::cuStreamQuery query;
  query.hStream = 0;
  prepare(query.header);
  if (connection().ask(*thread_, bytes_of(query), {}, [](std::uint64_t) {}).result == CUDA_SUCCESS) {
    all.legacy_ended.set(legacy);
  }
}

void Call::ended(const Covered& covered, bool whole_context) {
  AllWork& all = process_->work;
  if (whole_context) {
    all.blocking_ended.set(covered.blocking);
    all.apart_ended.set(covered.apart);
    all.legacy_ended.set(covered.legacy);
    all.orphaned_ended.store(covered.orphaned, std::memory_order_release);
  } else if (stream_ == nullptr) {
    all.blocking_ended.set(covered.blocking);
    all.legacy_ended.set(covered.legacy);
  } else {
    stream_->work_ended.set(covered.own);
    stream_->legacy_ended.set(covered.legacy);
  }
}

void Call::waited(const RecordHeader& header) {
  const CallInfo* info = find_call(header.call);
  if (info != nullptr && info->synchronises) process_->mirrors.after_wait(*this);
}

std::uint64_t Call::mint(HandleKind kind) {
  switch (kind) {
    case HandleKind::graph_exec:
      return process_->graph_execs.create().second;
    case HandleKind::graph_node:
      return process_->graph_nodes.create().second;
    case HandleKind::graph:
      return process_->graphs.create().second;
    case HandleKind::mem_pool:
      return process_->pools.create().second;
    case HandleKind::mem_allocation:
      return process_->allocations.create().second;
    case HandleKind::module:
      return process_->modules.create().second;
    default:
      bad_ = CUDA_ERROR_NOT_SUPPORTED;
      return 0;
  }
}

void Call::forget(std::uint64_t handle) {
  switch (Handle::kind(handle)) {
    case HandleKind::graph_exec:
      process_->graph_execs.destroy(handle);
      break;
    case HandleKind::graph_node:
      process_->graph_nodes.destroy(handle);
      break;
    case HandleKind::graph:
      process_->graphs.destroy(handle);
      break;
    case HandleKind::mem_pool:
      process_->pools.destroy(handle);
      break;
    case HandleKind::mem_allocation:
      process_->allocations.destroy(handle);
      break;
    case HandleKind::module:
      process_->modules.destroy(handle);
      break;
    default:
      break;
  }
}

}  // namespace vgpu::client
