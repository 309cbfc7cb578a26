#include "protocol/reply_slots.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "protocol/futex.hpp"

namespace vgpu {
namespace {

constexpr std::uint32_t word(std::uint32_t ticket, Phase phase) {
  return ticket << 2 | static_cast<std::uint32_t>(phase);
}

/// Says on which CPU the caller waits, for the time of its wait.
class WaiterCpu {
 public:
  explicit WaiterCpu(ChannelControl* control)
      : control_(control != nullptr && few_cpus() ? control : nullptr) {
    if (control_ != nullptr) control_->waiter_cpu.store(this_cpu(), std::memory_order_relaxed);
  }
  ~WaiterCpu() {
    if (control_ != nullptr) control_->waiter_cpu.store(0, std::memory_order_relaxed);
  }
  WaiterCpu(const WaiterCpu&) = delete;
  WaiterCpu& operator=(const WaiterCpu&) = delete;
  /// The worker ran on this CPU last: it can only run when the caller sleeps.
  bool shared() const {
    return control_ != nullptr && control_->consumer_cpu.load(std::memory_order_relaxed) == this_cpu();
  }

 private:
  ChannelControl* control_;
};

bool await_done(std::atomic<std::uint32_t>& state, std::uint32_t ticket, std::uint64_t spin_ns,
                std::uint64_t sleep_ns, ChannelControl* control) {
  const std::uint32_t done = word(ticket, Phase::done);
  if (state.load(std::memory_order_acquire) == done) return true;
  const WaiterCpu here(control);
  // The clock is read once in a while only: a reading costs as much as a dozen looks at the word.
  if (spin_ns != 0 && !here.shared()) {
    std::uint64_t until = 0;
    for (;;) {
      for (int i = 0; i < 32; ++i) {
        if (state.load(std::memory_order_acquire) == done) return true;
        cpu_relax();
      }
      if (here.shared()) break;
      spin_yield();
      const std::uint64_t now = now_ns();
      if (until == 0) until = now + spin_ns;
      if (now >= until) break;
    }
  }
  if (state.load(std::memory_order_acquire) == done) return true;
  if (sleep_ns == 0) return false;
  std::uint32_t expected = word(ticket, Phase::pending);
  const std::uint32_t asleep = word(ticket, Phase::sleeping);
  if (state.compare_exchange_strong(expected, asleep, std::memory_order_acq_rel) || expected == asleep) {
    futex_wait(state, asleep, sleep_ns);
  }
  return state.load(std::memory_order_acquire) == done;
}

}  // namespace

std::optional<std::uint32_t> ReplySlotPool::lease() {
  for (std::uint32_t group = 0; group < reply_slot_count / 64; ++group) {
    std::uint64_t used = leased_[group].load(std::memory_order_relaxed);
    while (used != UINT64_MAX) {
      const auto bit = static_cast<std::uint32_t>(std::countr_one(used));
      if (leased_[group].compare_exchange_weak(used, used | std::uint64_t{1} << bit,
                                               std::memory_order_acq_rel)) {
        return group * 64 + bit;
      }
    }
  }
  return std::nullopt;
}

void ReplySlotPool::give_back(std::uint32_t slot) {
  leased_[slot / 64].fetch_and(~(std::uint64_t{1} << slot % 64), std::memory_order_acq_rel);
}

std::uint32_t begin_reply(ReplySlot& slot, std::uint32_t index, std::uint32_t ticket) {
  slot.state.store(word(ticket, Phase::pending), std::memory_order_relaxed);
  return ReplyRef::make(index, ticket);
}

bool await_reply(ReplySlot& slot, std::uint32_t ticket, std::uint64_t spin_ns, std::uint64_t sleep_ns,
                 ChannelControl* control) {
  return await_done(slot.state, ticket, spin_ns, sleep_ns, control);
}

void complete_reply(const Channel& channel, std::uint32_t reference, std::int32_t result,
                    std::span<const std::byte> payload, std::uint32_t flags) {
  if (reference == 0) return;
  const std::uint32_t ticket = ReplyRef::ticket(reference);
  ReplySlot& slot = channel.slots()[ReplyRef::slot(reference)];
  // The client prepared the slot after it had read the last reply, which another thread of this process may
  // have written.
  if (slot.state.load(std::memory_order_acquire) >> 2 != ticket) return;
  const std::size_t bytes = std::min(payload.size(), reply_payload_bytes);
  slot.result = result;
  slot.payload_size = static_cast<std::uint32_t>(bytes);
  slot.flags = flags;
  if (bytes != 0) std::memcpy(slot.payload, payload.data(), bytes);
  if (slot.state.exchange(word(ticket, Phase::done), std::memory_order_acq_rel) ==
      word(ticket, Phase::sleeping)) {
    futex_wake(slot.state);
  }
}

void begin_block(ArenaBlock& block) {
  block.result = 0;
  block.state.store(word(0, Phase::pending), std::memory_order_relaxed);
}

bool await_block(ArenaBlock& block, std::uint64_t spin_ns, std::uint64_t sleep_ns, ChannelControl* control) {
  return await_done(block.state, 0, spin_ns, sleep_ns, control);
}

bool block_done(const ArenaBlock& block) {
  return block.state.load(std::memory_order_acquire) == word(0, Phase::done);
}

void complete_block(ArenaBlock& block, std::int32_t result) {
  // As for a reply: what another thread of this process wrote into the block came before the client's
  // preparation.
  if (block.state.load(std::memory_order_acquire) == word(0, Phase::done)) return;
  block.result = result;
  if (block.state.exchange(word(0, Phase::done), std::memory_order_acq_rel) == word(0, Phase::sleeping)) {
    futex_wake(block.state);
  }
}

}  // namespace vgpu
