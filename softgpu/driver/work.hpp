// What a stream operation or a graph node does: the same descriptions serve both.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <variant>
#include <vector>

#include "cudaabi/blas_extension.hpp"
#include "softgpu/driver/scheduler.hpp"
#include "softgpu/engine.hpp"

namespace softgpu {

class Context;
struct Event;
struct Function;
struct Graph;
class GraphMemory;

struct KernelWork {
  std::shared_ptr<Function> function;
  Dim3 grid, block;
  std::uint32_t dynamic_shared = 0;
  bool cooperative = false;
  int priority = 0;
  std::vector<std::byte> params;  ///< packed as the kernel's parameter layout says
};

/// A matrix operation, as our libcublas asks for it.
struct BlasWork {
  cudaabi::BlasDescriptor descriptor;
};

/// A box of rows: 1D and 2D copies are flat boxes.
struct CopyWork {
  std::uint64_t destination = 0, source = 0;
  std::size_t destination_pitch = 0, source_pitch = 0;  ///< bytes from row to row
  std::size_t destination_slice = 0, source_slice = 0;  ///< bytes from slice to slice
  std::size_t width = 0, height = 1, depth = 1;         ///< bytes, rows, slices
  /// The source's bytes, where they were taken at the time of the call (`source` points into it).
  std::shared_ptr<std::vector<std::byte>> staged;
  /// As the program described it, for cuGraphMemcpyNodeGetParams.
  std::shared_ptr<const CUDA_MEMCPY3D> described;
};

struct MemsetWork {
  std::uint64_t destination = 0;
  std::size_t pitch = 0;
  std::uint32_t value = 0;
  std::uint32_t element = 1;          ///< 1, 2 or 4 bytes
  std::size_t width = 0, height = 1;  ///< elements, rows
};

struct HostWork {
  CUhostFn function = nullptr;
  void* data = nullptr;
};

/// cuStreamAddCallback: unlike a host function it also runs after an error.
struct CallbackWork {
  CUstreamCallback function = nullptr;
  CUstream stream = nullptr;
  void* data = nullptr;
};

struct WaitValueWork {
  std::uint64_t address = 0, value = 0;
  bool wide = false;  ///< 64 bits
  unsigned flags = 0;
};

struct WriteValueWork {
  std::uint64_t address = 0, value = 0;
  bool wide = false;
};

/// Frees pool memory when the stream gets there.
struct FreeWork {
  std::uint64_t address = 0;
  /// Whose memory it is: then the free has ended its use already, and the memory stays.
  std::shared_ptr<GraphMemory> keeper;
};

/// Memory of a graph (graph_memory.hpp).
struct AllocationWork {
  std::uint64_t address = 0;
  std::size_t bytes = 0;
  CUDA_MEM_ALLOC_NODE_PARAMS described{};
};

struct GraphFreeWork {
  std::uint64_t address = 0;
};

struct EmptyWork {};
struct EventRecordWork {
  std::shared_ptr<Event> event;
};
struct EventWaitWork {
  std::shared_ptr<Event> event;
};
struct ChildGraphWork {
  std::shared_ptr<Graph> graph;
};

using Work = std::variant<EmptyWork, KernelWork, BlasWork, CopyWork, MemsetWork, HostWork, CallbackWork,
                          WaitValueWork, WriteValueWork, FreeWork, AllocationWork, GraphFreeWork,
                          EventRecordWork, EventWaitWork, ChildGraphWork>;

/// Which threads may do this work.
Lane lane_of(const Work& work);

/// Does it; an error becomes the context's sticky error. After such an error only callbacks still run. False
/// only for work of Lane::poll that is not done yet.
bool perform(Context& context, const Work& work);

}  // namespace softgpu
