// Copies between this process's memory and the device. Pageable memory travels in the record or through the
// arena, in chunks that overlap; memory in the host window is named by its address and not touched here.
// Source of the ordering rules: CUDA Driver API, "API synchronization behavior".
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>

#include "libclient/cuda/stub_runtime.hpp"

namespace vgpu::client {

/// How a call relates to the host: the synchronous forms of cuMemcpy, or the ...Async ones.
enum class CopyMode : std::uint8_t { synchronous, asynchronous };

/// Host to device. Pageable: the source may be reused at return. In the host window: synchronous returns when
/// the program cannot tell whether the copy has happened, asynchronous leaves the source to be read in stream
/// order; of a small one it may have been read at return, where no work is under way that could change it.
/// `stream` as Call::stream() returned it.
CUresult copy_to_device(Call& call, CUdeviceptr target, const void* source, std::size_t bytes,
                        std::uint64_t stream, CopyMode mode);

/// Device to host. Returns when `target` is written, except asynchronous copies into the host window.
CUresult copy_from_device(Call& call, void* target, CUdeviceptr source, std::size_t bytes,
                          std::uint64_t stream, CopyMode mode);

/// Between addresses that are both valid in the worker.
CUresult copy_within(Call& call, CUdeviceptr target, CUdeviceptr source, std::size_t bytes,
                     std::uint64_t stream, CopyMode mode);

/// Any addresses, the direction inferred from what is known of them (cuMemcpy).
CUresult copy_unified(Call& call, CUdeviceptr target, CUdeviceptr source, std::size_t bytes,
                      std::uint64_t stream, CopyMode mode);

/// Whose the two sides of a copy between devices are; nullptr: the current context's.
struct CopyContexts {
  const Context* source = nullptr;
  const Context* target = nullptr;
};

/// A box of memory or an array to another (cuMemcpy2D, cuMemcpy3D, cuMemcpy3DPeer).
CUresult copy_box(Call& call, const CUDA_MEMCPY3D& copy, std::uint64_t stream, CopyMode mode,
                  const CopyContexts& contexts = {});

/// Where the worker and the device see [pointer, pointer + bytes) if it is pinned, registered or managed
/// memory; else 0.
std::uint64_t shared_address(const Process& process, std::uint64_t pointer, std::uint64_t bytes);

/// True where [pointer, pointer + bytes) cannot be host memory: it is the device's alone. An address of a
/// card may be one of this process's mappings too; then it is the program's that calls it host memory.
bool device_alone(const Process& process, std::uint64_t pointer, std::uint64_t bytes);

/// For copies of pageable memory that graphs do not do here (boxes of rows): CUDA_ERROR_NOT_SUPPORTED if
/// `stream` is capturing, the driver's error if it may not be used during another stream's capture.
CUresult refuse_capture(Call& call, std::uint64_t stream);

/// Has the worker begin nothing that comes behind this, but more copies to the device in `stream`, before
/// what is in `stream` has happened. Waits for nothing: where only quiet work is under way this is all that a
/// synchronisation is.
CUresult await_stream(Call& call, std::uint64_t stream);

/// Waits until everything in `stream` has happened, and reports its errors.
CUresult synchronize(Call& call, std::uint64_t stream);
/// What ends a copy that was waited for by blocks only, with `result`: what kernels printed before comes out,
/// and errors of earlier calls are told.
CUresult end_of_download(Call& call, std::uint64_t stream, CUresult result);

}  // namespace vgpu::client
