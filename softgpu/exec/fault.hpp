// Ending a grid from inside a handler: faults that handlers raise and memory faults of the CPU.
//
// While a block runs, its thread has a jump target; raise_fault() and the SIGSEGV/SIGBUS handler jump there.
// Handlers hold nothing that needs destruction at such points. Signals of other code go to the handler that
// was there before.
#pragma once

#include <csetjmp>

#include "softgpu/exec/machine.hpp"

namespace softgpu::exec {

struct FaultPoint {
  sigjmp_buf target;
  Context* context = nullptr;
  Fault fault = Fault::none;
  std::uint64_t address = 0;
  const Op* op = nullptr;
  char reason[160] = {};
};

/// The running thread's fault point, nullptr outside kernels.
FaultPoint*& current_fault_point();
/// Installs the signal handlers once; cheap afterwards.
void install_fault_handler();
/// Stores what `point` says as the grid's result, unless another fault came first, and stops the grid.
void report_fault(Context& c, const FaultPoint& point);

/// Runs `f` with the CPU's floating-point state for kernels; a fault in it makes BlockState::faulted.
template <class F>
BlockState guarded(Context& c, F&& f) {
  FaultPoint point;
  point.context = &c;
  FaultPoint*& slot = current_fault_point();
  FaultPoint* const outer = slot;
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
  current_fault_point() = outer;
  asm volatile("ldmxcsr %0" : : "m"(saved) : "memory");
  return state;
}

}  // namespace softgpu::exec
