// LinkSession: the loop, and from the host to the client.
#include "daemon/stub/guest/link_session.hpp"

#include <algorithm>
#include <thread>
#include <utility>

#include "protocol/arena.hpp"
#include "protocol/call_table.hpp"
#include "protocol/futex.hpp"
#include "protocol/handshake.hpp"
#include "protocol/message_socket.hpp"
#include "protocol/record.hpp"
#include "protocol/reply_slots.hpp"
#include "vgpu/records.hpp"

namespace vgpu::stub_guest {
namespace {

constexpr std::uint64_t kShortestPauseNs = 20'000;
constexpr std::uint64_t kPausePart = 16;  // a pause is at most this part of the time waited so far
constexpr std::uint64_t kLeastPendingSpinNs = 50'000;  // a sleep takes longer: nobody can wake this process
constexpr int kLooksApart = 24;                        // some microsecond
constexpr unsigned kMostHelpers = 7;
constexpr std::uint64_t kHelperSpinNs = 100'000;  // from one part of a copy to the next
constexpr std::uint64_t kLongestPauseNs = 1'000'000;
constexpr std::uint64_t kLongestIdleSpinNs = 5'000'000;  // as a worker's
constexpr std::uint64_t kIdleSleepNs = 50'000'000;
constexpr std::uint64_t kLookAroundNs = 50'000'000;
constexpr std::uint64_t kCompareNs =
    200'000;  // how often little tracked memory is compared while work is under way

std::uint32_t done_word(std::uint32_t ticket) {
  return ticket << 2U | static_cast<std::uint32_t>(Phase::done);
}

// One thread copies at 8 to 10 GB/s, and every byte is copied here once more than without a link.
unsigned helpers() {
  return many_cpus() ? std::min(std::thread::hardware_concurrency() / 2 - 1, kMostHelpers) : 0;
}

}  // namespace

LinkSession::LinkSession(const LinkParts& parts)
    : parts_(parts),
      ring_(parts.local),
      remote_ring_(parts.remote),
      crew_(helpers(), kHelperSpinNs),
      memory_(parts.remote.arena(),
              parts.local.arena().size() +
                  2 * image_part_bytes(parts.remote.arena().size(), parts.local.arena().size()),
              crew_),
      buffer_(max_record_bytes),
      pending_spin_ns_(many_cpus() ? longest_wait_spin_ns : std::max(default_spin_ns(), kLeastPendingSpinNs)),
      idle_spin_(default_spin_ns(), many_cpus() ? kLongestIdleSpinNs : default_spin_ns(), default_spin_ns()) {
  // Words of the guest's outlive a session of the slot.
  stub::SlotGuest& words = parts_.slot.control().guest;
  words.contended.store(0, std::memory_order_relaxed);
  words.console_read.store(0, std::memory_order_release);
}

LinkEnd LinkSession::run() {
  std::uint64_t idle_since = 0;
  LinkEnd end{};
  for (;;) {
    const bool moved = static_cast<int>(take_records()) | static_cast<int>(take_replies()) |
                       static_cast<int>(take_blocks()) | static_cast<int>(take_upcalls());
    if (corrupt_) return LinkEnd::corrupt_ring;
    if (moved) {
      idle_since = 0;
      if (asleep_since_ != 0) idle_spin_.slept(now_ns() - std::exchange(asleep_since_, 0));
      // Who only sends is not slowed down by a look at each word that it writes.
      if (!few_cpus() && !busy()) {
        for (int i = 0; i < kLooksApart; ++i) cpu_relax();
      }
    } else {
      const std::uint64_t now = now_ns();
      if (idle_since == 0) idle_since = now;
      rest(now - idle_since);
    }
    if (const std::uint64_t now = now_ns(); now - looked_around_ns_ > kLookAroundNs) {
      looked_around_ns_ = now;
      if (look_around(end)) return end;
    }
  }
}

// True while something may come from the host at any moment.
bool LinkSession::busy() {
  return !waiting_.empty() || !blocks_.empty() || !marks_.empty() || upcalls_begun_ != upcalls_ended_ ||
         held_ != 0 || copy_.bytes != 0 || image_.bytes != 0;
}

// The worker's own word; until it has taken what was sent, there is work too. Not for every turn of a spin:
// the worker writes these lines with every record.
bool LinkSession::device_busy() {
  return parts_.slot.control().host.backlogged.load(std::memory_order_relaxed) != 0 ||
         remote_ring_.backlog() != 0;
}

void LinkSession::rest(std::uint64_t idle_ns) {
  const bool under_way = busy();
  if (memory_.tracks_little() && (under_way || device_busy())) {
    if (const std::uint64_t now = now_ns(); now - compared_ns_ > kCompareNs) {
      compared_ns_ = now;
      memory_.compare();
    }
  }
  bool waiter_here = false;
  if (few_cpus()) {
    ChannelControl& control = parts_.local.control();
    const std::uint32_t here = this_cpu();
    if (control.consumer_cpu.load(std::memory_order_relaxed) != here) {
      control.consumer_cpu.store(here, std::memory_order_relaxed);
    }
    waiter_here = control.waiter_cpu.load(std::memory_order_relaxed) == here;
  }
  if (idle_ns < (under_way ? pending_spin_ns_ : idle_spin_.ns()) && (under_way || !waiter_here)) {
    // An answer is seen by the loop around this only.
    const int looks = under_way && !few_cpus() ? 1 : 32;
    for (int i = 0; i < looks && !ring_.ready(); ++i) cpu_relax();
    if (!ring_.ready()) spin_yield();
    return;
  }
  mirror_use();
  const bool at_work = device_busy();
  if (!under_way && !at_work && parts_.page.backlogged.load(std::memory_order_relaxed) != 0) {
    parts_.page.backlogged.store(0, std::memory_order_release);
    if (parts_.page.others_wait.load(std::memory_order_relaxed) != 0) call_broker();
  }
  const bool soon =
      under_way || host_functions_ || (at_work && (flags_in_memory_ || memory_.tracks_little()));
  std::uint64_t longest = at_work ? kLongestPauseNs : kIdleSleepNs;
  if (soon) {
    longest = std::clamp(idle_ns / kPausePart, kShortestPauseNs, kLongestPauseNs);
  }
  if (held_ != 0 || copy_.bytes != 0 || image_.bytes != 0) {
    // A record waits for the guest's scheduler, for the worker to take some, or behind a copy's or image's
    // part.
    const std::uint32_t refill = parts_.page.refill.load(std::memory_order_acquire);
    futex_wait(parts_.page.refill, refill, std::min(longest, kLongestPauseNs));
    return;
  }
  if (!under_way && asleep_since_ == 0) asleep_since_ = now_ns();
  ring_.sleep(longest);
}

bool LinkSession::look_around(LinkEnd& end) {
  GatePage& page = parts_.page;
  mirror_use();
  mirror_words();
  page.queue_depth.store(ring_.backlog_units() + remote_ring_.backlog(), std::memory_order_relaxed);
  page.last_activity_ns.store(looked_around_ns_, std::memory_order_relaxed);
  page.doorbells.store(parts_.local.control().doorbells.load(std::memory_order_relaxed),
                       std::memory_order_relaxed);
  if (parts_.broker_socket >= 0 && peer_hung_up(parts_.broker_socket)) {
    end = LinkEnd::broker_gone;
    return true;
  }
  host_problem_ = parts_.slot.problem();
  if (host_problem_.empty() && parts_.remote.control().closed.load(std::memory_order_acquire) != 0) {
    host_problem_ = "the host ended the session";
  }
  if (!host_problem_.empty()) {
    // What came before the end is still good.
    take_replies();
    take_blocks();
    mirror_words();
    end = LinkEnd::host_gone;
    return true;
  }
  // What a client sent before it went is run by the host before the slot is closed; but nobody waits any more
  // for the answer that a copy's other parts wait for.
  const bool unsent = held_ != 0 || (copy_.bytes != 0 && copy_.answered);
  if (!unsent && !ring_.ready() && remote_ring_.backlog() == 0 && parts_.direct_socket >= 0 &&
      peer_hung_up(parts_.direct_socket)) {
    end = LinkEnd::client_gone;
    return true;
  }
  return false;
}

void LinkSession::mirror_use() {
  const stub::SlotHost& host = parts_.slot.control().host;
  GatePage& page = parts_.page;
  constexpr auto relaxed = std::memory_order_relaxed;
  page.kernel_ns.store(host.kernel_ns.load(relaxed), relaxed);
  page.memory_used.store(host.memory_used.load(relaxed), relaxed);
  page.memory_peak.store(host.memory_peak.load(relaxed), relaxed);
  page.metered.store(host.metered.load(relaxed), relaxed);
  page.progress.store(host.progress.load(relaxed), relaxed);
  page.beats.store(host.beats.load(relaxed), relaxed);
  page.in_flight.store(host.in_flight.load(relaxed), std::memory_order_release);
  page.consumed_ns.store(host.consumed_ns.load(relaxed), std::memory_order_release);
}

void LinkSession::mirror_words() {
  ChannelControl& local = parts_.local.control();
  const ChannelControl& remote = parts_.remote.control();
  if (const std::uint32_t sticky = remote.sticky_error.load(std::memory_order_acquire);
      sticky != 0 && local.sticky_error.load(std::memory_order_relaxed) == 0) {
    local.sticky_error.store(sticky, std::memory_order_release);
    parts_.page.sticky_error.store(sticky, std::memory_order_relaxed);
  }
  if (remote.prints.load(std::memory_order_acquire) != 0) local.prints.store(1, std::memory_order_release);
  // The worker sets the word, and clears it when it has reported the error; the client may take it meanwhile.
  const std::uint32_t async = remote.async_error.load(std::memory_order_acquire);
  if (async != async_error_) {
    async_error_ = async;
    local.async_error.store(async, std::memory_order_release);
  }
}

bool LinkSession::take_replies() {
  bool any = false;
  for (std::size_t i = 0; i < waiting_.size();) {
    const ReplySlot& slot = parts_.remote.slots()[ReplyRef::slot(waiting_[i].reference)];
    if (slot.state.load(std::memory_order_acquire) != done_word(ReplyRef::ticket(waiting_[i].reference))) {
      ++i;
      continue;
    }
    const Waiting waiting = waiting_[i];
    waiting_[i] = waiting_.back();
    waiting_.pop_back();
    // Copies that have ended by now are told of first: the client waited for one of the two.
    take_blocks();
    answer(waiting);
    any = true;
  }
  return any;
}

void LinkSession::answer(const Waiting& waiting) {
  const ReplySlot& slot = parts_.remote.slots()[ReplyRef::slot(waiting.reference)];
  const std::int32_t result = slot.result;
  std::uint32_t flags = slot.flags;
  std::array<std::byte, reply_payload_bytes> payload;
  const std::size_t bytes = std::min<std::size_t>(slot.payload_size, payload.size());
  std::memcpy(payload.data(), slot.payload, bytes);
  for (const Span& span : waiting.back) {
    if (span.bytes == 0) continue;
    ArenaBlock* const from = block_at(parts_.remote.arena(), span.offset, span.bytes);
    ArenaBlock* const to = block_at(parts_.local.arena(), span.offset, span.bytes);
    crew_.copy(Arena::data(to), Arena::data(from), span.bytes);
    parts_.page.link_bytes_in.fetch_add(span.bytes, std::memory_order_relaxed);
  }
  if (waiting.copy != 0 && result != CUDA_SUCCESS) memory_.ended_copy_to(waiting.copy, true);
  if (copy_.bytes != 0 && waiting.reference == copy_.header.reply) {
    // Of a copy that is refused, the program hears once.
    copy_.answered = true;
    if (result != CUDA_SUCCESS) copy_ = {};
  }
  if (memory_.any()) learned(waiting, result);
  if (waiting.call == static_cast<std::uint16_t>(CallId::host_map)) {
    reply::host_map reply;
    if (result != CUDA_SUCCESS) {
      memory_.remove(waiting.address);
    } else if (bytes >= sizeof reply) {
      std::memcpy(&reply, payload.data(), sizeof reply);
      memory_.set_device_address(waiting.address, reply.dptr);
    }
  } else if (waiting.call == static_cast<std::uint16_t>(CallId::host_unmap) && result == CUDA_SUCCESS) {
    memory_.remove(waiting.address);
  } else if ((waiting.call == static_cast<std::uint16_t>(CallId::cuStreamBeginCapture_v2) ||
              waiting.call == static_cast<std::uint16_t>(CallId::cuStreamBeginCaptureToGraph)) &&
             result != CUDA_SUCCESS) {
    captures_ -= captures_ != 0 ? 1 : 0;
  }
  if (flags != 0 && !forward_text()) flags |= ReplyFlags::more_console;
  mirror_words();
  if (result != CUDA_SUCCESS && result != CUDA_ERROR_NOT_READY) {
    parts_.page.errors.fetch_add(1, std::memory_order_relaxed);
  }
  parts_.page.latency[latency_bucket(now_ns() - waiting.since_ns)].fetch_add(1, std::memory_order_relaxed);
  complete_reply(parts_.local, waiting.reference, result, std::span(payload).first(bytes), flags);
}

// The client is about to learn from this answer that work has ended: what the device wrote is to be there.
void LinkSession::learned(const Waiting& waiting, std::int32_t result) {
  switch (static_cast<CallId>(waiting.call)) {
    case CallId::cuStreamSynchronize:
    case CallId::cuStreamQuery:
      if (result == CUDA_SUCCESS) memory_.learned_stream(waiting.handle, waiting.context, waiting.order);
      return;
    case CallId::cuCtxSynchronize:
      if (result == CUDA_SUCCESS) memory_.learned_all(waiting.context, waiting.order);
      return;
    case CallId::cuEventSynchronize:
    case CallId::cuEventQuery:
    case CallId::cuEventElapsedTime_v2:
      if (result == CUDA_SUCCESS) {
        const auto point = events_.find(waiting.handle);
        if (point == events_.end()) {
          memory_.learned_something();
        } else {
          memory_.learned_stream(point->second.stream, point->second.context, point->second.order);
        }
      }
      return;
    case CallId::host_unmap:
      memory_.learned_all(waiting.context, waiting.order);
      return;
    default:
      if (const CallInfo* info = find_call(waiting.call); info != nullptr && info->synchronises) {
        memory_.learned_something();
      }
      return;
  }
}

bool LinkSession::take_blocks() {
  bool any = false;
  std::erase_if(blocks_, [&](const Block& block) {
    ArenaBlock* const remote = block_at(parts_.remote.arena(), block.offset, block.bytes);
    if (remote->state.load(std::memory_order_acquire) != done_word(0)) return false;
    ArenaBlock* const local = block_at(parts_.local.arena(), block.offset, block.bytes);
    const std::int32_t result = remote->result;
    if (block.back) {
      crew_.copy(Arena::data(local), Arena::data(remote), block.bytes);
      parts_.page.link_bytes_in.fetch_add(block.bytes, std::memory_order_relaxed);
      if (memory_.any()) memory_.learned_stream(block.stream, block.context, block.order);
    }
    mirror_words();
    complete_block(*local, result);
    any = true;
    return true;
  });
  return take_marks() || any;
}

// Entries of the two channels correspond one to one: only this process posts into the local one.
bool LinkSession::take_upcalls() {
  constexpr auto posted = static_cast<std::uint32_t>(UpcallState::posted);
  constexpr auto done = static_cast<std::uint32_t>(UpcallState::done);
  constexpr auto free = static_cast<std::uint32_t>(UpcallState::free);
  if (!host_functions_) return false;
  bool any = false;
  ChannelControl& control = parts_.local.control();
  while (upcalls_begun_ - upcalls_ended_ < upcall_count) {
    const UpcallEntry& asked = parts_.remote.upcalls()[upcalls_begun_ % upcall_count];
    if (asked.state.load(std::memory_order_acquire) != posted) break;
    // The function may look at what the device wrote before.
    if (memory_.any()) memory_.learned_something();
    UpcallEntry& entry = parts_.local.upcalls()[upcalls_begun_ % upcall_count];
    entry.status = asked.status;
    entry.kind = asked.kind;
    entry.function = asked.function;
    entry.user = asked.user;
    entry.stream = asked.stream;
    entry.state.store(posted, std::memory_order_release);
    control.upcall_event.fetch_add(1, std::memory_order_seq_cst);
    if (control.upcall_sleeps.load(std::memory_order_seq_cst) != 0) futex_wake(control.upcall_event);
    ++upcalls_begun_;
    any = true;
  }
  while (upcalls_ended_ != upcalls_begun_) {
    UpcallEntry& entry = parts_.local.upcalls()[upcalls_ended_ % upcall_count];
    if (entry.state.load(std::memory_order_acquire) != done) break;
    entry.state.store(free, std::memory_order_release);
    // What the function wrote is for the work behind it.
    memory_.flush();
    store_fence();
    parts_.remote.upcalls()[upcalls_ended_ % upcall_count].state.store(done, std::memory_order_release);
    kick();
    ++upcalls_ended_;
    any = true;
  }
  return any;
}

bool LinkSession::forward_text() {
  stub::SlotControl& slot = parts_.slot.control();
  std::uint64_t written = slot.host.console_written.load(std::memory_order_acquire);
  if (written - text_read_ > stub::console_bytes) text_read_ = written;  // a host that writes nonsense
  while (text_read_ != written) {
    ConsoleText text;
    const std::uint64_t at = text_read_ % stub::console_bytes;
    const std::uint64_t size =
        std::min({written - text_read_, stub::console_bytes - at, std::uint64_t{sizeof text.text}});
    std::memcpy(text.text, slot.console + at, size);
    text.bytes = static_cast<std::uint32_t>(size);
    if (!try_send_message(parts_.direct_socket, std::as_bytes(std::span(&text, 1)))) break;
    text_read_ += size;
  }
  slot.guest.console_read.store(text_read_, std::memory_order_release);
  return text_read_ == written;
}

}  // namespace vgpu::stub_guest
