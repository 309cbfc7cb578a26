// What the client keeps for each thread: the stack of current contexts, its default streams, its capture
// mode. Found through one initial-exec pointer, so that the current context costs a load. Never: shared
// between threads.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <vector>

namespace vgpu::client {

struct Context;

/// A thread's own default stream (CU_STREAM_PER_THREAD) in one context.
struct PerThreadStream {
  CUcontext context = nullptr;
  std::uint64_t stream = 0;  ///< minted handle
};

struct ThreadState {
  Context* current = nullptr;  ///< top of the context stack, nullptr if the stack is empty
  std::vector<Context*>
      below;  ///< the rest of the stack, bottom first; may hold nullptr (a pushed "no context")
  std::vector<PerThreadStream> streams;
  CUstreamCaptureMode capture_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  bool in_host_function =
      false;  ///< the thread that runs host functions, in which CUDA calls are not permitted
  std::uint32_t reply_slot = 0;  ///< 1 + index of the leased reply slot, 0 while none is leased
  std::uint32_t ticket = 0;      ///< of the latest call on that slot
};

namespace detail {
extern thread_local ThreadState* thread_state __attribute__((tls_model("initial-exec")));
ThreadState& make_thread_state();
}  // namespace detail

/// The calling thread's state, made at its first use and ended by a pthread key's destructor.
inline ThreadState& this_thread() {
  ThreadState* state = detail::thread_state;
  return state != nullptr ? *state : detail::make_thread_state();
}

/// Called with the state of a thread that ends, before it is freed; set once, before the first this_thread().
using ThreadEnd = void (*)(ThreadState&);
void set_thread_end(ThreadEnd function);

}  // namespace vgpu::client
