// The submission ring: many producer threads of one client process, one consumer thread in the worker. The
// order of reservations is the total order of the process's calls. A record becomes visible only by the
// sequence word of its first unit, which lies outside the data, so no payload bytes and no stale bytes can
// look like a record.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "protocol/channel.hpp"
#include "protocol/futex.hpp"
#include "protocol/record.hpp"

namespace vgpu {

/// The client's side. Any thread may call it.
class RingProducer {
 public:
  explicit RingProducer(const Channel& channel)
      : control_(&channel.control()),
        publish_(channel.publish_words()),
        data_(channel.ring_data()),
        fenced_by_consumer_(register_for_remote_fences()) {}

  /// Space for a record, between reserve() and publish(). Every reservation must be published, soon: the
  /// records of other threads wait behind it.
  struct Slot {
    std::byte* bytes = nullptr;  ///< where the record is written; nullptr: the channel is closed
    std::uint64_t position = 0;
    explicit operator bool() const { return bytes != nullptr; }
  };

  /// Space for `size` bytes, sizeof(RecordHeader) <= size <= max_record_bytes. Waits (spins, then sleeps)
  /// while the ring is full. `alive` is asked from time to time while it waits; when it says no, or the
  /// channel is closed, the result is empty.
  template <class Alive>
  Slot reserve(std::size_t size, Alive&& alive) {
    const std::uint64_t units = units_of(size);
    // The order of reservations is the order of the calls, also for what threads tell each other about them.
    const std::uint64_t position = control_->reserved_units.fetch_add(units, std::memory_order_acq_rel);
    const std::uint64_t end = position + units;
    // The consumer's own word is looked at only when what it said last does not suffice: it is written at
    // each record, on another CPU.
    if (end - known_consumed_.load(std::memory_order_acquire) > ring_units) {
      std::uint64_t consumed = control_->consumed_units.load(std::memory_order_acquire);
      if (end - consumed > ring_units) {
        while (!wait_for_space(end)) {
          if (control_->closed.load(std::memory_order_acquire) != 0 || !alive()) return {};
        }
        consumed = control_->consumed_units.load(std::memory_order_acquire);
      }
      known_consumed_.store(consumed, std::memory_order_release);
    }
    return {data_ + position % ring_units * ring_unit, position};
  }

  /// Makes the record visible and wakes the consumer if it sleeps; one that waits at its gate only for a
  /// record that somebody `waits` for.
  void publish(const Slot& slot, bool waits = true) {
    // Against consumer_sleeps: either the consumer sees the record before it sleeps, or this thread sees that
    // it sleeps. That takes a fence on both sides; where the consumer fences for both, this thread need not
    // wait until its record has left the store buffer.
    std::atomic<std::uint32_t>& word = publish_[slot.position % ring_units];
    if (fenced_by_consumer_ && control_->consumer_fences.load(std::memory_order_relaxed) != 0) {
      word.store(lap(slot.position), std::memory_order_release);
      std::atomic_signal_fence(std::memory_order_seq_cst);
    } else {
      word.store(lap(slot.position), std::memory_order_seq_cst);
    }
    const std::uint32_t sleeps = control_->consumer_sleeps.load(std::memory_order_seq_cst);
    if (sleeps != consumer_awake && (waits || sleeps != consumer_at_gate)) wake_consumer();
    // The next record's memory was read by the consumer a round ago: it is fetched while the program does
    // something else.
    for (std::uint64_t unit = 1; unit <= prefetched_units; ++unit) {
      __builtin_prefetch(data_ + (slot.position + unit + 1) % ring_units * ring_unit, 1);
    }
  }

  /// The sequence word that says "a record begins here" on this round through the ring.
  static constexpr std::uint32_t lap(std::uint64_t position) {
    return static_cast<std::uint32_t>(position / ring_units + 1);
  }

 private:
  /// One bounded wait; true when [.., end) fits.
  bool wait_for_space(std::uint64_t end);
  void wake_consumer();

  static constexpr std::uint64_t prefetched_units = 3;

  ChannelControl* control_;
  std::atomic<std::uint32_t>* publish_;
  std::byte* data_;
  const bool fenced_by_consumer_;
  std::atomic<std::uint64_t> known_consumed_{0};
};

/// The worker's side: one thread. It keeps its position to itself and believes nothing that stands in the
/// channel.
class RingConsumer {
 public:
  explicit RingConsumer(const Channel& channel);

  enum class Status {
    empty,    ///< no record is published at this position (perhaps one is being written)
    record,   ///< copied
    corrupt,  ///< a size that no client of ours writes; the channel cannot be used any more
  };

  /// Copies the next record into `buffer` (max_record_bytes long) and gives its space back. `size` is set
  /// with Status::record, and the copy's header.size equals it.
  Status next(std::span<std::byte> buffer, std::size_t& size) {
    if (!ready()) return Status::empty;
    return take(buffer, size);
  }

  /// True when a record is published.
  bool ready() const { return published(position_, std::memory_order_acquire); }

  /// Where the next record is, or will be.
  std::uint64_t position() const { return position_; }
  /// A look at a record that is not next yet: copies the start of the one at `position`, as much as `buffer`
  /// takes, and sets `position` behind it. It starts from position() or where an earlier look left off, and
  /// next() will find there what was seen, unless the client is hostile.
  Status look(std::uint64_t& position, std::span<std::byte> buffer) const;

  /// Sleeps until a record is published, wake() is called, or `timeout_ns` passed.
  void sleep(std::uint64_t timeout_ns);
  /// Sleeps as long as `word` holds `expected`, until a record that somebody waits for is published (only
  /// from `seen` on, where look() found none), wake() is called, or `timeout_ns` passed.
  void sleep_at_gate(const std::atomic<std::uint32_t>& word, std::uint32_t expected, std::uint64_t seen,
                     std::uint64_t timeout_ns);
  /// Ends a sleep() of the consumer from another thread of the worker.
  static void wake(const Channel& channel);

  /// Units reserved but not consumed, as the (untrusted) counters say: the queue's depth for statistics.
  std::uint64_t backlog_units() const {
    const std::uint64_t depth = control_->reserved_units.load(std::memory_order_relaxed) - position_;
    return depth <= ring_units * 2 ? depth : 0;
  }

 private:
  static constexpr std::size_t prefetched_units = 4;
  static constexpr std::uint64_t told_units = 64;

  Status take(std::span<std::byte> buffer, std::size_t& size);
  /// Copies the start of the record at `position`, as much as `buffer` takes; its whole size, or 0 if that is
  /// one that no client of ours writes.
  std::size_t copy(std::uint64_t position, std::span<std::byte> buffer) const;
  /// Says how it sleeps, and does by calling `wait` unless a record is published at `position`.
  template <class Wait>
  void sleep_as(std::uint32_t how, std::uint64_t position, Wait&& wait);
  bool published(std::uint64_t position, std::memory_order order) const {
    return publish_[position % ring_units].load(order) == RingProducer::lap(position);
  }

  ChannelControl* control_;
  std::atomic<std::uint32_t>* publish_;
  const std::byte* data_;
  std::uint64_t position_ = 0;
  std::uint64_t told_ = 0;           // the position that consumed_units says
  std::uint64_t told_of_space_ = 0;  // position at which sleeping producers were last woken
  bool fences_ = false;              // it fences for the producers, too
};

}  // namespace vgpu
