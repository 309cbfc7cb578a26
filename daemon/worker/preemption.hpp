// Tells a spinning thread whether it takes its CPU from somebody: then it had better sleep. Knows only the
// calling thread.
#pragma once

#include <sys/resource.h>

#include <cstdint>

namespace vgpu::worker {

/// One thread's; it asks about itself.
class Preemption {
 public:
  /// How often the calling thread has lost its CPU so far. Source: getrusage(2), ru_nivcsw.
  static std::uint64_t count() {
    rusage usage{};
    return getrusage(RUSAGE_THREAD, &usage) == 0 ? static_cast<std::uint64_t>(usage.ru_nivcsw) : 0;
  }

  /// Whether the scheduler has taken the CPU away from the calling thread within the last 20 ms, as far as
  /// was looked: by a system call once in 200 us at most.
  bool lately(std::uint64_t now_ns) {
    if (now_ns - looked_ns_ >= kLookNs) {
      looked_ns_ = now_ns;
      if (const std::uint64_t now = count(); now != count_) {
        count_ = now;
        seen_ns_ = now_ns;
      }
    }
    return seen_ns_ != 0 && now_ns - seen_ns_ < kMemoryNs;
  }

 private:
  static constexpr std::uint64_t kLookNs = 200'000;
  static constexpr std::uint64_t kMemoryNs = 20'000'000;
  std::uint64_t looked_ns_ = 0;
  std::uint64_t seen_ns_ = 0;  // when the count was last seen to have grown; 0: never
  std::uint64_t count_ = 0;
};

}  // namespace vgpu::worker
