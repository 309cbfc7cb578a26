#include "protocol/upcall.hpp"

#include "protocol/futex.hpp"

namespace vgpu {
namespace {
constexpr auto word(UpcallState state) {
  return static_cast<std::uint32_t>(state);
}
constexpr std::uint64_t look_again_ns = 50'000'000;
}  // namespace

void UpcallPoster::call(const Upcall& upcall, const std::atomic<bool>& stop) {
  UpcallEntry* entry = nullptr;
  {
    const std::lock_guard lock(mutex_);
    entry = &channel_->upcalls()[posted_ % upcall_count];
    // An entry of the last round that the client has not run yet: wait for it in order.
    for (;;) {
      const std::uint32_t state = entry->state.load(std::memory_order_acquire);
      if (state == word(UpcallState::free)) break;
      if (stop.load(std::memory_order_relaxed)) return;
      futex_wait(entry->state, state, look_again_ns);
    }
    ++posted_;
    entry->status = upcall.status;
    entry->kind = upcall.kind;
    entry->function = upcall.function;
    entry->user = upcall.user;
    entry->stream = upcall.stream;
    entry->state.store(word(UpcallState::posted), std::memory_order_release);
  }
  channel_->control().upcall_event.fetch_add(1, std::memory_order_seq_cst);
  if (channel_->control().upcall_sleeps.load(std::memory_order_seq_cst) != 0) {
    futex_wake(channel_->control().upcall_event);
  }
  while (entry->state.load(std::memory_order_acquire) == word(UpcallState::posted)) {
    if (stop.load(std::memory_order_relaxed)) return;
    futex_wait(entry->state, word(UpcallState::posted), look_again_ns);
  }
  entry->state.store(word(UpcallState::free), std::memory_order_release);
  futex_wake(entry->state, INT32_MAX);
}

bool UpcallReader::next(Upcall& upcall, std::uint64_t timeout_ns) {
  ChannelControl& control = channel_->control();
  UpcallEntry& entry = channel_->upcalls()[position_ % upcall_count];
  const auto posted = [&] {
    return entry.state.load(std::memory_order_acquire) == word(UpcallState::posted);
  };
  if (!posted()) {
    const std::uint32_t event = control.upcall_event.load(std::memory_order_seq_cst);
    control.upcall_sleeps.store(1, std::memory_order_seq_cst);
    if (!posted() && control.closed.load(std::memory_order_seq_cst) == 0) {
      futex_wait(control.upcall_event, event, timeout_ns);
    }
    control.upcall_sleeps.store(0, std::memory_order_seq_cst);
    if (!posted()) return false;
  }
  upcall = Upcall{entry.kind, entry.status, entry.function, entry.user, entry.stream};
  return true;
}

void UpcallReader::finish() {
  UpcallEntry& entry = channel_->upcalls()[position_ % upcall_count];
  ++position_;
  entry.state.store(word(UpcallState::done), std::memory_order_release);
  futex_wake(entry.state, INT32_MAX);
}

}  // namespace vgpu
