// Sleeping on a word of shared memory, and spinning before that. Knows nothing of what the word means.
#pragma once

#include <atomic>
#include <cstdint>

namespace vgpu {

/// Sleeps while `word` holds `expected`, at most `timeout_ns` nanoseconds. May return early; the caller looks
/// again. Works across processes that map the same page. Source: futex(2).
void futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected, std::uint64_t timeout_ns);

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

/// True where CPUs are so few that a thread and the peer it spins for may well have to share one.
bool few_cpus();
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
