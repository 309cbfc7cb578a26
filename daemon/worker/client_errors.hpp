// The errors that a client hears of later than by the call that made them: a fault, after which its context
// is of no more use and which every later call answers; and the failure of a call that nobody waited for,
// which the next synchronising call answers. Ends nothing itself.
#pragma once

#include <cuda.h>

#include <atomic>

#include "protocol/channel.hpp"
#include "protocol/gate.hpp"

namespace vgpu::worker {

/// Thread-safe.
class ClientErrors {
 public:
  /// Both outlive the object. `page`: where errors are counted.
  ClientErrors(GatePage& page, Channel& channel) : page_(page), channel_(channel) {}

  /// Whether the driver's context is of no more use after such an error. Source: cuda.h, the comments on
  /// CUresult.
  static bool is_sticky(CUresult result);

  /// A call's result, whoever hears of it.
  void note(CUresult result);
  /// The same of a call that nobody waits for.
  void note_unwaited(CUresult result);
  /// What is to be answered to a call with this result.
  CUresult answer(CUresult result, bool synchronises);
  /// Whether there was a fault.
  bool sticky() const { return sticky_.load() != 0; }

 private:
  GatePage& page_;
  Channel& channel_;
  std::atomic<int> sticky_{0};
  std::atomic<int> async_{0};
};

}  // namespace vgpu::worker
