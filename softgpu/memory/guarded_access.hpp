// Going on after an access that faults: what the device does to memory that it may not touch must fail like a
// device's access, not end the process.
//
// While a thread is in guarded code it has a jump target; the SIGSEGV/SIGBUS handler jumps there. Guarded
// code holds nothing that needs destruction at the points where it may fault. Signals of other code go to the
// handler that was there before.
#pragma once

#include <csetjmp>
#include <cstdint>

namespace softgpu {

/// Where a faulting access of this thread goes on.
struct AccessPoint {
  sigjmp_buf target;
  std::uint64_t address = 0;  ///< what was accessed, after a jump
};

/// The running thread's access point, nullptr outside guarded code.
AccessPoint*& current_access_point();
/// Installs the signal handlers once; cheap afterwards.
void install_access_handler();

/// Runs `access`; false when memory that it touched could not be. It may have done a part.
template <class F>
bool guarded_access(F&& access) {
  install_access_handler();
  AccessPoint point;
  AccessPoint*& slot = current_access_point();
  AccessPoint* const outer = slot;
  volatile bool done = false;
  if (sigsetjmp(point.target, 0) == 0) {
    slot = &point;
    access();
    done = true;
  }
  current_access_point() = outer;
  return done;
}

}  // namespace softgpu
