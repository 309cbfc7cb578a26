// A word of host memory that a stream writes when it has got so far: what tells the dispatcher soonest that a
// kernel has ended, and costs it no call to look at. Never says how the work ended: a stream that failed
// writes nothing, and the client's kernels can write the word, too.
#pragma once

#include <cuda.h>

#include <atomic>
#include <cstdint>

#include "vgpu/driver_table.hpp"

namespace vgpu::worker {

/// One thread: the dispatcher.
class StreamMark {
 public:
  explicit StreamMark(const DriverTable& driver) : driver_(driver) {}
  ~StreamMark();
  StreamMark(const StreamMark&) = delete;
  StreamMark& operator=(const StreamMark&) = delete;

  /// Has `stream`, of the current context, write a new value behind its present work. The earlier value
  /// counts no more. False: it cannot, and nothing was sent.
  bool put(CUstream stream);
  /// True once the latest value stands there. A stream that still had to write an earlier one may hide it.
  bool reached() const { return word_ != nullptr && word_->load(std::memory_order_acquire) == value_; }

 private:
  bool make_word();

  const DriverTable& driver_;
  std::atomic<std::uint32_t>* word_ = nullptr;
  CUdeviceptr address_ = 0;
  std::uint32_t value_ = 0;
  bool refused_ = false;
};

}  // namespace vgpu::worker
