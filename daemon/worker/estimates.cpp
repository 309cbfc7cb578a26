#include "daemon/worker/estimates.hpp"

#include <algorithm>

namespace vgpu::worker {
namespace {

constexpr float inexact_by_ns = 8'000;  // at most, of one that was sent to an idle stream

}  // namespace

Estimates::Slot& Estimates::slot(std::uint64_t key) {
  const std::size_t first = key * ways & (slots - 1);
  Slot* victim = &table_[first];
  for (std::size_t i = 0; i < ways; ++i) {
    Slot& candidate = table_[first + i];
    if (candidate.key == key) return candidate;
    // An empty one first, else the least used.
    if (victim->key != 0 && (candidate.key == 0 || candidate.uses < victim->uses)) victim = &candidate;
  }
  // The others of the set become easier to replace, so that what is no longer used goes in the end.
  for (std::size_t i = 0; i < ways; ++i) table_[first + i].uses /= 2;
  *victim = Slot{};
  victim->key = key;
  return *victim;
}

void Estimates::take_in() {
  std::vector<Sample> learned;
  {
    const std::lock_guard lock(mutex_);
    learned.swap(learned_);
    news_.store(false, std::memory_order_relaxed);
  }
  for (const Sample& sample : learned) {
    Slot& known = slot(sample.key);
    const auto value = static_cast<float>(sample.ns);
    known.inexact = sample.exact ? 0 : std::min<std::uint16_t>(known.inexact + 1, hold_every);
    // What may have been as long as is known, and only sent slowly, says nothing. What is much longer than
    // usual was most likely interrupted by another's work: it counts for less.
    const bool same = known.exact && !sample.exact && value >= known.ns && value < known.ns + inexact_by_ns;
    const float part = known.samples == 0 || (sample.exact && !known.exact)     ? 1.0f
                       : same                                                   ? 0.0f
                       : known.samples >= first_samples && value > 2 * known.ns ? 0.0625f
                                                                                : 0.25f;
    known.ns += part * (value - known.ns);
    known.exact = known.exact || sample.exact;
    ++known.samples;
  }
}

bool Estimates::drawn() {
  if (--left_ != 0) return false;
  left_ = 1 + static_cast<unsigned>(chance_() % (2 * sample_every - 1));
  return true;
}

Prediction Estimates::look(std::uint64_t key) {
  if (news_.load(std::memory_order_acquire)) take_in();
  const Slot& kind = slot(key);
  Prediction prediction;
  prediction.key = key;
  prediction.known = kind.samples >= first_samples;
  prediction.ns = kind.samples != 0 ? static_cast<std::uint64_t>(kind.ns) : unknown_ns;
  prediction.awaited = kind.samples == 0 && kind.timed >= first_samples && !kind.untimed;
  return prediction;
}

Prediction Estimates::predict(std::uint64_t key) {
  Prediction prediction = look(key);
  Slot& kind = slot(key);
  const bool wanted = prediction.known && !kind.exact && kind.held < held_samples;
  prediction.time_it = drawn() || kind.timed < first_samples || wanted;
  prediction.hold = prediction.time_it && prediction.known && (wanted || kind.inexact >= hold_every);
  ++kind.uses;
  if (prediction.time_it) ++kind.timed;
  if (prediction.hold) {
    kind.held = std::min<std::uint16_t>(kind.held + 1, held_samples);
    kind.inexact = 0;
  }
  return prediction;
}

void Estimates::learn(std::uint64_t key, std::uint64_t ns, bool exact) {
  const std::lock_guard lock(mutex_);
  learned_.push_back({key, ns, exact});
  news_.store(true, std::memory_order_release);
}

}  // namespace vgpu::worker
