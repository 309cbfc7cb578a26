// LinkSession: from the client to the host.
#include <algorithm>
#include <cstddef>
#include <string_view>

#include "daemon/stub/guest/image_places.hpp"
#include "daemon/stub/guest/link_session.hpp"
#include "protocol/address_space.hpp"
#include "protocol/arena.hpp"
#include "protocol/call_table.hpp"
#include "protocol/futex.hpp"
#include "protocol/handshake.hpp"
#include "protocol/message_socket.hpp"
#include "protocol/reply_slots.hpp"
#include "protocol/sealed_memory.hpp"
#include "vgpu/records.hpp"

namespace vgpu::stub_guest {
namespace {

constexpr unsigned kMostAtOnce = 64;
constexpr std::uint64_t kLargeBlock = 256 << 10;
constexpr std::uint64_t kContendedUnits =
    16;  // ring units under way when others of the guest want the device
constexpr std::size_t kMostWaitingFds = 64;

struct SpanPlaces {
  CallId call;
  std::size_t record_bytes;
  std::array<std::size_t, 2> places;  // 0: none
};

constexpr SpanPlaces kSpans[] = {
#include "vgpu/arena_spans.inc"
};

/// What the link has to know of a call.
struct Traits {
  const SpanPlaces* spans = nullptr;
  const ImagePlaces* image = nullptr;
  bool to_host = false;    ///< the client's bytes in the blocks go over
  bool to_client = false;  ///< the device's come back
  bool completes = false;  ///< the block is completed, not (only) a reply
  bool device_work = false;
  bool launch = false;
};

constexpr bool begins(std::string_view name, std::string_view with) {
  return name.substr(0, with.size()) == with;
}

const Traits& traits(std::uint16_t call) {
  static const auto* const table = [] {
    auto* const made = new std::array<Traits, call_id_end>;
    for (std::uint16_t id = 1; id < call_id_end; ++id) {
      Traits& entry = (*made)[id];
      const std::string_view name = find_call(id)->name;
      entry.device_work = begins(name, "cuLaunch") || begins(name, "cuGraphLaunch") ||
                          begins(name, "cuMemcpy") || begins(name, "cuMemset") || begins(name, "copy_") ||
                          begins(name, "cuStreamWriteValue") || begins(name, "cuStreamWaitValue") ||
                          begins(name, "cuStreamAddCallback") || begins(name, "extension_blas");
      entry.launch = name == "cuLaunchKernel" || name == "cuGraphLaunch" || name == "extension_blas";
      entry.to_host = entry.to_client = true;
    }
    for (const ImagePlaces& places : image_calls)
      (*made)[static_cast<std::uint16_t>(places.call)].image = &places;
    for (const SpanPlaces& places : kSpans) {
      if (places.call == CallId::host_map)
        continue;  // names room that was taken here, no block of the client's
      Traits& entry = (*made)[static_cast<std::uint16_t>(places.call)];
      entry.spans = &places;
      const std::string_view name = find_call(static_cast<std::uint16_t>(places.call))->name;
      entry.completes = begins(name, "copy_");
      if (name == "copy_to_device_block" || name == "cuModuleLoadData" || name == "cuLibraryLoadData") {
        entry.to_client = false;
      }
      if (name == "copy_from_device_block") entry.to_host = false;
    }
    return made;
  }();
  static constexpr Traits none;
  return call < call_id_end ? (*table)[call] : none;
}

template <class T>
T read_at(std::span<const std::byte> record, std::size_t offset) {
  T value{};
  if (record.size() >= offset + sizeof value) std::memcpy(&value, record.data() + offset, sizeof value);
  return value;
}

template <class T>
void write_at(std::span<std::byte> record, std::size_t offset, const T& value) {
  if (record.size() >= offset + sizeof value) std::memcpy(record.data() + offset, &value, sizeof value);
}

/// The record as a T; false when it is shorter than one.
template <class T>
bool read_as(std::span<const std::byte> bytes, T& record) {
  if (bytes.size() < sizeof record) return false;
  std::memcpy(&record, bytes.data(), sizeof record);
  return true;
}

ImageSource image_source(std::span<const std::byte> record, const ImagePlaces& places) {
  return static_cast<ImageSource>(read_at<std::uint32_t>(record, places.source));
}

bool adds_host_node(std::span<const std::byte> record) {
  return read_at<std::uint32_t>(record, offsetof(record::cuGraphAddNode_v2, type)) == CU_GRAPH_NODE_TYPE_HOST;
}

std::uint16_t id(CallId call) {
  return static_cast<std::uint16_t>(call);
}

}  // namespace

std::uint64_t LinkSession::bytes_out() const {
  return parts_.page.link_bytes_out.load(std::memory_order_relaxed);
}

bool LinkSession::take_records() {
  if (copy_.bytes != 0) return send_part();
  if (image_.bytes != 0) return send_image_part();
  unsigned taken = 0;
  while (taken < kMostAtOnce && copy_.bytes == 0 && image_.bytes == 0 && remote_ring_.has_room()) {
    std::size_t size = std::exchange(held_, 0);
    if (size == 0) {
      const RingConsumer::Status status = ring_.next(buffer_, size);
      if (status == RingConsumer::Status::empty) break;
      if (status == RingConsumer::Status::corrupt) {
        corrupt_ = true;
        break;
      }
    }
    const auto record = std::span(buffer_).first(size);
    if (!may_send(read_at<std::uint16_t>(record, offsetof(RecordHeader, call)))) {
      held_ = size;
      break;
    }
    const std::uint64_t before = bytes_out();
    send(record);
    ++taken;
    // Blocks that have ended are given back between two large ones: the client waits for them with the next.
    if (bytes_out() - before >= kLargeBlock) break;
  }
  if (taken != 0 && remote_ring_.wants_doorbell()) kick();
  return taken != 0;
}

// Work waits here while the guest's own scheduler gives its turn to others.
bool LinkSession::may_send(std::uint16_t call) {
  GatePage& page = parts_.page;
  const bool contended = page.allowance_ns.load(std::memory_order_acquire) != no_limit_ns ||
                         page.window_ns.load(std::memory_order_relaxed) != 0;
  if (contended_ != contended) {
    contended_ = contended;
    parts_.slot.control().guest.contended.store(contended ? 1 : 0, std::memory_order_relaxed);
  }
  if (!traits(call).launch) return true;
  if (page.backlogged.load(std::memory_order_relaxed) == 0) {
    page.backlogged.store(1, std::memory_order_release);
    call_broker();
  }
  if (!contended) return true;
  mirror_use();
  if (page.consumed_ns.load(std::memory_order_relaxed) >= page.allowance_ns.load(std::memory_order_acquire)) {
    if (page.blocked.exchange(1, std::memory_order_acq_rel) == 0) call_broker();
    return false;
  }
  page.blocked.store(0, std::memory_order_release);
  return remote_ring_.backlog() < kContendedUnits;
}

void LinkSession::call_broker() const {
  const std::uint64_t one = 1;
  if (parts_.attention >= 0) [[maybe_unused]]
    const ssize_t written = write(parts_.attention, &one, sizeof one);
}

void LinkSession::kick() {
  auto& word = parts_.slot.control().guest.kick;
  word.store(word.load(std::memory_order_relaxed) + 1, std::memory_order_seq_cst);
  parts_.function.ring(stub::vector_kick);
  count_alone(parts_.page.link_doorbells);
}

void LinkSession::send(std::span<std::byte> record) {
  RecordHeader header;
  std::memcpy(&header, record.data(), sizeof header);
  ++order_;
  count(record);
  if (header.call == id(CallId::cuMemcpyAsync) && begin_parts(record)) return;
  Waiting waiting;
  waiting.reference = header.reply;
  waiting.call = header.call;
  waiting.context = header.context;
  waiting.order = order_;
  if (header.reply != 0) waiting.since_ns = now_ns();
  // Handles of what is waited for stand first in these records.
  waiting.handle = read_at<std::uint64_t>(record, sizeof header);
  if (header.call == id(CallId::host_map) || header.call == id(CallId::host_unmap)) {
    if (!carry_region(record, waiting)) return;
  } else if (const ImagePlaces* const image = traits(header.call).image; image != nullptr) {
    if (record.size() >= image->record_bytes && image_source(record, *image) == ImageSource::memfd) {
      begin_image(record, waiting, *image);
      return;
    }
  } else if (memory_.any()) {
    keep_memory_equal(record, waiting);
  }
  forward(record, waiting);
}

// What the record points at, and the record.
void LinkSession::forward(std::span<std::byte> record, Waiting& waiting) {
  RecordHeader header;
  std::memcpy(&header, record.data(), sizeof header);
  if (!carry_spans(record, waiting)) return refuse(header, CUDA_ERROR_INVALID_VALUE);
  if (header.reply != 0) {
    ReplySlot& slot = parts_.remote.slots()[ReplyRef::slot(header.reply)];
    begin_reply(slot, ReplyRef::slot(header.reply), ReplyRef::ticket(header.reply));
    waiting_.push_back(waiting);
  }
  push(record);
}

void LinkSession::push(std::span<const std::byte> record) {
  remote_ring_.push(record);
  GatePage& page = parts_.page;
  count_alone(page.link_records);
  count_alone(page.link_bytes_out, record.size());
}

// Copies the blocks that the record names into the slot's arena, where they have the same offsets.
bool LinkSession::carry_spans(std::span<std::byte> record, Waiting& waiting) {
  const Traits& call = traits(waiting.call);
  if (call.spans == nullptr) return true;
  if (record.size() < call.spans->record_bytes) return false;
  for (std::size_t i = 0; i < most_spans; ++i) {
    const std::size_t place = call.spans->places[i];
    if (place == 0) continue;
    if (call.image != nullptr && place == call.image->image &&
        image_source(record, *call.image) != ImageSource::block) {
      continue;
    }
    const auto span = read_at<ArenaSpan>(record, place);
    if (span.bytes == 0) continue;
    ArenaBlock* const from = block_at(parts_.local.arena(), span.offset, span.bytes);
    if (from == nullptr) return false;
    // The local arena is no larger than the part of the slot's that mirrors it.
    ArenaBlock* const to = block_at(parts_.remote.arena(), span.offset, span.bytes);
    if (to == nullptr) return false;
    const bool out = i == 0 || !call.completes;  // copy_3d: first the source, then the target
    if (call.completes) begin_block(*to);
    if (call.to_host && (out || call.to_client)) {
      crew_.copy(Arena::data(to), Arena::data(from), span.bytes);
      count_alone(parts_.page.link_bytes_out, span.bytes);
    }
    const bool back =
        call.to_client && (!call.completes || i == 1 || waiting.call == id(CallId::copy_from_device_block));
    if (call.completes) {
      const std::uint64_t stream =
          waiting.call == id(CallId::copy_3d)
              ? read_at<std::uint64_t>(record, offsetof(record::copy_3d, stream))
              : read_at<std::uint64_t>(record, offsetof(record::copy_from_device_block, stream));
      blocks_.push_back({span.offset, span.bytes, back, stream, waiting.context, order_});
    } else if (back) {
      waiting.back[i] = {span.offset, span.bytes};
    }
  }
  return true;
}

UniqueFd LinkSession::take_fd(std::uint64_t token) {
  while (parts_.direct_socket >= 0 && fds_.size() < kMostWaitingFds) {
    auto message = receive_message(parts_.direct_socket, 0);
    if (!message || message->none || message->closed) break;
    const auto* const region = message->as<HostRegion>();
    if (region == nullptr || message->fds.size() != 1) continue;
    fds_.emplace_back(region->address, std::move(message->fds.front()));
  }
  const auto found =
      std::find_if(fds_.begin(), fds_.end(), [token](const auto& entry) { return entry.first == token; });
  if (found == fds_.end()) return UniqueFd();
  UniqueFd fd = std::move(found->second);
  fds_.erase(found);
  return fd;
}

// Once a session: a program may ask for less and less until it gets it.
void LinkSession::tell_of_full_slot(std::uint64_t wanted) {
  if (std::exchange(told_of_full_slot_, true) || !parts_.log) return;
  const auto kib = [](std::uint64_t bytes) { return std::to_string(bytes >> 10U) + " KiB"; };
  parts_.log(kib(wanted) +
             " of pinned, mapped or managed memory do not fit into a process's share of BAR2, which is " +
             kib(memory_.size()) + " with " + kib(memory_.used()) +
             " in use: the program is told that it is out of memory. A larger 'size' of the VM on the host, "
             "or fewer 'slots', "
             "make it larger");
}

bool LinkSession::carry_region(std::span<std::byte> bytes, Waiting& waiting) {
  if (waiting.call == id(CallId::host_unmap)) {
    waiting.address = read_at<std::uint64_t>(bytes, offsetof(record::host_unmap, address));
    return true;
  }
  record::host_map record;
  if (!read_as(bytes, record)) return true;  // the host refuses it
  const UniqueFd fd = take_fd(record.address);
  if (record.bytes == 0 || record.bytes % 4096 != 0 || sealed_bytes(fd.get()).value_or(0) < record.bytes) {
    refuse(record.header, CUDA_ERROR_INVALID_VALUE);
    return false;
  }
  const auto room = memory_.take(record.bytes);
  if (!room) {
    tell_of_full_slot(record.bytes);
    refuse(record.header, CUDA_ERROR_OUT_OF_MEMORY);
    return false;
  }
  if (!memory_.add(record.address, record.bytes, fd.get(), *room, record.managed != 0)) {
    memory_.give_back(*room);
    refuse(record.header, CUDA_ERROR_INVALID_VALUE);
    return false;
  }
  write_at(bytes, offsetof(record::host_map, memory), ArenaSpan{*room, record.bytes});
  waiting.address = record.address;
  return true;
}

void LinkSession::keep_memory_equal(std::span<const std::byte> bytes, Waiting& waiting) {
  const Traits& call = traits(waiting.call);
  switch (static_cast<CallId>(waiting.call)) {
    case CallId::cuMemcpyAsync: {
      record::cuMemcpyAsync record;
      if (!read_as(bytes, record)) return;
      // A graph makes the copy again at each launch.
      if (captures_ != 0) memory_.note_addresses(bytes.subspan(sizeof(RecordHeader)));
      memory_.flush();
      memory_.before_copy_from(record.src, record.ByteCount);
      waiting.copy =
          memory_.before_copy_to(record.dst, record.ByteCount, record.hStream, waiting.context, order_);
      return;
    }
    case CallId::cuStreamWaitEvent:
      memory_.note_dependency();
      return;
    case CallId::cuEventRecord:
    case CallId::cuEventRecordWithFlags:
      events_[waiting.handle] = {read_at<std::uint64_t>(bytes, sizeof(RecordHeader) + 8), order_,
                                 waiting.context};
      return;
    case CallId::cuEventDestroy_v2:
      events_.erase(waiting.handle);
      return;
    case CallId::cuLaunchHostFunc:
    case CallId::cuStreamAddCallback:
      memory_.track_all();
      break;
    case CallId::cuGraphAddNode_v2:
      if (adds_host_node(bytes)) memory_.track_all();
      break;
    default:
      break;
  }
  const bool named = memory_.note_addresses(bytes.subspan(sizeof(RecordHeader)));
  if (named && (begins(find_name(waiting.call), "cuStreamWaitValue") ||
                begins(find_name(waiting.call), "cuStreamWriteValue"))) {
    flags_in_memory_ = true;
  }
  if (named || call.device_work) memory_.flush();
}

std::string_view LinkSession::find_name(std::uint16_t call) {
  const CallInfo* const info = find_call(call);
  return info != nullptr ? info->name : std::string_view();
}

// Answered here: the host does not hear of it.
void LinkSession::refuse(const RecordHeader& header, std::int32_t result) {
  parts_.page.errors.fetch_add(1, std::memory_order_relaxed);
  if (header.reply != 0) {
    complete_reply(parts_.local, header.reply, result);
    return;
  }
  std::uint32_t none = 0;
  parts_.local.control().async_error.compare_exchange_strong(none, static_cast<std::uint32_t>(result));
}

void LinkSession::count(std::span<const std::byte> record) {
  RecordHeader header;
  std::memcpy(&header, record.data(), sizeof header);
  GatePage& page = parts_.page;
  count_alone(page.records);
  if (header.reply != 0) count_alone(page.waited_calls);
  if (header.call < call_id_end) count_alone(page.calls[header.call]);
  switch (static_cast<CallId>(header.call)) {
    case CallId::cuLaunchKernel:
      count_alone(page.launches);
      break;
    case CallId::cuGraphLaunch:
      count_alone(page.graph_launches);
      break;
    case CallId::cuModuleLoadData:
    case CallId::cuLibraryLoadData:
      count_alone(page.modules);
      break;
    case CallId::cuMemAlloc_v2:
    case CallId::cuMemAllocAsync:
    case CallId::cuMemAllocPitch_v2:
    case CallId::cuMemAllocFromPoolAsync:
    case CallId::cuMemCreate:
      count_alone(page.allocations);
      break;
    case CallId::copy_to_device_inline:
      count_alone(page.bytes_to_device,
                  record.size() - std::min(record.size(), sizeof(record::copy_to_device_inline)));
      break;
    case CallId::copy_to_device_block:
      count_alone(page.bytes_to_device,
                  read_at<ArenaSpan>(record, offsetof(record::copy_to_device_block, block)).bytes);
      break;
    case CallId::copy_from_device_block:
      count_alone(page.bytes_from_device,
                  read_at<ArenaSpan>(record, offsetof(record::copy_from_device_block, block)).bytes);
      break;
    case CallId::cuMemcpyAsync: {
      const auto copy = read_at<record::cuMemcpyAsync>(record, 0);
      count_alone(in_host_window(copy.src)   ? page.bytes_to_device
                  : in_host_window(copy.dst) ? page.bytes_from_device
                                             : page.bytes_on_device,
                  copy.ByteCount);
      break;
    }
    case CallId::cuLaunchHostFunc:
    case CallId::cuStreamAddCallback:
      host_functions_ = true;
      break;
    case CallId::cuGraphAddNode_v2:
      if (adds_host_node(record)) host_functions_ = true;
      break;
    case CallId::cuStreamBeginCapture_v2:
    case CallId::cuStreamBeginCaptureToGraph:
      ++captures_;
      break;
    case CallId::cuStreamEndCapture:
      captures_ -= captures_ != 0 ? 1 : 0;
      break;
    case CallId::client_refused:
      count_alone(page.unsupported);
      break;
    default:
      break;
  }
}

}  // namespace vgpu::stub_guest
