// What a graph node's parameters become in a record. Never sends anything and keeps nothing.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "libclient/cuda/stub_runtime.hpp"

namespace vgpu::client {

/// CUDA_ERROR_NOT_SUPPORTED, counted under `what`, which outlives the process.
CUresult refuse_node(const char* what);

/// Whether both sides of a copy lie where the worker sees them: what a node names is read at each launch.
bool shareable(const Process& process, const CUDA_MEMCPY3D& copy);

/// The function that a kernel node's parameters name; the newer forms may name a CUkernel instead.
template <class Params>
CUfunction function_of(const Params& params) {
  return params.func != nullptr ? params.func : reinterpret_cast<CUfunction>(params.kern);
}

/// Appends a node's parameters to `tail` as records carry them (protocol/graph_node.hpp). `bodies`: handles
/// for a conditional node's graphs. What is wrong with them is answered as the driver does.
CUresult write_node(Call& call, const CUgraphNodeParams& params, const std::vector<std::uint64_t>& bodies,
                    std::vector<std::byte>& tail);

}  // namespace vgpu::client
