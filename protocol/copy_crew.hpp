// A few threads that help one thread with large copies. They are started at the first of them and never call
// CUDA.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace vgpu {

/// Thread-safe. At its end the helpers end; one that the library of a program holds is therefore never
/// destroyed.
class CopyCrew {
 public:
  /// `helpers` threads; who has finished looks for `spin_ns` for the next round before it sleeps.
  explicit CopyCrew(unsigned helpers, std::uint64_t spin_ns = 0) : most_(helpers), spin_ns_(spin_ns) {}
  ~CopyCrew();
  CopyCrew(const CopyCrew&) = delete;
  CopyCrew& operator=(const CopyCrew&) = delete;

  /// Runs `work` in the calling thread and, if nobody else has them, in the helpers too; returns when all
  /// have returned. `work` must be safe to run in several threads at once, and to run alone.
  void run(const std::function<void()>& work);
  /// memcpy, by all of the crew if that is worth it. Much memory goes past the caches.
  void copy(void* to, const void* from, std::size_t bytes);

 private:
  void start();
  void help();
  void leave();

  const unsigned most_;
  const std::uint64_t spin_ns_;
  std::mutex turn_;  // held during run()
  std::vector<std::thread> helpers_;
  const std::function<void()>* work_ = nullptr;  // of the open round
  std::atomic<std::uint32_t> round_{0};          // odd: open
  std::atomic<std::uint32_t> running_{0};        // helpers that may be in the round's work
  std::atomic<std::uint32_t> asleep_{0};
  std::atomic<std::uint32_t> waits_{0};  // the caller sleeps until running_ is 0
  std::atomic<bool> over_{false};
};

}  // namespace vgpu
