// The guest's end of a slot's ring: the one producer, over memory that the sides share without a kernel in
// common. Writes only words that are the guest's, never by read-modify-write (docs/vgpu-stub.md, 4).
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>

#include "protocol/channel.hpp"
#include "protocol/record.hpp"
#include "protocol/ring.hpp"

namespace vgpu::stub_guest {

/// Orders stores to write-combining memory before what follows: ordinary x86 stores to it are not.
inline void store_fence() {
#if defined(__x86_64__)
  __builtin_ia32_sfence();
#else
  std::atomic_thread_fence(std::memory_order_release);
#endif
}

/// One thread.
class RemoteRing {
 public:
  explicit RemoteRing(const Channel& channel)
      : control_(&channel.control()), publish_(channel.publish_words()), data_(channel.ring_data()) {}

  /// True when a record of any size fits now. The host's counter is believed only as far as it makes sense.
  bool has_room() {
    constexpr std::uint64_t most = max_record_bytes / ring_unit;
    if (position_ + most - consumed_ <= ring_units) return true;
    refresh();
    return position_ + most - consumed_ <= ring_units;
  }
  /// Writes and publishes a record; has_room() was true.
  void push(std::span<const std::byte> record) {
    RecordHeader header;
    std::memcpy(&header, record.data(), std::min(sizeof header, record.size()));
    waited_for_ = waited_for_ || header.reply != 0;
    std::memcpy(data_ + position_ % ring_units * ring_unit, record.data(), record.size());
    store_fence();
    publish_[position_ % ring_units].store(RingProducer::lap(position_), std::memory_order_release);
    position_ += units_of(record.size());
    control_->reserved_units.store(position_, std::memory_order_relaxed);
  }
  /// Units that the worker has not taken yet.
  std::uint64_t backlog() {
    refresh();
    return position_ - consumed_;
  }
  /// After pushes: true when the worker sleeps and has to be rung; says so once. One that waits at its gate
  /// is rung only if a reply is waited for.
  bool wants_doorbell() {
    store_fence();
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const bool waited_for = std::exchange(waited_for_, false);
    const std::uint32_t sleeps = control_->consumer_sleeps.load(std::memory_order_relaxed);
    if (sleeps == consumer_awake || (sleeps == consumer_at_gate && !waited_for)) return false;
    control_->consumer_sleeps.store(consumer_awake, std::memory_order_relaxed);
    return true;
  }

 private:
  void refresh() {
    const std::uint64_t said = control_->consumed_units.load(std::memory_order_acquire);
    if (said >= consumed_ && said <= position_) consumed_ = said;
  }

  ChannelControl* control_;
  std::atomic<std::uint32_t>* publish_;
  std::byte* data_;
  std::uint64_t position_ = 0;
  std::uint64_t consumed_ = 0;
  bool waited_for_ = false;  // something that was pushed since wants_doorbell() was asked
};

}  // namespace vgpu::stub_guest
