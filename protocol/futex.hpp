// Sleeping on a word of shared memory, and spinning before that. Knows nothing of what the word means.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace vgpu {

/// Sleeps while `word` holds `expected`, at most `timeout_ns` nanoseconds. May return early; the caller looks
/// again. Works across processes that map the same page. Source: futex(2).
void futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected, std::uint64_t timeout_ns);

/// The same on two words at once. Source: futex_waitv(2), Linux 5.16; an older kernel has it look at the
/// second word every millisecond.
void futex_wait_either(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
                       const std::atomic<std::uint32_t>& other, std::uint32_t other_expected,
                       std::uint64_t timeout_ns);

/// Wakes up to `count` sleepers on `word`.
void futex_wake(const std::atomic<std::uint32_t>& word, int count = 1);

/// CLOCK_MONOTONIC in nanoseconds.
std::uint64_t now_ns();

/// How long a waiter on this machine spins before it sleeps, in nanoseconds: 20 us, less where there are few
/// CPUs (spinning there takes the CPU from the one that is waited for). VGPUD_SPIN_US overrides. Read once.
std::uint64_t default_spin_ns();

/// Called in a spin loop about every microsecond: where there are few CPUs, lets a thread run that waits for
/// this one. The peer that is spun for may well be it.
void spin_yield();

/// Has this process take part in remote_fence() of others; false where the kernel does not offer it.
bool register_for_remote_fences();
/// A full memory fence of the caller and, at the same moment of its order, of every running thread of the
/// processes that registered; false where the kernel does not offer it. Costs an interrupt of each such CPU:
/// for the side of a handshake that is rare. Source: membarrier(2), MEMBARRIER_CMD_GLOBAL_EXPEDITED.
bool remote_fence();

/// How long to spin before a sleep, learnt from how the sleeps turn out: longer while they are shorter than
/// `most` nanoseconds, since waking costs more than the looking would have; `least` after one that was not.
/// Thread-safe.
class SpinTime {
 public:
  SpinTime(std::uint64_t least_ns, std::uint64_t most_ns, std::uint64_t start_ns)
      : least_(least_ns), most_(most_ns), now_(start_ns) {}
  std::uint64_t ns() const { return now_.load(std::memory_order_relaxed); }
  void slept(std::uint64_t ns) { slept(ns, most_); }
  /// The same with another `most` than that of the construction.
  void slept(std::uint64_t ns, std::uint64_t most) {
    now_.store(ns < most && least_ != 0 ? std::min(now_.load(std::memory_order_relaxed) * 2, most) : least_,
               std::memory_order_relaxed);
  }

 private:
  const std::uint64_t least_;
  const std::uint64_t most_;
  std::atomic<std::uint64_t> now_;
};

/// True where CPUs are so few that a thread and the peer it spins for may well have to share one.
bool few_cpus();
/// True where CPUs are so many that a spinning thread takes its own from nobody.
bool many_cpus();
/// For how long a wait for a GPU's work may spin there: CUDA's own waits spin for as long as they last
/// (CU_CTX_SCHED_AUTO, CU_CTX_SCHED_SPIN), and a waiter that sleeps has to be woken.
constexpr std::uint64_t longest_wait_spin_ns = 10'000'000;
/// 1 + the CPU on which the caller runs. Source: getcpu(2).
std::uint32_t this_cpu();

/// Tells the CPU that this is a spin loop.
inline void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace vgpu
