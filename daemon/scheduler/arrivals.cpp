#include "daemon/scheduler/arrivals.hpp"

#include <algorithm>

namespace vgpu::daemon {

void SpanRange::add(std::uint64_t span_ns) {
  spans_[next_] = span_ns;
  next_ = (next_ + 1) % kMost;
  count_ = std::min(count_ + 1, kMost);
  if (count_ < kLeast) return;
  std::array<std::uint64_t, kMost> sorted = spans_;
  std::sort(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(count_));
  range_ = Range{sorted[count_ / kMost], sorted[count_ - 1 - count_ / 10]};
}

bool Arrivals::regular(const SpanRange& spans) const {
  const auto& range = spans.range();
  return range && range->spread_ns() <= std::min(rules_.most_spread_ns, range->low_ns / 4);
}

void Arrivals::arrived(std::uint64_t came_ns, std::uint64_t ended_ns) {
  came_ns_ = came_ns;
  // An end after this arrival is that of its own work already: then the one before was seen earlier, or
  // never.
  const std::uint64_t end = ended_ns < came_ns ? ended_ns : ended_ns_;
  if (end >= began_ns_ && end != 0 && end < came_ns) {
    if (came_ns - end < rules_.least_pause_ns) return;
    pauses_.add(came_ns - end);
  }
  if (began_ns_ != 0) periods_.add(came_ns - began_ns_);
  began_ns_ = came_ns;
}

std::optional<Arrivals::Expected> Arrivals::forecast() const {
  if (working_ || ended_ns_ <= began_ns_) return std::nullopt;
  const bool by_pause = regular(pauses_);
  const bool by_period = regular(periods_);
  if (!by_pause && !by_period) return std::nullopt;
  const bool pause =
      by_pause && (!by_period || pauses_.range()->spread_ns() <= periods_.range()->spread_ns());
  const SpanRange::Range& range = pause ? *pauses_.range() : *periods_.range();
  const std::uint64_t from = pause ? ended_ns_ : began_ns_;
  return Expected{from + range.low_ns, from + range.high_ns, from + range.high_ns + 2 * range.spread_ns()};
}

void Arrivals::note(std::uint64_t came_ns, std::uint64_t ended_ns, bool working) {
  if (came_ns == 0 || (came_ns == came_ns_ && ended_ns == ended_ns_ && working == working_)) return;
  if (came_ns > came_ns_) arrived(came_ns, ended_ns);
  ended_ns_ = std::max(ended_ns_, ended_ns);
  working_ = working;
  next_ = forecast();
}

void Arrivals::missed() {
  next_.reset();
}

}  // namespace vgpu::daemon
