// The one driver of this process: its devices, memory, threads, and the tables behind all handles.
#pragma once

#include <cuda.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

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

/// One of the devices. They share this process's memory and threads, so what makes them several is what is
/// counted and current for each.
struct Device {
  explicit Device(int its_ordinal) : ordinal(its_ordinal), primary(its_ordinal, true, 0) {}

  const int ordinal;
  Context primary;
  std::atomic<int> primary_references{0};
  bool primary_ended = false;  ///< and libraries' variables are as it left them; under api_context's mutex
  std::atomic<std::uint64_t> busy_ns{0};  ///< CPU time of its kernels and matrix operations
};

/// Made at the first use and never destroyed: its threads may outlive static destructors.
struct Driver {
  static Driver& get();

  const std::vector<std::unique_ptr<Device>> devices;
  DeviceMemory memory;
  Executor executor;
  Scheduler scheduler;
  std::atomic<std::uint64_t> blas_ns{0};        ///< spent in matrix operations
  std::unique_ptr<KernelCounts> kernel_counts;  ///< null unless wanted

  HandleTable<Context> contexts;
  HandleTable<Stream> streams;
  HandleTable<Event> events;
  HandleTable<LoadedModule> modules;          ///< CUmodule
  HandleTable<LoadedModule> libraries;        ///< CUlibrary
  HandleTable<LoadedModule> library_modules;  ///< CUmodule of a library, where there are several devices
  HandleTable<Function> functions;            ///< CUfunction and CUkernel
  HandleTable<Graph> graphs;
  HandleTable<GraphExec> graph_execs;
  HandleTable<MemoryPool> pools;
  HandleTable<PhysicalMemory> physical;  ///< CUmemGenericAllocationHandle
  HandleTable<UserObject> user_objects;
  HandleTable<Array> arrays;  ///< levels of mipmapped ones, too
  HandleTable<MipmappedArray> mipmapped_arrays;
  HandleTable<Linker> linkers;

  int device_count() const { return static_cast<int>(devices.size()); }
  bool has_device(int ordinal) const { return ordinal >= 0 && ordinal < device_count(); }
  /// A device that there is.
  Device& device(int ordinal) const { return *devices[static_cast<std::size_t>(ordinal)]; }
  /// The device itself, where a location names one that there is; else null.
  Device* device_at(const CUmemLocation& location) const {
    const bool here = location.type == CU_MEM_LOCATION_TYPE_DEVICE && has_device(location.id);
    return here ? &device(location.id) : nullptr;
  }

  std::mutex graph_mutex;  ///< guards graphs, captures and graph nodes; taken before the scheduler's mutex

 private:
  Driver();
};

/// Set by cuInit; a forked child has no driver.
CUresult require_driver();

/// The context of a handle, alive or not; null for an unknown one.
std::shared_ptr<Context> find_context(Driver& driver, CUcontext handle);

/// The context that memory belongs to: its device's primary one where no context made it.
Context& context_of(Driver& driver, const Allocation& memory);

/// The calling thread's current context, alive or not; nullptr for none.
Context* current_context();
/// The stack of current contexts: cuCtxPushCurrent and its kin. False when it is full.
bool push_context(Context* context);
Context* pop_context();
void set_context(Context* context);

/// Writes what device-side printf produced so far to standard output (or to the sink set by the worker), and
/// the messages of failed assertions to standard error.
void flush_printf();
/// Keeps text for flush_printf(); the engine's sink.
void keep_printf(std::string_view text);
/// Replaces standard output as the target of flush_printf(); null: standard output.
void set_printf_target(void (*target)(void* user, const char* text, std::size_t bytes), void* user);

/// One line to standard error about code that a program may have and that is not supported here; each once.
void log_refusal(std::string_view text);
/// One line to standard error, if SOFTGPU_LOG or VGPU_LOG is set.
void log_line(std::string_view text);

}  // namespace softgpu
