// Tells a spinning thread whether it takes its CPU from somebody: then it had better sleep. Knows only the
// calling thread.
#pragma once

#include <sys/resource.h>

#include <cstdint>

namespace vgpu::worker {

/// One thread's; it asks about itself.
class Preemption {
 public:
  /// Whether the scheduler has taken the CPU away from the calling thread within the last 20 ms, as far as
  /// was looked: by a system call once in 200 us at most. Source: getrusage(2), ru_nivcsw.
  bool lately(std::uint64_t now_ns) {
    if (now_ns - looked_ns_ >= kLookNs) {
      looked_ns_ = now_ns;
      rusage usage{};
      if (getrusage(RUSAGE_THREAD, &usage) == 0 && usage.ru_nivcsw != count_) {
        count_ = usage.ru_nivcsw;
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
  long count_ = 0;
};

}  // namespace vgpu::worker
