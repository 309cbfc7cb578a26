#include "protocol/futex.hpp"

#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <ctime>
#include <thread>

namespace vgpu {
namespace {

timespec as_timespec(std::uint64_t ns) {
  return {static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
}

}  // namespace

void futex_wait(const std::atomic<std::uint32_t>& word, std::uint32_t expected, std::uint64_t timeout_ns) {
  const timespec timeout = as_timespec(timeout_ns);
  syscall(SYS_futex, &word, FUTEX_WAIT, expected, &timeout, nullptr, 0);
}

void futex_wait_either(const std::atomic<std::uint32_t>& word, std::uint32_t expected,
                       const std::atomic<std::uint32_t>& other, std::uint32_t other_expected,
                       std::uint64_t timeout_ns) {
  constexpr std::uint64_t look_ns = 1'000'000;
  static std::atomic<bool> offered{true};
  if (offered.load(std::memory_order_relaxed)) {
    const auto waiter = [](const std::atomic<std::uint32_t>& one, std::uint32_t value) {
      return futex_waitv{value, reinterpret_cast<std::uint64_t>(&one), FUTEX_32, 0};
    };
    std::array<futex_waitv, 2> waiters{waiter(word, expected), waiter(other, other_expected)};
    const timespec end = as_timespec(now_ns() + timeout_ns);
    if (syscall(SYS_futex_waitv, waiters.data(), waiters.size(), 0, &end, CLOCK_MONOTONIC) >= 0) return;
    if (errno != ENOSYS && errno != EPERM) return;
    offered.store(false, std::memory_order_relaxed);
  }
  if (other.load() == other_expected) futex_wait(word, expected, std::min(timeout_ns, look_ns));
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

bool many_cpus() {
  static const bool many = std::thread::hardware_concurrency() > 8;
  return many;
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
