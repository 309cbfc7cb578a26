#include "libclient/cuda/connection.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <thread>
#include <utility>

#include "libclient/cuda/contexts.hpp"
#include "protocol/futex.hpp"
#include "protocol/message_socket.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {
namespace {

// How long a waiter sleeps before it looks whether its peer still lives.
constexpr std::uint64_t kLookAround = 20'000'000;
constexpr int kMoreHellos = 2;
constexpr unsigned kMostConsoleRounds = 1024;
constexpr std::uint32_t kMaxTicket = 0xFFFFFF;

Connection::Failure failure(CUresult result, std::string text) {
  return {result, std::move(text)};
}

CUresult refusal(RefusalCode code) {
  switch (code) {
    case RefusalCode::protocol:
      return CUDA_ERROR_SYSTEM_DRIVER_MISMATCH;
    case RefusalCode::no_device:
    case RefusalCode::not_allowed:
      return CUDA_ERROR_NO_DEVICE;
    case RefusalCode::busy:
      return CUDA_ERROR_DEVICE_UNAVAILABLE;
    case RefusalCode::internal:
      break;
  }
  return CUDA_ERROR_SYSTEM_NOT_READY;
}

}  // namespace

Connection::Connection(UniqueFd socket, UniqueFd direct, const Welcome& welcome,
                       std::vector<DeviceReport> devices, std::unique_ptr<Channel> channel)
    : socket_(std::move(socket)),
      direct_(std::move(direct)),
      welcome_(welcome),
      devices_(std::move(devices)),
      channel_(std::move(channel)),
      ring_(*channel_),
      arena_(std::make_unique<Arena>(channel_->arena())),
      spin_(many_cpus() ? 10 * default_spin_ns() : default_spin_ns(),
            many_cpus() ? longest_wait_spin_ns : default_spin_ns(),
            many_cpus() && welcome.device.software == 0 ? longest_wait_spin_ns : default_spin_ns()) {
  // Four blocks of a copy under way at once keep both sides busy.
  largest_block_ = arena_->largest() / 6 / 4096 * 4096;
}

namespace {

// A connection that has said hello, and what came back: nothing (closed) when vgpud hung up.
tl::expected<std::pair<UniqueFd, Message>, std::string> say_hello(const std::string& path, int timeout_ms,
                                                                  const DeviceWish& wish) {
  auto socket = connect_message_socket(path, timeout_ms);
  if (!socket) return tl::unexpected(socket.error());
  Hello hello;
  hello.protocol_hash = protocol_hash();
  hello.wish = wish;
  Message answer;
  answer.closed = true;
  if (send_message(socket->get(), hello)) {
    auto received = receive_message(socket->get(), timeout_ms);
    if (!received) return tl::unexpected(received.error());
    answer = std::move(*received);
  }
  return std::pair(std::move(*socket), std::move(answer));
}

// The devices that a welcome speaks of; none when vgpud does not say what they are.
std::vector<DeviceReport> take_reports(int socket, const Welcome& welcome, int timeout_ms) {
  std::vector<DeviceReport> devices{welcome.device};
  if (welcome.device_count == 0 || welcome.device_count > most_client_devices) return {};
  while (devices.size() < welcome.device_count) {
    const auto message = receive_message(socket, timeout_ms);
    const auto* const report = message ? message->as<DeviceReport>() : nullptr;
    if (report == nullptr) return {};
    devices.push_back(*report);
  }
  return devices;
}

}  // namespace

tl::expected<std::unique_ptr<Connection>, Connection::Failure> Connection::open(const std::string& path,
                                                                                int timeout_ms,
                                                                                const DeviceWish& wish) {
  auto greeted = say_hello(path, timeout_ms, wish);
  // A vgpud that is just being restarted hangs up on whom it has not admitted yet: the next one serves them.
  for (int again = 0; again < kMoreHellos && greeted && greeted->second.closed; ++again) {
    greeted = say_hello(path, timeout_ms, wish);
  }
  if (!greeted) return tl::unexpected(failure(CUDA_ERROR_SYSTEM_NOT_READY, greeted.error()));
  auto& [socket, answer] = *greeted;
  if (answer.closed) return tl::unexpected(failure(CUDA_ERROR_SYSTEM_NOT_READY, "vgpud hung up"));
  if (answer.none) return tl::unexpected(failure(CUDA_ERROR_SYSTEM_NOT_READY, "vgpud does not answer"));
  if (const auto* refused = answer.as<Refused>()) {
    return tl::unexpected(failure(refusal(refused->code),
                                  std::string(refused->text, strnlen(refused->text, sizeof refused->text))));
  }
  const auto* welcome = answer.as<Welcome>();
  if (welcome == nullptr || answer.fds.size() != 2) {
    return tl::unexpected(
        failure(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, "vgpud answers in another version's words"));
  }
  auto devices = take_reports(socket.get(), *welcome, timeout_ms);
  if (devices.empty()) {
    return tl::unexpected(failure(CUDA_ERROR_SYSTEM_NOT_READY, "vgpud does not say which devices there are"));
  }
  auto channel = Channel::attach(answer.fds[0].get());
  if (!channel) return tl::unexpected(failure(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, channel.error()));
  (*channel)->populate_ring();
  return std::unique_ptr<Connection>(new Connection(std::move(socket), std::move(answer.fds[1]), *welcome,
                                                    std::move(devices), std::move(*channel)));
}

CUresult Connection::final_error() const {
  const ChannelControl& control = channel_->control();
  const std::uint32_t sticky = control.sticky_error.load(std::memory_order_acquire);
  return sticky != 0 ? static_cast<CUresult>(sticky) : CUDA_ERROR_DEVICE_UNAVAILABLE;
}

bool Connection::alive() {
  if (channel_->control().closed.load(std::memory_order_acquire) != 0) return false;
  if (!peer_hung_up(direct_.get())) return true;
  close_channel(*channel_);
  return false;
}

std::uint32_t Connection::begin(ThreadState& thread) {
  while (thread.reply_slot == 0) {
    if (const auto slot = slots_.lease()) {
      thread.reply_slot = *slot + 1;
      // Counts on from the slot's last user, so that a late answer to that one is not taken for ours.
      thread.ticket = channel_->slots()[*slot].state.load(std::memory_order_relaxed) >> 2;
      break;
    }
    if (!alive()) return 0;
    cpu_relax();
  }
  thread.ticket = thread.ticket % kMaxTicket + 1;
  const std::uint32_t index = thread.reply_slot - 1;
  return begin_reply(channel_->slots()[index], index, thread.ticket);
}

bool Connection::await_reply_of(ThreadState& thread) {
  ReplySlot& slot = channel_->slots()[thread.reply_slot - 1];
  ChannelControl* const control = &channel_->control();
  if (await_reply(slot, thread.ticket, spin_time(thread), 0, control)) return true;
  const std::uint64_t asleep_since = now_ns();
  while (!await_reply(slot, thread.ticket, 0, kLookAround, control)) {
    // A reply may have come just before the end.
    if (!alive() && !await_reply(slot, thread.ticket, 0, 0)) return false;
  }
  spin_.slept(now_ns() - asleep_since);
  return true;
}

Reply Connection::wait(ThreadState& thread) {
  if (!await_reply_of(thread)) return {final_error(), {}};
  const ReplySlot& slot = channel_->slots()[thread.reply_slot - 1];
  if ((slot.flags & ReplyFlags::console) != 0) print_console();
  if ((slot.flags & ReplyFlags::more_console) != 0) fetch_console(thread);
  const std::size_t bytes = std::min<std::size_t>(slot.payload_size, sizeof slot.payload);
  return {static_cast<CUresult>(slot.result), {slot.payload, bytes}};
}

void Connection::fetch_console(ThreadState& thread) {
  ReplySlot& slot = channel_->slots()[thread.reply_slot - 1];
  const std::int32_t result = slot.result;
  const std::uint32_t bytes = slot.payload_size;
  std::array<std::byte, sizeof slot.payload> payload;
  std::memcpy(payload.data(), slot.payload, payload.size());
  // Not for ever: what other kernels print meanwhile nobody waits for.
  for (unsigned round = 0; round < kMostConsoleRounds; ++round) {
    record::console_rest rest;
    rest.header.reply = begin(thread);
    const std::span<std::byte> record = std::as_writable_bytes(std::span(&rest, 1));
    if (rest.header.reply == 0 || post(record, {}, [](std::uint64_t) {}) != CUDA_SUCCESS) break;
    if (!await_reply_of(thread)) break;
    print_console();
    if ((slot.flags & ReplyFlags::more_console) == 0) break;
  }
  slot.result = result;
  slot.payload_size = bytes;
  std::memcpy(slot.payload, payload.data(), payload.size());
}

void Connection::print_console() {
  const std::lock_guard lock(console_mutex_);
  while (true) {
    const auto message = receive_message(direct_.get(), 0);
    if (!message || message->none || message->closed) break;
    if (const auto* console = message->as<ConsoleText>()) {
      const std::string_view code(console->text, std::min<std::size_t>(console->bytes, sizeof console->text));
      console_code_.decode(code, [](std::string_view text, bool error) {
        std::fwrite(text.data(), 1, text.size(), error ? stderr : stdout);
      });
    }
  }
  std::fflush(stdout);
}

std::uint64_t Connection::spin_time(const ThreadState& thread) const {
  if (thread.current == nullptr) return spin_.ns();
  switch (thread.current->flags.load(std::memory_order_relaxed) & CU_CTX_SCHED_MASK) {
    case CU_CTX_SCHED_BLOCKING_SYNC:
    case CU_CTX_SCHED_YIELD:
      return default_spin_ns();
    default:
      return spin_.ns();
  }
}

CUresult Connection::wait(ArenaBlock& block) {
  std::uint64_t spin = many_cpus() ? 10 * default_spin_ns() : default_spin_ns();
  while (!await_block(block, spin, kLookAround, &channel_->control())) {
    spin = 0;
    if (!alive() && !block_done(block)) return final_error();
  }
  return static_cast<CUresult>(block.result);
}

ArenaBlock* Connection::allocate(std::uint64_t bytes) {
  for (unsigned round = 0;; ++round) {
    if (ArenaBlock* block = arena_->allocate(bytes)) return block;
    if (round % 64 == 63 && !alive()) return nullptr;
    arena_->collect();
    if (round < 64) {
      cpu_relax();
    } else {
      static const std::atomic<std::uint32_t> never{0};
      futex_wait(never, 0, 50'000);
    }
  }
}

void Connection::release(ThreadState& thread) {
  if (thread.reply_slot == 0) return;
  slots_.give_back(thread.reply_slot - 1);
  thread.reply_slot = 0;
}

void Connection::abandon_in_child() {
  socket_.reset();
  direct_.reset();
}

}  // namespace vgpu::client
