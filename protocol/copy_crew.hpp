// A few threads that help one thread with large copies. They are started at the first of them and never call
// CUDA.
#pragma once

#include <atomic>
#include <condition_variable>
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
  /// memcpy, by all of the crew if that is worth it.
  void copy(void* to, const void* from, std::size_t bytes);

 private:
  void start();
  void help();

  const unsigned most_;
  const std::uint64_t spin_ns_;
  std::mutex turn_;   // held during run()
  std::mutex mutex_;  // all below; the atomics may be looked at without it
  std::condition_variable begin_;
  std::condition_variable end_;
  std::vector<std::thread> helpers_;
  bool started_ = false;
  unsigned asleep_ = 0;
  const std::function<void()>* work_ = nullptr;
  std::atomic<std::uint64_t> round_{0};
  std::atomic<unsigned> running_{0};
  std::atomic<bool> over_{false};
};

}  // namespace vgpu
