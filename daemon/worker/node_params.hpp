// The parameters of a graph node on their way from the client to the driver. Owns what they point to, unless
// that lies in the record.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "daemon/worker/client_contexts.hpp"
#include "daemon/worker/host_calls.hpp"

namespace vgpu::worker {

/// A node's parameters as the driver wants them, and what they point to. Does not move.
struct NodeParams {
  CUgraphNodeParams params{};
  void* extra[5] = {};
  std::size_t param_bytes = 0;
  std::vector<CUmemAccessDesc> access;
  std::vector<CUstreamBatchMemOpParams> operations;
  std::vector<std::uint64_t> bodies;  ///< the client's handles for a conditional node's graphs
  std::unique_ptr<HostCalls::Call> host;
  std::uint64_t child = 0;           ///< the client's handle of a child graph
  const OwnDevice* owner = nullptr;  ///< the device on which an allocation node allocates
};

}  // namespace vgpu::worker
