// A graph node's parameters on the way between client and worker: in the tail of the records that add or
// change a node, and in the block of graph_node_params. By type: kernel, memcpy, memset, host and so on, each
// a plain structure, some followed by a list. Empty nodes have none.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace vgpu {

/// Followed by param_bytes of packed parameters.
struct KernelNode {
  std::uint64_t function = 0;  ///< a function's or a kernel's handle
  std::uint32_t grid[3] = {}, block[3] = {};
  std::uint32_t dynamic_shared = 0;
  std::uint32_t param_bytes = 0;
};

// CU_GRAPH_NODE_TYPE_MEMCPY: CUDA_MEMCPY3D. Host sides must lie in the host window.
// CU_GRAPH_NODE_TYPE_MEMSET: CUDA_MEMSET_NODE_PARAMS.

struct HostNode {
  std::uint64_t function = 0;  ///< the client's own addresses
  std::uint64_t user = 0;
};

/// A child graph, an event, or the address that a free node frees.
struct NamedNode {
  std::uint64_t handle = 0;
};

/// Followed by access_count CUmemAccessDesc.
struct AllocationNode {
  CUmemPoolProps props{};
  std::uint64_t bytes = 0;
  std::uint64_t address = 0;  ///< answers only
  std::uint32_t access_count = 0;
  std::uint32_t reserved = 0;
};

/// Followed by `count` CUstreamBatchMemOpParams.
struct BatchNode {
  std::uint32_t count = 0;
  std::uint32_t flags = 0;
};

/// Followed by `size` handles for the bodies, minted by the client.
struct ConditionalNode {
  std::uint64_t handle = 0;  ///< what cuGraphConditionalHandleCreate answered: the driver's own number
  std::uint32_t type = 0;
  std::uint32_t size = 0;
};

inline constexpr std::uint32_t max_batch_operations = 256;  // cuda.h, cuStreamBatchMemOp
inline constexpr std::uint32_t max_conditional_bodies = 256;

}  // namespace vgpu
