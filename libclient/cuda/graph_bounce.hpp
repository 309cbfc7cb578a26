// Pageable memory in graphs. A replay runs in the worker, which does not see it; so the graph copies to or
// from pinned memory of ours, and a host function of the graph moves the bytes between that and the program's
// memory when the replay gets there. The pinned memory lives as long as a graph or executable that uses it,
// then it is used again.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>

#include "libclient/cuda/stub_runtime.hpp"

namespace vgpu::client {

/// Rows of the program's memory and where they stand in pinned memory.
struct Bounce {
  std::byte* user = nullptr;
  std::byte* pinned = nullptr;
  std::size_t room = 0;  ///< bytes of pinned memory
  std::size_t width = 0, rows = 1, slices = 1;
  std::size_t row_pitch = 0, slice_pitch = 0;  ///< the same on both sides, bytes
};

/// A bounce with at least `bytes` of pinned memory that `graph` keeps alive; its other fields are the
/// caller's to fill in. nullptr and an error in `result` when there is none.
Bounce* make_bounce(Call& call, CUgraph graph, std::size_t bytes, CUresult& result);

/// Host functions: the program's memory to pinned, and back. The argument is a Bounce.
void CUDA_CB fill_bounce(void* bounce);
void CUDA_CB drain_bounce(void* bounce);

/// True when `stream` is capturing; an error when it may not be used now.
CUresult capturing(Call& call, std::uint64_t stream, bool& active);

/// Copies of pageable memory in a stream that is capturing.
CUresult captured_upload(Call& call, CUdeviceptr target, const void* source, std::size_t bytes,
                         std::uint64_t stream);
CUresult captured_download(Call& call, void* target, CUdeviceptr source, std::size_t bytes,
                           std::uint64_t stream);

}  // namespace vgpu::client
