// What the client keeps behind the handles it mints, beyond the handle itself: enough to answer hot queries
// and to check arguments without the worker. Never: the truth about the device; that stands in the worker.
#pragma once

#include <cuda.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "libclient/cuda/jit_options.hpp"
#include "libclient/cuda/kernel_parameters.hpp"
#include "libclient/cuda/stream_work.hpp"
#include "protocol/handshake.hpp"
#include "protocol/record.hpp"

namespace vgpu::client {

struct Stream {
  std::uint64_t context = 0;  ///< CUcontext it was made in
  unsigned flags = 0;
  int priority = 0;
  std::uint64_t id = 0;    ///< cuStreamGetId
  WorkCount work;          ///< sent to it
  WorkCount work_ended;    ///< the value of `work` that a successful synchronisation had read
  WorkCount legacy_ended;  ///< that of AllWork::legacy
  void reset() { *this = {}; }
};

struct Event {
  std::uint64_t context = 0;
  unsigned flags = 0;
  void reset() { *this = {}; }
};

/// A compiled function: behind a CUfunction or a CUkernel. Written before its handle is published, except the
/// atomics.
struct Function {
  std::uint64_t handle = 0;
  std::uint64_t owner = 0;  ///< module or library handle
  /// Of a kernel: its CUfunction on each of the process's devices, once it was asked for.
  std::array<std::atomic<std::uint64_t>, most_client_devices> counterparts{};
  std::uint64_t kernel = 0;  ///< of a kernel's CUfunction: the kernel
  std::string name;
  ParameterLayout layout;
  std::uint32_t attributes_valid = 0;
  /// On each of the process's devices; a kernel's may be set for each.
  std::array<std::array<std::atomic<int>, function_attribute_count>, most_client_devices> attributes{};
  std::mutex occupancy_mutex;
  std::unordered_map<std::uint64_t, int> occupancy;  ///< answers of the driver by block size, bytes and flags

  void reset() {
    handle = owner = kernel = 0;
    for (auto& counterpart : counterparts) counterpart = 0;
    name.clear();
    layout = {};
    attributes_valid = 0;
    for (auto& of_device : attributes) {
      for (auto& attribute : of_device) attribute = 0;
    }
    occupancy.clear();
  }
};

/// A module or a library: its functions, kernels and globals by name, so that each is asked for once.
struct Image {
  std::uint64_t context = 0;  ///< of a module
  std::mutex mutex;
  std::unordered_map<std::string, std::uint64_t> functions;
  std::array<std::uint64_t, most_client_devices> modules{};  ///< of a library: cuLibraryGetModule's answers
  void reset() {
    context = 0;
    modules = {};
    functions.clear();
  }
};

struct Graph {
  std::vector<std::uint64_t> nodes;  ///< handles that go with it, under Process::graphs_mutex
  std::size_t hidden = 0;            ///< of them, how many are hidden
  bool owned = false;                ///< a node's child graph or body: it ends with the node
  void reset() { *this = {}; }
};

struct Array {
  CUDA_ARRAY3D_DESCRIPTOR descriptor{};
  std::uint64_t whole = 0;  ///< of a level: the mipmapped array that it ends with
  void reset() { *this = {}; }
};

struct MipmappedArray {
  CUDA_ARRAY3D_DESCRIPTOR descriptor{};
  std::mutex mutex;
  std::unordered_map<unsigned, std::uint64_t> levels;  ///< handles of those that were asked for
  void reset() {
    descriptor = {};
    levels.clear();
  }
};

/// A node, and what the answers to questions about its parameters point into, until they are asked for again.
struct GraphNode {
  std::uint64_t graph = 0;
  std::vector<std::byte> params;
  std::vector<void*> pointers;
  std::vector<CUstreamBatchMemOpParams> operations;
  std::vector<CUgraph> bodies;  ///< of a conditional node
  /// A copy of pageable memory: the host node behind it that completes it. What depends on the copy depends
  /// on that.
  std::uint64_t completion = 0;
  std::uint64_t completes = 0;  ///< of that host node: the copy
  bool hidden = false;          ///< a host node that the program did not make
  void reset() { *this = {}; }
};

struct GreenContext {
  std::uint64_t context = 0;  ///< cuCtxFromGreenCtx
  void reset() { *this = {}; }
};

/// A linker: where its logs go, and what it made.
struct LinkState {
  JitOptions options;
  std::vector<char> image;
  void reset() {
    options = {};
    image = {};
  }
};

/// Objects of which the client need know nothing but that they exist, and of memory where it lies.
struct Opaque {
  std::uint64_t size = 0;
  CUdevice device = 0;
  void reset() { *this = {}; }
};

}  // namespace vgpu::client
