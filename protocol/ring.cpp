#include "protocol/ring.hpp"

#include <algorithm>

namespace vgpu {
namespace {
constexpr std::uint64_t space_sleep_ns = 50'000'000;  // how soon a producer notices that its worker has died
}  // namespace

bool RingProducer::wait_for_space(std::uint64_t end) {
  const auto fits = [&] {
    return end - control_->consumed_units.load(std::memory_order_seq_cst) <= ring_units;
  };
  const std::uint64_t until = now_ns() + default_spin_ns();
  do {
    for (int i = 0; i < 64; ++i) {
      if (fits()) return true;
      cpu_relax();
    }
  } while (now_ns() < until);
  control_->space_waiters.fetch_add(1, std::memory_order_seq_cst);
  const std::uint32_t event = control_->space_event.load(std::memory_order_seq_cst);
  bool room = fits();
  if (!room && control_->closed.load(std::memory_order_seq_cst) == 0) {
    futex_wait(control_->space_event, event, space_sleep_ns);
    room = fits();
  }
  control_->space_waiters.fetch_sub(1, std::memory_order_seq_cst);
  return room;
}

void RingProducer::wake_consumer() {
  // Only one of several producers makes the system call.
  if (control_->consumer_sleeps.exchange(consumer_awake, std::memory_order_seq_cst) != consumer_awake) {
    futex_wake(control_->consumer_sleeps);
    control_->doorbells.fetch_add(1, std::memory_order_relaxed);
  }
}

RingConsumer::RingConsumer(const Channel& channel)
    : control_(&channel.control()),
      publish_(channel.publish_words()),
      data_(channel.ring_data()),
      fences_(remote_fence()) {
  // Producers look at this before each record; one that still fences itself does no harm.
  if (fences_) control_->consumer_fences.store(1, std::memory_order_seq_cst);
}

std::size_t RingConsumer::copy(std::uint64_t position, std::span<std::byte> buffer) const {
  const std::byte* const source = data_ + position % ring_units * ring_unit;
  RecordHeader header;
  // The rest of this record, and the next one while this one is run.
  for (std::size_t unit = 1; unit <= prefetched_units; ++unit) __builtin_prefetch(source + unit * ring_unit);
  std::memcpy(&header, source, sizeof header);
  if (header.size < sizeof header || header.size > max_record_bytes || buffer.size() < sizeof header)
    return 0;
  std::memcpy(buffer.data(), source, std::min<std::size_t>(header.size, buffer.size()));
  // The producer may have rewritten the header meanwhile; what was checked is what counts.
  std::memcpy(buffer.data(), &header, sizeof header);
  return header.size;
}

RingConsumer::Status RingConsumer::take(std::span<std::byte> buffer, std::size_t& size) {
  const std::size_t copied = copy(position_, buffer);
  if (copied == 0 || copied > buffer.size()) return Status::corrupt;
  size = copied;
  position_ += units_of(size);
  // What was taken is told for many records at once, which nobody misses as long as there is more to take.
  const bool last = !ready();
  if (!last && position_ - told_ < told_units) return Status::record;
  told_ = position_;
  control_->consumed_units.store(position_, std::memory_order_seq_cst);
  // Producers that sleep are woken when there is room for many records, too.
  if (control_->space_waiters.load(std::memory_order_seq_cst) != 0 &&
      (last || position_ - told_of_space_ >= ring_units / 4)) {
    told_of_space_ = position_;
    control_->space_event.fetch_add(1, std::memory_order_seq_cst);
    futex_wake(control_->space_event, INT32_MAX);
  }
  return Status::record;
}

RingConsumer::Status RingConsumer::look(std::uint64_t& position, std::span<std::byte> buffer) const {
  // A full ring ends where it begins: what is published there is behind what can be looked at.
  if (position - position_ >= ring_units || !published(position, std::memory_order_acquire)) {
    return Status::empty;
  }
  const std::size_t size = copy(position, buffer);
  if (size == 0) return Status::corrupt;
  position += units_of(size);
  return Status::record;
}

template <class Wait>
void RingConsumer::sleep_as(std::uint32_t how, std::uint64_t position, Wait&& wait) {
  control_->consumer_sleeps.store(how, std::memory_order_seq_cst);
  if (fences_) remote_fence();
  if (!published(position, std::memory_order_seq_cst)) wait();
  control_->consumer_sleeps.store(consumer_awake, std::memory_order_seq_cst);
}

void RingConsumer::sleep(std::uint64_t timeout_ns) {
  sleep_as(consumer_asleep, position_,
           [&] { futex_wait(control_->consumer_sleeps, consumer_asleep, timeout_ns); });
}

void RingConsumer::sleep_at_gate(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
                                 std::uint64_t seen, std::uint64_t timeout_ns) {
  sleep_as(consumer_at_gate, seen, [&] {
    futex_wait_either(word, expected, control_->consumer_sleeps, consumer_at_gate, timeout_ns);
  });
}

void RingConsumer::wake(const Channel& channel) {
  channel.control().consumer_sleeps.store(consumer_awake, std::memory_order_seq_cst);
  futex_wake(channel.control().consumer_sleeps);
}

}  // namespace vgpu
