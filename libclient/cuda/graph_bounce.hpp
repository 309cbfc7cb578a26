// Pageable memory in graphs. A replay runs in the worker, which does not see it; so the graph copies to or
// from pinned memory of ours, and a host function of the graph moves the bytes between that and the program's
// memory when the replay gets there. The pinned memory lives as long as a graph or executable that uses it,
// then it is used again.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <optional>

#include "libclient/cuda/stub_runtime.hpp"

namespace vgpu::client {

/// Rows of memory; distances in bytes.
struct Rows {
  std::size_t first = 0;  ///< where the first of them begins
  std::size_t width = 0, rows = 1, slices = 1;
  std::size_t row_pitch = 0, slice_pitch = 0;
};

/// True for the same bytes.
bool same(const Rows& a, const Rows& b);

/// Rows of the program's memory and where they stand in pinned memory, at the same distances.
struct Bounce {
  std::byte* user = nullptr;
  std::byte* pinned = nullptr;
  std::size_t room = 0;  ///< bytes of pinned memory
  Rows rows;
};

/// A bounce for `rows` of the `bytes` at `user`, which `graph` keeps alive. nullptr and an error in `result`
/// when there is none.
Bounce* make_bounce(Call& call, CUgraph graph, std::byte* user, std::size_t bytes, const Rows& rows,
                    CUresult& result);

/// What a bounce in use stands for, by an address in its pinned memory; nothing when that is in none.
std::optional<Bounce> find_bounce(std::uint64_t pinned);

/// A copy as the program knows it: its own memory in place of a bounce's.
void name_program_memory(CUDA_MEMCPY3D& copy);

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
