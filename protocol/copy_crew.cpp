#include "protocol/copy_crew.hpp"

#include <signal.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <algorithm>
#include <cstring>
#include <system_error>

#include "protocol/futex.hpp"

namespace vgpu {
namespace {

// Pieces that one thread takes at a time: they stay in its core's cache.
constexpr std::size_t piece_bytes = std::size_t{64} << 10;
// From here on the target is not read again soon enough to be in a cache.
constexpr std::size_t streamed_bytes = std::size_t{2} << 20;
constexpr std::uint64_t longest_sleep_ns = 1'000'000'000;  // nobody depends on it: a wake-up comes

void copy_through_caches(std::byte* to, const std::byte* from, std::size_t bytes) {
  std::memcpy(to, from, bytes);
}

// Writes past the caches, so that a line is not read before it is written.
void copy_past_caches(std::byte* to, const std::byte* from, std::size_t bytes) {
#ifdef __SSE2__
  constexpr std::size_t line = 64;
  const std::size_t before = std::min(bytes, (line - reinterpret_cast<std::uintptr_t>(to) % line) % line);
  std::memcpy(to, from, before);
  std::size_t at = before;
  for (; at + line <= bytes; at += line) {
    for (std::size_t word = at; word < at + line; word += sizeof(__m128i)) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + word),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + word)));
    }
  }
  _mm_sfence();
  std::memcpy(to + at, from + at, bytes - at);
#else
  std::memcpy(to, from, bytes);
#endif
}

}  // namespace

CopyCrew::~CopyCrew() {
  over_.store(true);
  round_.fetch_add(2);
  futex_wake(round_, static_cast<int>(most_));
  for (std::thread& helper : helpers_) helper.join();
}

void CopyCrew::start() {
  // The program's signals are for its own threads.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    for (unsigned i = 0; i < most_; ++i) helpers_.emplace_back([this] { help(); });
  } catch (const std::system_error&) {
    // Fewer helpers will do.
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void CopyCrew::run(const std::function<void()>& work) {
  const std::unique_lock turn(turn_, std::try_to_lock);
  if (!turn || most_ == 0) {
    work();
    return;
  }
  if (helpers_.empty()) start();
  work_ = &work;
  round_.fetch_add(1);
  if (asleep_.load() != 0) futex_wake(round_, static_cast<int>(most_));
  work();
  // Helpers that have not begun have nothing left to do: who looks at the closed round goes away again.
  round_.fetch_add(1);
  const std::uint64_t since = spin_ns_ != 0 ? now_ns() : 0;
  while (spin_ns_ != 0 && running_.load() != 0 && now_ns() - since < spin_ns_) cpu_relax();
  waits_.store(1);
  for (std::uint32_t inside = 0; (inside = running_.load()) != 0;)
    futex_wait(running_, inside, longest_sleep_ns);
  waits_.store(0);
}

void CopyCrew::copy(void* to, const void* from, std::size_t bytes) {
  if (most_ == 0 || bytes < 2 * piece_bytes) {
    std::memcpy(to, from, bytes);
    return;
  }
  std::atomic<std::size_t> next{0};
  const auto copy_piece = bytes >= streamed_bytes ? copy_past_caches : copy_through_caches;
  run([&] {
    for (std::size_t at = 0; (at = next.fetch_add(piece_bytes, std::memory_order_relaxed)) < bytes;) {
      copy_piece(static_cast<std::byte*>(to) + at, static_cast<const std::byte*>(from) + at,
                 std::min(piece_bytes, bytes - at));
    }
  });
}

void CopyCrew::leave() {
  if (running_.fetch_sub(1) == 1 && waits_.load() != 0) futex_wake(running_);
}

void CopyCrew::help() {
  std::uint32_t seen = 0;
  while (!over_.load()) {
    const std::uint64_t since = now_ns();
    std::uint32_t round = round_.load();
    while (spin_ns_ != 0 && round == seen && now_ns() - since < spin_ns_) {
      cpu_relax();
      round = round_.load();
    }
    if (round == seen || round % 2 == 0) {
      seen = round;
      asleep_.fetch_add(1);
      futex_wait(round_, round, longest_sleep_ns);
      asleep_.fetch_sub(1);
      continue;
    }
    // In before the round is looked at again: the caller waits for who is in after it has closed it.
    running_.fetch_add(1);
    if (round_.load() == round) (*work_)();
    seen = round;
    leave();
  }
}

}  // namespace vgpu
