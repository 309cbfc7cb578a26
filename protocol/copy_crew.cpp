#include "protocol/copy_crew.hpp"

#include <signal.h>

#include <algorithm>
#include <cstring>
#include <system_error>

#include "protocol/futex.hpp"

namespace vgpu {
namespace {

// Pieces that one thread takes at a time: they stay in its core's cache.
constexpr std::size_t piece_bytes = std::size_t{128} << 10;

}  // namespace

CopyCrew::~CopyCrew() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  begin_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void CopyCrew::start() {
  started_ = true;
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
  bool anyone_asleep = false;
  {
    const std::lock_guard lock(mutex_);
    if (!started_) start();
    work_ = &work;
    round_.fetch_add(1, std::memory_order_release);
    anyone_asleep = asleep_ != 0;
  }
  if (anyone_asleep) begin_.notify_all();
  work();
  {
    // Helpers that have not begun have nothing left to do.
    const std::lock_guard lock(mutex_);
    work_ = nullptr;
  }
  const std::uint64_t since = spin_ns_ != 0 ? now_ns() : 0;
  while (spin_ns_ != 0 && running_.load(std::memory_order_acquire) != 0 && now_ns() - since < spin_ns_) {
    cpu_relax();
  }
  std::unique_lock lock(mutex_);
  end_.wait(lock, [this] { return running_.load(std::memory_order_relaxed) == 0; });
}

void CopyCrew::copy(void* to, const void* from, std::size_t bytes) {
  if (most_ == 0 || bytes < 2 * piece_bytes) {
    std::memcpy(to, from, bytes);
    return;
  }
  std::atomic<std::size_t> next{0};
  run([&] {
    for (std::size_t at = 0; (at = next.fetch_add(piece_bytes, std::memory_order_relaxed)) < bytes;) {
      std::memcpy(static_cast<std::byte*>(to) + at, static_cast<const std::byte*>(from) + at,
                  std::min(piece_bytes, bytes - at));
    }
  });
}

void CopyCrew::help() {
  std::uint64_t seen = 0;
  std::unique_lock lock(mutex_);
  for (;;) {
    if (round_.load(std::memory_order_relaxed) == seen && spin_ns_ != 0 && !over_) {
      lock.unlock();
      const std::uint64_t since = now_ns();
      while (round_.load(std::memory_order_acquire) == seen && now_ns() - since < spin_ns_) cpu_relax();
      lock.lock();
    }
    ++asleep_;
    begin_.wait(lock, [&] { return over_ || (work_ != nullptr && round_.load() != seen); });
    --asleep_;
    if (over_) return;
    seen = round_.load(std::memory_order_relaxed);
    const std::function<void()>* const work = work_;
    running_.fetch_add(1, std::memory_order_relaxed);
    lock.unlock();
    (*work)();
    lock.lock();
    if (running_.fetch_sub(1, std::memory_order_release) == 1) end_.notify_one();
  }
}

}  // namespace vgpu
