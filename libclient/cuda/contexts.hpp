// The process's CUDA contexts as the client sees them: the primary one of each device and those made by
// cuCtxCreate, and which is current in the calling thread. Never: talks to the worker; the calls that must do
// so use what stands here.
#pragma once

#include <cuda.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "libclient/cuda/object_table.hpp"
#include "libclient/cuda/thread_state.hpp"

namespace vgpu::client {

class Call;

/// One context. Its object outlives the context itself, so that a thread may find out that its current one is
/// gone.
struct Context {
  std::uint64_t handle = 0;
  std::uint16_t index = 0;  ///< what records carry; of a primary one the number of its device
  CUdevice device = 0;
  bool primary = false;
  std::atomic<bool> live{false};  ///< false: destroyed, or a primary context nobody retains
  std::atomic<unsigned> flags{0};
  unsigned api_version = 3020;
  std::uint64_t id = 0;     ///< cuCtxGetId
  std::uint64_t green = 0;  ///< the green context that this one is the other form of
  std::atomic<CUfunc_cache> cache_config{CU_FUNC_CACHE_PREFER_NONE};
  std::atomic<CUsharedconfig> shared_config{CU_SHARED_MEM_CONFIG_DEFAULT_BANK_SIZE};
  std::atomic<int> attached{0};    ///< cuCtxAttach's count
  std::atomic<bool> stale{false};  ///< primary: variables have not got their first values since its last end
  int retained = 0;                ///< primary: retain count, under Contexts' mutex

  /// The handle as programs hold it; nobody follows it as a pointer.
  CUcontext cu() const { return reinterpret_cast<CUcontext>(handle); }  // NOLINT(performance-no-int-to-ptr)
  void reset();
};

/// All contexts of the process. Lookups are lock-free; the rest takes a mutex.
class Contexts {
 public:
  /// `devices`: how many the process has, one at least.
  explicit Contexts(std::size_t devices = 1);

  /// The primary context of a device of the process's, live or not; its handle is the same over the process's
  /// life.
  Context& primary(CUdevice device = 0) { return *primaries_[static_cast<std::size_t>(device)]; }
  /// The live or dead context under a handle; nullptr if it never was one or was destroyed.
  Context* find(CUcontext handle) { return table_.find(reinterpret_cast<std::uint64_t>(handle)); }
  /// A new live context for cuCtxCreate; nullptr once there are too many.
  Context* create(CUdevice device, unsigned flags, unsigned api_version);
  /// True while the first device's primary context is the only one that there ever was to work in.
  bool only_primary() const { return !several_.load(std::memory_order_acquire); }
  /// Forgets a context of create().
  void destroy(Context& context);

  /// Counts a retain; true if the primary context becomes live by it.
  bool retain_primary(CUdevice device = 0);
  /// Counts a release; 1: it was the last one, 0: others remain, -1: it was not retained.
  int release_primary(CUdevice device = 0);
  /// How often it is retained now.
  int retained_primary(CUdevice device = 0);
  /// Makes the primary context as new; true if it was live.
  bool reset_primary(CUdevice device = 0);

 private:
  ObjectTable<Context> table_;
  std::mutex mutex_;
  std::vector<Context*> primaries_;  // by device
  std::atomic<std::uint64_t> next_id_{1};
  std::atomic<bool> several_{false};
};

/// Before the primary context of a device is retained: one that had ended is made as new.
CUresult renew_primary(Call& call, CUdevice device);

/// The calling thread's context stack, as cuCtxPushCurrent, cuCtxPopCurrent and cuCtxSetCurrent change it.
void push_context(ThreadState& thread, Context* context);
/// Removes the top and returns it through `popped`; CUDA_ERROR_INVALID_CONTEXT if the stack is empty.
CUresult pop_context(ThreadState& thread, Context*& popped);
/// Replaces the top; nullptr removes it.
void set_context(ThreadState& thread, Context* context);

}  // namespace vgpu::client
