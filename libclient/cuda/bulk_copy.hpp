// Pageable memory to and from the device in chunks through the arena: while the worker moves one chunk, this
// side copies the next. A large copy is shared by several threads where there are CPUs to spare. Blocks are
// used again within a copy, so that they stay in the caches and their pages stay mapped.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>

#include "libclient/cuda/stub_runtime.hpp"

namespace vgpu::client {

/// Sends [source, source + bytes) to `target` on `stream`, in stream order. Returns when the source may be
/// reused; failures of the copy itself are reported like those of every posted call. Not while a stream is
/// capturing.
CUresult upload_chunks(Call& call, CUdeviceptr target, const std::byte* source, std::uint64_t bytes,
                       std::uint64_t stream);

/// Brings [source, source + bytes) to `target`; returns when it is there, or the first chunk's error. Not
/// while a stream is capturing.
CUresult download_chunks(Call& call, std::byte* target, CUdeviceptr source, std::uint64_t bytes,
                         std::uint64_t stream);

}  // namespace vgpu::client
