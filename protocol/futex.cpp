#include "protocol/futex.hpp"

#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <ctime>
#include <thread>

namespace vgpu {

void futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected, std::uint64_t timeout_ns) {
  timespec timeout{static_cast<time_t>(timeout_ns / 1'000'000'000),
                   static_cast<long>(timeout_ns % 1'000'000'000)};
  syscall(SYS_futex, &word, FUTEX_WAIT, expected, &timeout, nullptr, 0);
}

void futex_wake(const std::atomic<std::uint32_t>& word, int count) {
  syscall(SYS_futex, &word, FUTEX_WAKE, count, nullptr, nullptr, 0);
}

std::uint64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

bool register_for_remote_fences() {
  return syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
}

bool remote_fence() {
  return syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0) == 0;
}

bool few_cpus() {
  static const bool few = std::thread::hardware_concurrency() <= 4;
  return few;
}

std::uint32_t this_cpu() {
  return static_cast<std::uint32_t>(sched_getcpu() + 1);
}

void spin_yield() {
  if (few_cpus()) sched_yield();
}

std::uint64_t default_spin_ns() {
  static const std::uint64_t spin = []() -> std::uint64_t {
    if (const char* text = std::getenv("VGPUD_SPIN_US")) {
      const unsigned long long us = std::strtoull(text, nullptr, 10);
      return us < 1'000'000 ? us * 1000 : 1'000'000'000;
    }
    const unsigned cpus = std::thread::hardware_concurrency();
    // docs/decisions.md, 52: on two CPUs a wake-up costs more, since it mostly takes the CPU from somebody.
    return cpus <= 1 ? 0 : cpus == 2 ? 50'000 : 20'000;
  }();
  return spin;
}

}  // namespace vgpu
