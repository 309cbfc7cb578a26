#include "daemon/worker/session.hpp"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <thread>
#include <utility>

#include "daemon/worker/dispatch.hpp"
#include "protocol/arena.hpp"
#include "protocol/call_table.hpp"
#include "protocol/futex.hpp"
#include "protocol/message_socket.hpp"
#include "protocol/reply_slots.hpp"

namespace vgpu::worker {
namespace {

constexpr std::uint64_t sleep_ns = 100'000'000;
// A process in a VM can wake this thread by a doorbell only, which takes longer than so much looking.
constexpr std::uint64_t vm_spin_ns = 50'000;
constexpr unsigned poll_every = 64;  // records between looks at completions while the ring is never empty

constexpr std::uint64_t look_ns = 1'000'000;  // between looks at work that nobody waits for
constexpr std::uint64_t longest_idle_spin_ns = 5'000'000;
// Of a client of high priority, whose first command after a pause is not to wait until a CPU has woken.
constexpr std::uint64_t longest_high_idle_spin_ns = 20'000'000;

/// The accounts of the client's devices, in order.
std::vector<Accounting*> accounts_of(const SessionParts& parts) {
  std::vector<Accounting*> accounts;
  for (const ClientDevice& own : parts.devices()) accounts.push_back(own.accounting);
  return accounts;
}

std::uint64_t least_idle_spin(const SessionParts& parts) {
  return parts.memory_fd >= 0 ? std::max(default_spin_ns(), vm_spin_ns) : default_spin_ns();
}

}  // namespace

Session::Session(const SessionParts& parts)
    : parts_(parts),
      driver_(parts.driver),
      channel_(parts.channel),
      accounting_(parts.accounting),
      contexts_(parts),
      ring_(parts.channel),
      early_(ring_),
      spin_long_(parts.library != nullptr && !parts.library->software() && many_cpus()),
      idle_spin_(least_idle_spin(parts), longest_idle_spin_ns, least_idle_spin(parts)),
      wait_spin_(spin_long_ ? 10 * default_spin_ns() : default_spin_ns(),
                 spin_long_ ? longest_wait_spin_ns : default_spin_ns(),
                 spin_long_ ? longest_wait_spin_ns : default_spin_ns()),
      errors_(parts.accounting.page(), parts.channel),
      ledger_(accounts_of(parts),
              [this](CUcontext context) { return contexts_.place_of(contexts_.device_of(context)); }),
      completions_(parts.driver, parts.context),
      host_calls_(parts.channel, stop_),
      ipc_(parts.broker_socket),
      blocking_([&driver = parts.driver, context = parts.context] { driver.cuCtxSetCurrent(context); }) {
  software_ = parts.library != nullptr && parts.library->software();
  if (driver_.cuThreadExchangeStreamCaptureMode != nullptr) {
    // The client enforces the capture modes of its threads; this one thread speaks for all of them.
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    driver_.cuThreadExchangeStreamCaptureMode(&mode);
  }
  std::vector<OwnDevice>& devices = contexts_.devices();
  for (std::size_t i = 0; i < devices.size() && driver_.cuDeviceGetDefaultMemPool != nullptr; ++i) {
    CUmemoryPool pool = nullptr;
    if (driver_.cuDeviceGetDefaultMemPool(&pool, devices[i].device) != CUDA_SUCCESS) continue;
    const std::uint64_t handle = Handle::make(HandleKind::mem_pool, static_cast<std::uint32_t>(i), 1);
    bind(HandleKind::mem_pool, handle, pool);
    pools_[handle] = &devices[i];
  }
  if (driver_.cuMemHostRegister_v2 != nullptr) {
    // Registered, the arena is read by the device without another copy; unregistered it works as well.
    driver_.cuMemHostRegister_v2(channel_.arena().data(), channel_.arena().size(),
                                 CU_MEMHOSTREGISTER_PORTABLE);
  }
  begin_residence();
}

Session::~Session() {
  stop();
  completions_.stop();
  blocking_.stop();
  accounting_.ask_for_room(nullptr, nullptr);
}

void Session::stop() {
  stop_.store(true);
  RingConsumer::wake(channel_);
}

bool Session::peers_alive() {
  return !stop_.load(std::memory_order_relaxed) &&
         (parts_.direct_socket < 0 || !peer_hung_up(parts_.direct_socket)) &&
         (parts_.broker_socket < 0 || !peer_hung_up(parts_.broker_socket));
}

SessionEnd Session::run() {
  std::vector<std::byte> buffer(max_record_bytes);
  GatePage& page = accounting_.page();
  dispatcher_ = std::this_thread::get_id();
  std::uint64_t idle_since = 0;
  std::uint64_t asleep_since = 0;
  std::uint64_t next_look = 0;
  std::uint64_t looked_at_peers = now_ns();
  unsigned since_poll = 0;
  for (;;) {
    if (residence_) {
      obey_order();
      if (later_.any()) later_.run();
    }
    std::size_t size = 0;
    const std::uint32_t held = held_.load(std::memory_order_acquire);
    const std::uint64_t position = ring_.position();
    const NextRecord next = held != 0 ? NextRecord::none : awaited_ ? behind_awaited() : NextRecord::may_run;
    if (next == NextRecord::waits) {
      completions_.poll();
      spin_yield();
      continue;
    }
    // What was not there yet when it was looked at must be looked at again.
    const RingConsumer::Status status =
        next == NextRecord::none ? RingConsumer::Status::empty : ring_.next(buffer, size);
    if (status == RingConsumer::Status::corrupt) return SessionEnd::corrupt_ring;
    if (status == RingConsumer::Status::record) {
      if (!early_.answered(position)) run_record(std::span(buffer).first(size));
      idle_since = 0;
      if (++since_poll < poll_every) continue;
      since_poll = 0;
      completions_.poll();
      page.queue_depth.store(ring_.backlog_units(), std::memory_order_relaxed);
      page.last_activity_ns.store(now_ns(), std::memory_order_relaxed);
    } else {
      const bool soon = poll_soon();
      const std::uint64_t now = now_ns();
      if (idle_since == 0) {
        idle_since = now;
        next_look = now + default_spin_ns();
      }
      // While a stream is being asked, what hangs on events is looked at now and then only.
      const bool look = now >= next_look;
      const bool pending = ((look || !soon) && completions_.poll()) || soon;
      if (look) {
        next_look = now + default_spin_ns();
        // What nobody waits for is to be noticed when it ends, however long this thread stays awake.
        if (!soon) look_for_ends();
      }
      if (now - idle_since < spin_time(pending, soon, now) && (pending || !waiter_here())) {
        // Each question to a GPU's driver is pause enough.
        if (soon && spin_long_) continue;
        for (int i = 0; i < 32 && !ring_.ready(); ++i) cpu_relax();
        if (!ring_.ready()) spin_yield();
        continue;
      }
      ledger_.dispatcher_sleeps(true);
      const bool lazily = prepare_sleep();
      page.queue_depth.store(0, std::memory_order_relaxed);
      page.last_activity_ns.store(idle_since, std::memory_order_relaxed);
      page.doorbells.store(channel_.control().doorbells.load(std::memory_order_relaxed),
                           std::memory_order_relaxed);
      if (asleep_since == 0) asleep_since = now_ns();
      if (held != 0) {
        futex_wait(held_, held, lazily ? look_ns : sleep_ns);
      } else {
        ring_.sleep(lazily ? look_ns : sleep_ns);
      }
      ledger_.dispatcher_sleeps(false);
      if (lazily && !ring_.ready()) {
        look_for_ends();
      } else {
        idle_spin_.slept(now_ns() - asleep_since, longest_idle_spin());
        asleep_since = idle_since = 0;
      }
    }
    if (const std::uint64_t now = now_ns(); now - looked_at_peers > sleep_ns / 2) {
      looked_at_peers = now;
      for (const OwnDevice& own : contexts_.devices()) own.accounting->measure();
      page.preempted.store(Preemption::count(), std::memory_order_relaxed);
      if (parts_.console != nullptr) parts_.console->trim();
      if (stop_.load()) return SessionEnd::stopped;
      ipc_.listen();
      if (captures_ == 0 && foreign_waits_.stuck(now)) {
        // Nothing that this context does will bring it back. Source: cuda.h, on this error: the process must
        // end.
        errors_.note(CUDA_ERROR_EXTERNAL_DEVICE);
        return SessionEnd::orphaned;
      }
      if (parts_.broker_socket >= 0 && peer_hung_up(parts_.broker_socket)) return SessionEnd::broker_gone;
      // What a client sent before it went has been run when the ring is empty.
      if (status == RingConsumer::Status::empty && !ring_.ready() && parts_.direct_socket >= 0 &&
          peer_hung_up(parts_.direct_socket)) {
        return SessionEnd::client_gone;
      }
    }
  }
}

std::uint64_t Session::longest_idle_spin() const {
  if (!many_cpus()) return least_idle_spin(parts_);
  return accounting_.page().level.load(std::memory_order_relaxed) == 0 ? longest_high_idle_spin_ns
                                                                       : longest_idle_spin_ns;
}

std::uint64_t Session::spin_time(bool pending, bool soon, std::uint64_t now) {
  if (!pending) return idle_spin_.ns();
  // A GPU tells of an end by an interrupt only, some 20 us late; it does not need the CPU that a spin takes.
  const std::uint64_t least = spin_long_ ? 10 * default_spin_ns() : default_spin_ns();
  if (!soon) return least;
  // Beside other clients, whose workers spin too, only as long as there are CPUs for all.
  return here().bounded() && preemption_.lately(now) ? least : wait_spin_.ns();
}

bool Session::prepare_sleep() {
  settle_soon();
  // Nobody waits for it, and nobody else for the device: a look now and then costs less than an event and a
  // thread that waits for it.
  const bool lazily = captures_ == 0 && !any_bounded() && ledger_.any_unfenced();
  if (!lazily) fence_busy_streams();
  completions_.hand_off();
  ledger_.rest();
  return lazily;
}

void Session::look_for_ends() {
  if (captures_ != 0 || driver_.cuStreamQuery == nullptr) return fence_busy_streams();
  if (!ledger_.busy()) return ledger_.rest();
  bool elsewhere = false;
  for (const StreamLedger::Mark& mark : ledger_.unfenced()) {
    if (mark.stream().first != contexts_.current()) {
      elsewhere = true;
      continue;
    }
    const CUresult result = driver_.cuStreamQuery(mark.stream().second);
    if (result == CUDA_ERROR_NOT_READY) continue;
    errors_.note(result);
    ledger_.ended(mark);
  }
  if (elsewhere) fence_busy_streams();
}

bool Session::waiter_here() {
  if (!few_cpus()) return false;
  ChannelControl& control = channel_.control();
  const std::uint32_t here = this_cpu();
  if (control.consumer_cpu.load(std::memory_order_relaxed) != here) {
    control.consumer_cpu.store(here, std::memory_order_relaxed);
  }
  return control.waiter_cpu.load(std::memory_order_relaxed) == here;
}

void Session::run_record(std::span<const std::byte> bytes) {
  RecordHeader header;
  if (bytes.size() < sizeof header) return;
  std::memcpy(&header, bytes.data(), sizeof header);
  GatePage& page = accounting_.page();
  count_alone(page.records);
  running_ = bytes;
  const CallInfo* const call = find_call(header.call);
  // What this record adds to the stream is not part of what is waited for.
  if (soon_) settle_soon();
  current_ = PendingReply{header.reply, 0, call != nullptr && call->synchronises};
  if (header.reply != 0) {
    current_.taken_ns = now_ns();
    count_alone(page.waited_calls);
  }
  deferred_ = false;
  ReplyBuffer out;
  CUresult result = CUDA_ERROR_INVALID_VALUE;
  if (call != nullptr) {
    count_alone(page.calls[header.call]);
    result = contexts_.switch_to(header.context);
    if (result == CUDA_SUCCESS) result = need_memory(header.call);
    if (result == CUDA_SUCCESS) dispatch(bytes, out, result);
  }
  if (deferred_) return;
  if (header.reply != 0) {
    answer(current_, result, out.bytes());
  } else if (result != CUDA_SUCCESS) {
    errors_.note_unwaited(result);
  }
}

void Session::dispatch(std::span<const std::byte> bytes, ReplyBuffer& out, CUresult& result) {
  RecordHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  const Runner runner = find_runner(header.call);
  if (runner == nullptr) {
    result = unsupported(header.call);
    return;
  }
  result = runner(*this, bytes, out);
  if (result != CUDA_SUCCESS) out.clear();
}

bool Session::any_bounded() const {
  const std::vector<OwnDevice>& devices = contexts_.devices();
  return std::any_of(devices.begin(), devices.end(),
                     [](const OwnDevice& own) { return own.accounting->bounded(); });
}

CUresult Session::handle(const record::client_refused& record, reply::client_refused&, Tail tail) {
  // One line for each name, and not for ever: a hostile client must not fill the log.
  constexpr std::size_t most_lines = 64;
  static std::size_t lines = 0;
  static_cast<void>(unsupported(record.header.call));
  if (lines++ >= most_lines) return CUDA_SUCCESS;
  std::string name;
  put_name(tail.first(std::min<std::size_t>(tail.size(), 64)), name);
  for (char& letter : name) {
    if (std::isprint(static_cast<unsigned char>(letter)) == 0) letter = '?';
  }
  std::fprintf(stderr, "vgpud-worker[%d]: the client called %s, which is not supported\n", getpid(),
               name.c_str());
  return CUDA_SUCCESS;
}

CUresult Session::handle(const record::console_rest&, reply::console_rest&, Tail) {
  return CUDA_SUCCESS;
}

CUresult Session::unsupported(std::uint16_t) {
  accounting_.page().unsupported.fetch_add(1, std::memory_order_relaxed);
  return CUDA_ERROR_NOT_SUPPORTED;
}

Session::PendingReply Session::defer() {
  deferred_ = true;
  return current_;
}

void Session::answer(const PendingReply& pending, CUresult result, std::span<const std::byte> payload) {
  errors_.note(result);
  result = errors_.answer(result, pending.synchronises);
  std::uint32_t flags = 0;
  // Nobody asks again after a fault, so what the last kernels wrote goes along with any answer that tells it.
  if ((prints_ || errors_.sticky()) && parts_.console != nullptr) {
    const Console::Forwarded sent = parts_.console->forward(parts_.direct_socket);
    flags = (sent.any ? ReplyFlags::console : 0) | (sent.more ? ReplyFlags::more_console : 0);
  }
  complete_reply(channel_, pending.reference, static_cast<std::int32_t>(result), payload, flags);
  if (pending.taken_ns != 0) accounting_.count_latency(now_ns() - pending.taken_ns);
}

bool Session::capturing(CUstream stream) const {
  if (captures_ == 0 || driver_.cuStreamIsCapturing == nullptr) return false;
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  return driver_.cuStreamIsCapturing(stream, &status) != CUDA_SUCCESS ||
         status != CU_STREAM_CAPTURE_STATUS_NONE;
}

std::optional<GraphObjects::Name> Session::captured_into(CUstream stream) const {
  if (captures_ == 0 || driver_.cuStreamGetCaptureInfo_v3 == nullptr) return std::nullopt;
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  cuuint64_t id = 0;
  CUgraph graph = nullptr;
  const CUresult result =
      driver_.cuStreamGetCaptureInfo_v3(stream, &status, &id, &graph, nullptr, nullptr, nullptr);
  if (result != CUDA_SUCCESS || graph == nullptr) return std::nullopt;
  return GraphObjects::Name{handles_.handle_of(HandleKind::graph, reinterpret_cast<std::uint64_t>(graph)),
                            graph};
}

std::span<std::byte> Session::arena_bytes(const ArenaSpan& span) const {
  ArenaBlock* const block = block_at(channel_.arena(), span.offset, span.bytes);
  if (block == nullptr) return {};
  return {reinterpret_cast<std::byte*>(block + 1), span.bytes};
}

bool Session::device_range(std::uint64_t address, std::uint64_t bytes) const {
  if (address == 0 || address + bytes < address) return false;
  if (allocations_.covers(address, bytes)) return true;
  // Memory that can be moved is mapped in whole pages, more of them than the client was given.
  if (residence_) {
    const auto around = allocations_.around(address);
    if (around && residence_->memory.owns(around->first)) return false;
  }
  // Module variables and VMM mappings: the driver knows. Host memory of this process must not pass as the
  // client's.
  if (driver_.cuPointerGetAttribute == nullptr) return false;
  const auto on_device = [this](std::uint64_t at) {
    unsigned type = 0;
    return driver_.cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, at) == CUDA_SUCCESS &&
           type == CU_MEMORYTYPE_DEVICE;
  };
  if (bytes >> 44 != 0 || !on_device(address + (bytes != 0 ? bytes - 1 : 0))) return false;
  // Mappings may follow each other; what lies between two ends that are apart need not be the device's.
  constexpr std::uint64_t step = std::uint64_t{2} << 20;  // drivers hand out addresses in such pieces
  for (std::uint64_t offset = 0; offset == 0 || offset < bytes; offset += step) {
    if (!on_device(address + offset)) return false;
  }
  return true;
}

bool Session::reachable(std::uint64_t address, std::uint64_t bytes) const {
  return parts_.regions.contains(address, bytes) || device_range(address, bytes);
}

void Session::put_name(Tail tail, std::string& name) const {
  name.assign(reinterpret_cast<const char*>(tail.data()), tail.size());
  name.resize(std::strlen(name.c_str()));
}

}  // namespace vgpu::worker
