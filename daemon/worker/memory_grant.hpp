// The worker's half of what is said in the gate page about memory that can be moved: what lies on the device,
// what is asked for, and the answers to orders. The broker's half is daemon/scheduler/residence_keeper.hpp.
//
// A claim is raised before memory is taken, and only then compared with what was granted; the broker lowers
// the grant and then looks at the claim again. So one of the two always sees the other.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <utility>

#include "protocol/futex.hpp"
#include "protocol/gate.hpp"

namespace vgpu::worker {

/// claim(), give_up() and the readers are thread-safe; requests and orders are the dispatcher's.
class MemoryGrant {
 public:
  enum class Answer { none, granted, refused };

  MemoryGrant(GatePage& page, std::function<void()> wake_broker)
      : page_(page), wake_broker_(std::move(wake_broker)) {}

  /// True when so much more may lie on the device, which it then is counted to do.
  bool claim(std::uint64_t bytes, bool fixed) {
    const std::uint64_t now = page_.memory_claim.fetch_add(bytes) + bytes;
    if (now > page_.memory_granted.load()) {
      page_.memory_claim.fetch_sub(bytes);
      return false;
    }
    if (fixed || all_fixed_.load()) page_.memory_fixed.fetch_add(bytes);
    return true;
  }
  /// Whether claim() would succeed now.
  bool covers(std::uint64_t bytes) const {
    return page_.memory_claim.load() + bytes <= page_.memory_granted.load();
  }
  void give_up(std::uint64_t bytes, bool fixed) {
    if (fixed || all_fixed_.load()) page_.memory_fixed.fetch_sub(bytes);
    page_.memory_claim.fetch_sub(bytes);
  }
  std::uint64_t claimed() const { return page_.memory_claim.load(); }
  std::uint64_t fixed() const { return page_.memory_fixed.load(); }
  /// The most that could be granted.
  std::uint64_t most() const { return page_.memory_most.load(std::memory_order_relaxed); }
  /// Whether so much more that cannot be moved may be claimed without asking.
  bool may_fix(std::uint64_t bytes) const {
    return fixed() + bytes <= page_.memory_fixed_most.load(std::memory_order_relaxed);
  }
  /// From now on nothing of it can be moved.
  void fix_all() {
    if (!all_fixed_.exchange(true)) page_.memory_fixed.store(page_.memory_claim.load());
  }
  bool all_fixed() const { return all_fixed_.load(); }

  /// Asks for `wanted` bytes in all. `short_of`: as much was granted, but the device did not have it.
  void ask(std::uint64_t wanted, std::uint64_t wanted_fixed, bool short_of) {
    // Who asks for the same again keeps his place.
    if (!short_of && answer() == Answer::none && page_.memory_wanted.load() == wanted) return;
    page_.memory_wanted.store(wanted);
    page_.memory_wanted_fixed.store(wanted_fixed);
    page_.memory_short.store(short_of ? 1 : 0);
    page_.memory_request.store(++request_);
    wake_broker_();
  }
  Answer answer() const {
    if (page_.memory_answered.load() == request_) return Answer::granted;
    return page_.memory_refused.load() == request_ ? Answer::refused : Answer::none;
  }
  /// The request is not waited for any more.
  void withdraw() { page_.memory_wanted.store(0); }

  /// An order that was not answered yet, or 0.
  std::uint64_t order() const {
    const std::uint64_t order = page_.memory_order.load(std::memory_order_acquire);
    return order != answered_ ? order : 0;
  }
  /// So much was moved out, and the grant for it is void, also before the broker has said so: it grants
  /// nothing to whom it has ordered to move.
  void moved_out(std::uint64_t bytes) {
    page_.memory_out.store(1);
    page_.memory_moved.fetch_add(bytes);
    page_.memory_granted.store(page_.memory_claim.fetch_sub(bytes) - bytes);
    wake_broker_();
  }
  void obey(std::uint64_t order) {
    page_.memory_obeyed.store(answered_ = order);
    wake_broker_();
  }
  void excuse(std::uint64_t order) {
    page_.memory_excused.store(answered_ = order);
    wake_broker_();
  }
  /// More is back on the device, where it has been claimed; `left` is not.
  void came_back(std::uint64_t left) {
    page_.memory_moved.store(left);
    if (left == 0) page_.memory_out.store(0);
    wake_broker_();
  }
  /// Something of what is out was freed.
  void shrank(std::uint64_t left) { page_.memory_moved.store(left); }
  /// Whether host memory may be kept for the next move.
  bool keep() const { return page_.memory_keep.load(std::memory_order_relaxed) != 0; }

  /// Changes when the broker has said something new.
  std::uint32_t turn() const { return page_.memory_turn.load(); }
  void wait(std::uint32_t turn, std::uint64_t timeout_ns) const {
    futex_wait(page_.memory_turn, turn, timeout_ns);
  }

 private:
  GatePage& page_;
  const std::function<void()> wake_broker_;
  std::uint64_t request_ = 0;
  std::atomic<std::uint64_t> answered_{0};
  std::atomic<bool> all_fixed_{false};
};

}  // namespace vgpu::worker
