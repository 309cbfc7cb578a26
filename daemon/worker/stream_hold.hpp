// Holds a stream for the moment in which a timed command is sent, so that the events around it tell the
// command's own time and not how long it took to send. Does not choose what is timed.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

#include "vgpu/driver_table.hpp"

namespace vgpu::worker {

/// A word of pinned memory on which streams wait (cuStreamWaitValue32). A thread of its own lets go what was
/// held for longer than `patience`: a driver that waits for the device while it sends a command would else
/// wait for ever. begin() and end() belong to one thread.
class StreamHold {
 public:
  /// In the current context, whose device, and those that share its address space, can be held. A driver
  /// that cannot do it holds nothing. `patience_ns`: the same in tests.
  explicit StreamHold(const DriverTable& driver, std::uint64_t patience_ns = 50'000'000);
  ~StreamHold();
  StreamHold(const StreamHold&) = delete;
  StreamHold& operator=(const StreamHold&) = delete;

  [[nodiscard]] bool usable() const { return word_ != nullptr; }
  /// What is sent to the stream from now on waits until end(). False: it does not.
  bool begin(CUstream stream);
  /// Lets go, if that has not happened yet.
  void end() {
    if (word_ != nullptr) word_->store(held_.load(std::memory_order_relaxed));
  }

 private:
  void guard();

  const DriverTable& driver_;
  const std::uint64_t patience_ns_;
  std::atomic<std::uint32_t>* word_ = nullptr;  // the number of the last hold that has ended
  CUdeviceptr device_word_ = 0;
  std::atomic<std::uint32_t> held_{0};  // the number of the last hold
  std::atomic<std::uint32_t> asleep_{0};
  std::atomic<std::uint32_t> stopped_{0};
  std::thread guard_;
};

}  // namespace vgpu::worker
