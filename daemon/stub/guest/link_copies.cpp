// LinkSession: large copies between pinned host memory and the device. They go over in parts, so that this
// process copies one part between the client's pages and the slot's while the device copies another.
#include <algorithm>
#include <bit>

#include "daemon/stub/guest/link_session.hpp"
#include "protocol/address_space.hpp"
#include "protocol/arena.hpp"
#include "protocol/futex.hpp"
#include "protocol/reply_slots.hpp"
#include "vgpu/records.hpp"

namespace vgpu::stub_guest {
namespace {

constexpr std::uint64_t kPart = std::uint64_t{1} << 20;  // at least: stays in a core's cache
constexpr std::uint64_t kMostParts = 32;
constexpr std::uint64_t kPartUnit = 4096;
constexpr unsigned kMarks = 64;

template <class Record>
std::span<const std::byte> bytes_of(Record& record) {
  record.header.size = sizeof record;
  return std::as_bytes(std::span(&record, 1));
}

}  // namespace

// Takes the copy over if it is to go in parts.
bool LinkSession::begin_parts(std::span<const std::byte> bytes) {
  record::cuMemcpyAsync record;
  // A graph would get a node for each part.
  if (bytes.size() != sizeof record || captures_ != 0 || !memory_.any()) return false;
  std::memcpy(&record, bytes.data(), sizeof record);
  if (record.ByteCount < 2 * kPart) return false;
  using Kind = HostMemory::Kind;
  const Kind to = memory_.kind(record.dst, record.ByteCount);
  const Kind from = memory_.kind(record.src, record.ByteCount);
  const bool out = from == Kind::only_copied && to == Kind::other && !in_host_window(record.dst);
  const bool back = to == Kind::only_copied && from == Kind::other && !in_host_window(record.src);
  if (!out && !back) return false;
  memory_.flush();
  const std::uint64_t share = (record.ByteCount / kMostParts + kPartUnit - 1) / kPartUnit * kPartUnit;
  copy_.header = record.header;
  copy_.to = record.dst;
  copy_.from = record.src;
  copy_.bytes = record.ByteCount;
  copy_.at = 0;
  copy_.part = std::max(kPart, share);
  copy_.stream = record.hStream;
  copy_.order = order_;
  copy_.back = back;
  copy_.answered = record.header.reply == 0;
  send_part();
  return true;
}

// Sends the next part of copy_; false when it has to wait.
bool LinkSession::send_part() {
  const bool first = copy_.at == 0;
  if ((!first && !copy_.answered) || !remote_ring_.has_room()) return false;
  if (copy_.unmarked != 0 && may_mark()) send_mark(copy_.unmarked, copy_.from);
  copy_.unmarked = 0;
  // What has no mark behind it comes back when the program learns of the copy's end.
  const bool marked = copy_.back && may_mark();
  const std::uint64_t left = copy_.bytes - copy_.at;
  const std::uint64_t size = copy_.back && !marked ? left : std::min(copy_.part, left);
  record::cuMemcpyAsync record;
  record.header = copy_.header;
  record.dst = copy_.to + copy_.at;
  record.src = copy_.from + copy_.at;
  record.ByteCount = size;
  record.hStream = copy_.stream;
  std::uint64_t number = 0;
  if (copy_.back) {
    number = memory_.before_copy_to(record.dst, size, copy_.stream, copy_.header.context, copy_.order);
  } else {
    memory_.before_copy_from(record.src, size);
  }
  if (first && record.header.reply != 0) {
    const std::uint32_t reference = record.header.reply;
    begin_reply(parts_.remote.slots()[ReplyRef::slot(reference)], ReplyRef::slot(reference),
                ReplyRef::ticket(reference));
    Waiting waiting;
    waiting.reference = reference;
    waiting.call = record.header.call;
    waiting.context = record.header.context;
    waiting.order = copy_.order;
    waiting.since_ns = now_ns();
    waiting.copy = number;
    waiting_.push_back(waiting);
    // A mark that is refused like its copy would be a second error.
    copy_.unmarked = number;
  } else {
    record.header.reply = 0;
  }
  push(bytes_of(record));
  if (marked && number != 0 && copy_.unmarked == 0) send_mark(number, record.src);
  if (remote_ring_.wants_doorbell()) kick();
  copy_.at += size;
  if (copy_.at == copy_.bytes) copy_ = {};
  return true;
}

ArenaBlock* LinkSession::mark_block(unsigned index) const {
  return block_at(parts_.remote.arena(), *marks_room_ + index * sizeof(ArenaBlock), 0);
}

// True when there is room for a mark.
bool LinkSession::may_mark() {
  if (!marks_room_) marks_room_ = memory_.take(kMarks * sizeof(ArenaBlock));
  return marks_room_ && free_marks_ != 0;
}

// A copy of no bytes, whose block is completed when what stands before it in the stream has ended; may_mark()
// was true.
void LinkSession::send_mark(std::uint64_t copy, std::uint64_t from) {
  const auto index = static_cast<unsigned>(std::countr_zero(free_marks_));
  free_marks_ &= ~(std::uint64_t{1} << index);
  ArenaBlock* const block = mark_block(index);
  begin_block(*block);
  record::copy_from_device_block record;
  record.header.context = copy_.header.context;
  record.src = from;
  record.stream = copy_.stream;
  record.block = {*marks_room_ + index * sizeof(ArenaBlock), 0};
  marks_.push_back({index, copy});
  push(bytes_of(record));
}

bool LinkSession::take_marks() {
  if (marks_.empty()) return false;
  const bool any = std::erase_if(marks_, [this](const Mark& mark) {
                     const ArenaBlock* const block = mark_block(mark.index);
                     if (!block_done(*block)) return false;
                     memory_.ended_copy_to(mark.copy, block->result != CUDA_SUCCESS);
                     free_marks_ |= std::uint64_t{1} << mark.index;
                     return true;
                   }) != 0;
  if (marks_.empty()) {
    memory_.give_back(*marks_room_);
    marks_room_.reset();
  }
  return any;
}

}  // namespace vgpu::stub_guest
