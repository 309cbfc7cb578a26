// A few threads that help with large copies, started at the first of them, only where there are CPUs to
// spare. They never call CUDA, and outlive everything: the process ends with them asleep.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>

namespace vgpu::client {

/// Thread-safe. Never destroyed: its threads may sleep in it for as long as the process lives.
class CopyCrew {
 public:
  /// The process's crew: helpers where there are CPUs to spare.
  static CopyCrew& instance();
  /// One of `helpers` threads; instance() is what the library uses.
  explicit CopyCrew(unsigned helpers) : helpers_(helpers) {}
  CopyCrew(const CopyCrew&) = delete;
  CopyCrew& operator=(const CopyCrew&) = delete;

  /// Runs `work` in the calling thread and, if nobody else has them and there are CPUs, in the helpers too;
  /// returns when all have returned. `work` must be safe to run in several threads at once, and to run
  /// alone.
  void run(const std::function<void()>& work);

 private:
  void start();
  void help();

  const unsigned helpers_;
  std::mutex turn_;   // held during run()
  std::mutex mutex_;  // all below
  std::condition_variable begin_;
  std::condition_variable end_;
  bool started_ = false;
  const std::function<void()>* work_ = nullptr;
  std::uint64_t round_ = 0;
  unsigned running_ = 0;
};

}  // namespace vgpu::client
