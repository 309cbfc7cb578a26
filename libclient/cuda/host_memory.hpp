// Pinned, mapped, managed and registered host memory: sealed memfds that this process and the worker map at
// the same address, so that pointers need no translation. Never: memory the worker could shrink or grow under
// this process.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>

#include "libclient/cuda/stub_runtime.hpp"

namespace vgpu::client {

/// Allocates `bytes` in the host window for cuMemHostAlloc (kind pinned) or cuMemAllocManaged (kind managed).
CUresult allocate_host_region(Call& call, MemoryKind kind, std::size_t bytes, unsigned flags, void** out);

/// Ends a region of allocate_host_region() that starts at `address`.
CUresult free_host_region(Call& call, std::uint64_t address);

/// Sends a memfd with `bytes` of contents to the worker under `token`, an address in the host window that
/// nothing else uses; it is not mapped there. For images too large for the arena.
CUresult send_region(Call& call, int descriptor, std::uint64_t token, std::size_t bytes);

}  // namespace vgpu::client
