// Finds, behind a command that waits for its turn, the questions about events that need not wait with it: the
// event was recorded before, and nothing in between records it again. Looks at the ring and keeps what it
// saw; never runs or answers anything.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "protocol/ring.hpp"

namespace vgpu::worker {

/// One thread: the ring's consumer.
class EarlyQuestions {
 public:
  explicit EarlyQuestions(const RingConsumer& ring);

  /// The next question (cuEventQuery, cuEventSynchronize, cuEventElapsedTime) that may be answered before
  /// `held`, the record that waits, is run, and that was asked in `context`. It counts as answered. Valid
  /// until the next call; empty: there is none now.
  std::span<const std::byte> next(std::span<const std::byte> held, std::uint16_t context);
  /// Whether another question may come to light by what the client publishes next; it is at seen() then.
  bool looking() const { return looking_; }
  std::uint64_t seen() const { return seen_; }

  /// Whether the record that was taken from `position` was such a question, and is to be passed over. To be
  /// asked of each record that is taken.
  bool answered(std::uint64_t position) { return !answered_.empty() && forget_answered(position); }

 private:
  bool forget_answered(std::uint64_t position);
  void catch_up();
  bool recorded_since(std::uint64_t event) const;

  const RingConsumer& ring_;
  std::vector<std::byte> buffer_;
  std::uint64_t seen_ = 0;  // position up to which the ring was looked at
  bool looking_ = false;
  std::deque<std::uint64_t> answered_;
  std::deque<std::pair<std::uint64_t, std::uint64_t>>
      recorded_;  // position and event, of records not yet run
};

}  // namespace vgpu::worker
