#include "daemon/worker/early_questions.hpp"

#include <algorithm>
#include <cstring>

#include "vgpu/records.hpp"

namespace vgpu::worker {
namespace {

// A client that floods the ring is not to keep the dispatcher from its gate.
constexpr unsigned most_looks = 256;

template <class Record>
Record as(std::span<const std::byte> bytes) {
  Record record;
  std::memcpy(&record, bytes.data(), std::min(sizeof record, bytes.size()));
  return record;
}

RecordHeader header_of(std::span<const std::byte> bytes) {
  return as<RecordHeader>(bytes);
}

/// The event that a record records, or 0.
std::uint64_t recorded_by(std::span<const std::byte> bytes) {
  switch (static_cast<CallId>(header_of(bytes).call)) {
    case CallId::cuEventRecord:
      return as<record::cuEventRecord>(bytes).hEvent;
    case CallId::cuEventRecordWithFlags:
      return as<record::cuEventRecordWithFlags>(bytes).hEvent;
    default:
      return 0;
  }
}

/// Whether what comes after this record may be answered before it, if it asks of other events than the record
/// names: calls that make or end none, and that cannot hide one that they record.
bool may_be_passed(std::span<const std::byte> bytes) {
  switch (static_cast<CallId>(header_of(bytes).call)) {
    case CallId::cuLaunchKernel:
      return as<record::cuLaunchKernel>(bytes).attribute_count == 0;
    case CallId::copy_to_device_inline:
    case CallId::copy_to_device_block:
    case CallId::copy_from_device_block:
    case CallId::copy_3d:
    case CallId::cuMemcpyAsync:
    case CallId::cuMemsetD8Async:
    case CallId::cuMemsetD16Async:
    case CallId::cuMemsetD32Async:
    case CallId::cuMemsetD2D8Async:
    case CallId::cuMemsetD2D16Async:
    case CallId::cuMemsetD2D32Async:
    case CallId::cuMemAllocAsync:
    case CallId::cuMemFreeAsync:
    case CallId::cuEventRecord:
    case CallId::cuEventRecordWithFlags:
    case CallId::cuEventQuery:
    case CallId::cuEventSynchronize:
    case CallId::cuEventElapsedTime_v2:
    case CallId::cuStreamWaitEvent:
    case CallId::cuStreamQuery:
    case CallId::cuStreamSynchronize:
    case CallId::cuCtxSynchronize:
      return true;
    default:
      return false;
  }
}

/// The events that a question is about; the same twice if it is one; 0: the record is no such question.
std::pair<std::uint64_t, std::uint64_t> asked_of(std::span<const std::byte> bytes) {
  const RecordHeader header = header_of(bytes);
  std::pair<std::uint64_t, std::uint64_t> events{0, 0};
  std::size_t size = 0;
  switch (static_cast<CallId>(header.call)) {
    case CallId::cuEventQuery:
      events.first = events.second = as<record::cuEventQuery>(bytes).hEvent;
      size = sizeof(record::cuEventQuery);
      break;
    case CallId::cuEventSynchronize:
      events.first = events.second = as<record::cuEventSynchronize>(bytes).hEvent;
      size = sizeof(record::cuEventSynchronize);
      break;
    case CallId::cuEventElapsedTime_v2: {
      const auto record = as<record::cuEventElapsedTime_v2>(bytes);
      events = {record.hStart, record.hEnd};
      size = sizeof record;
      break;
    }
    default:
      break;
  }
  // One of a wrong size gets its answer in its turn.
  return header.size == size && header.reply != 0 ? events : std::pair<std::uint64_t, std::uint64_t>{0, 0};
}

}  // namespace

EarlyQuestions::EarlyQuestions(const RingConsumer& ring)
    : ring_(ring), buffer_(std::max(sizeof(record::cuLaunchKernel), sizeof(record::cuEventElapsedTime_v2))) {}

std::span<const std::byte> EarlyQuestions::next(std::span<const std::byte> held, std::uint16_t context) {
  looking_ = false;
  if (!may_be_passed(held)) return {};
  catch_up();
  for (unsigned look = 0; look < most_looks; ++look) {
    const std::uint64_t at = seen_;
    std::uint64_t behind = at;
    const RingConsumer::Status status = ring_.look(behind, buffer_);
    looking_ = status == RingConsumer::Status::empty;
    if (status != RingConsumer::Status::record) return {};
    const RecordHeader header = header_of(buffer_);
    const std::span<const std::byte> bytes =
        std::span(buffer_).first(std::min<std::size_t>(header.size, buffer_.size()));
    if (!may_be_passed(bytes)) return {};
    seen_ = behind;
    if (const std::uint64_t event = recorded_by(bytes); event != 0) recorded_.emplace_back(at, event);
    const auto [first, second] = asked_of(bytes);
    if (first == 0 || header.context != context || recorded_since(first) || recorded_since(second)) continue;
    answered_.push_back(at);
    return bytes;
  }
  return {};
}

void EarlyQuestions::catch_up() {
  const std::uint64_t position = ring_.position();
  if (seen_ < position) {
    seen_ = position;
    recorded_.clear();
  }
  while (!recorded_.empty() && recorded_.front().first < position) recorded_.pop_front();
}

bool EarlyQuestions::recorded_since(std::uint64_t event) const {
  return std::any_of(recorded_.begin(), recorded_.end(),
                     [event](const auto& entry) { return entry.second == event; });
}

bool EarlyQuestions::forget_answered(std::uint64_t position) {
  if (answered_.front() != position) return false;
  answered_.pop_front();
  return true;
}

}  // namespace vgpu::worker
