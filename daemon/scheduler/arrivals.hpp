// Learns when a client comes again: from the pauses between its work, and from the time between its arrivals,
// whichever is steadier.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace vgpu::daemon {

// Between which bounds most of the latest spans of one kind lay. Not thread-safe.
class SpanRange {
 public:
  struct Range {
    std::uint64_t low_ns = 0;
    std::uint64_t high_ns = 0;
    [[nodiscard]] std::uint64_t spread_ns() const { return high_ns - low_ns; }
  };

  void add(std::uint64_t span_ns);
  // Nothing until kLeast spans are known. Of a full memory the shortest span and the three longest are left
  // out: a process that is kept from its CPU now and then comes late, hardly ever early.
  [[nodiscard]] const std::optional<Range>& range() const { return range_; }

  static constexpr std::size_t kMost = 32;
  static constexpr std::size_t kLeast = 8;

 private:
  std::array<std::uint64_t, kMost> spans_{};
  std::size_t count_ = 0;
  std::size_t next_ = 0;
  std::optional<Range> range_;
};

// One client's. Times are of one clock, in ns. Not thread-safe.
class Arrivals {
 public:
  struct Rules {
    std::uint64_t least_pause_ns = 400'000;  // a shorter pause is a part of the work around it
    std::uint64_t most_spread_ns =
        300'000;  // what spreads further, or by more than a quarter, is not regular
  };
  struct Expected {
    std::uint64_t early_ns = 0;  // hardly ever does it come before,
    std::uint64_t high_ns = 0;   // mostly by then,
    std::uint64_t late_ns = 0;   // and hardly ever later than that
  };

  explicit Arrivals(const Rules& rules) : rules_(rules) {}

  // What is known now. `came_ns`: when it got work last, 0: never; `ended_ns`: when work of its ended last
  // before it had none; `working`: it has some.
  void note(std::uint64_t came_ns, std::uint64_t ended_ns, bool working);
  // When it is expected: only in a pause, and if its pauses or its arrivals are regular.
  [[nodiscard]] const std::optional<Expected>& next() const { return next_; }
  // It did not come as expected: nobody is to wait for it before it has come once more.
  void missed();

 private:
  void arrived(std::uint64_t came_ns, std::uint64_t ended_ns);
  [[nodiscard]] std::optional<Expected> forecast() const;
  [[nodiscard]] bool regular(const SpanRange& spans) const;

  Rules rules_;
  SpanRange pauses_;
  SpanRange periods_;
  std::uint64_t came_ns_ = 0;
  std::uint64_t ended_ns_ = 0;
  std::uint64_t began_ns_ = 0;  // when it came after the last long pause
  bool working_ = false;
  std::optional<Expected> next_;
};

}  // namespace vgpu::daemon
