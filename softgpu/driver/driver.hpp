// The one driver of this process: its device, memory, threads, and the tables behind all handles.
#pragma once

#include <cuda.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "softgpu/driver/context.hpp"
#include "softgpu/driver/handle_table.hpp"
#include "softgpu/driver/kernel_counts.hpp"
#include "softgpu/driver/scheduler.hpp"
#include "softgpu/engine.hpp"
#include "softgpu/memory/device_memory.hpp"

namespace softgpu {

struct Array;
struct Graph;
struct GraphExec;
struct Linker;
struct LoadedModule;
struct MemoryPool;
struct MipmappedArray;
struct UserObject;

/// Made at the first use and never destroyed: its threads may outlive static destructors.
struct Driver {
  static Driver& get();

  DeviceMemory memory{configured_device_memory()};
  Executor executor;
  Scheduler scheduler;
  std::atomic<std::uint64_t> blas_ns{0};        ///< spent in matrix operations
  std::unique_ptr<KernelCounts> kernel_counts;  ///< null unless wanted
  Context primary{true, 0};
  std::atomic<int> primary_references{0};

  HandleTable<Context> contexts;
  HandleTable<Stream> streams;
  HandleTable<Event> events;
  HandleTable<LoadedModule> modules;    ///< CUmodule
  HandleTable<LoadedModule> libraries;  ///< CUlibrary
  HandleTable<Function> functions;      ///< CUfunction and CUkernel
  HandleTable<Graph> graphs;
  HandleTable<GraphExec> graph_execs;
  HandleTable<MemoryPool> pools;
  HandleTable<PhysicalMemory> physical;  ///< CUmemGenericAllocationHandle
  HandleTable<UserObject> user_objects;
  HandleTable<Array> arrays;  ///< levels of mipmapped ones, too
  HandleTable<MipmappedArray> mipmapped_arrays;
  HandleTable<Linker> linkers;

  std::mutex graph_mutex;  ///< guards graphs, captures and graph nodes; taken before the scheduler's mutex

 private:
  Driver();
};

/// Set by cuInit; a forked child has no driver.
CUresult require_driver();

/// The calling thread's current context, alive or not; nullptr for none.
Context* current_context();
/// The stack of current contexts: cuCtxPushCurrent and its kin. False when it is full.
bool push_context(Context* context);
Context* pop_context();
void set_context(Context* context);

/// Writes what device-side printf produced so far to standard output (or to the sink set by the worker).
void flush_printf();
/// Keeps text for flush_printf(); the engine's sink.
void keep_printf(std::string_view text);
/// Replaces standard output as the target of flush_printf(); null: standard output.
void set_printf_target(void (*target)(void* user, const char* text, std::size_t bytes), void* user);

/// One line to standard error, if SOFTGPU_LOG or VGPU_LOG is set.
void log_line(std::string_view text);

}  // namespace softgpu
