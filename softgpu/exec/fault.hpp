// Ending a grid from inside a handler: faults that handlers raise and memory faults of the CPU.
//
// While a block runs, its thread has an access point; raise_fault() jumps there as faulting accesses do.
#pragma once

#include "softgpu/exec/machine.hpp"
#include "softgpu/memory/guarded_access.hpp"

namespace softgpu::exec {

/// Every access point of kernels is one; a jump without further word is an access that faulted.
struct FaultPoint : AccessPoint {
  Fault fault = Fault::illegal_address;
  const Op* op = nullptr;
  char reason[160] = {};
};

/// Stores what `point` says as the grid's result, unless another fault came first, and stops the grid.
void report_fault(Context& c, const FaultPoint& point);

/// Runs `f` with the CPU's floating-point state for kernels; a fault in it makes BlockState::faulted.
template <class F>
BlockState guarded(Context& c, F&& f) {
  FaultPoint point;
  AccessPoint*& slot = current_access_point();
  AccessPoint* const outer = slot;
  unsigned saved = 0;
  asm volatile("stmxcsr %0" : "=m"(saved) : : "memory");
  c.csr = csr_rn;
  asm volatile("ldmxcsr %0" : : "m"(c.csr) : "memory");
  volatile BlockState state = BlockState::faulted;
  if (sigsetjmp(point.target, 0) == 0) {
    slot = &point;
    state = f();
  } else {
    report_fault(c, point);
  }
  current_access_point() = outer;
  asm volatile("ldmxcsr %0" : : "m"(saved) : "memory");
  return state;
}

}  // namespace softgpu::exec
