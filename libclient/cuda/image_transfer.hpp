// An image on its way to the worker: in the arena, or in a memfd if it is larger than fits there. Never:
// looks into it.
#pragma once

#include <cuda.h>

#include <cstring>
#include <span>

#include "cudaabi/image.hpp"
#include "libclient/cuda/arena_block.hpp"
#include "libclient/cuda/host_memory.hpp"
#include "libclient/cuda/stub_runtime.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu::client {

/// A sealed memfd with the image's bytes and zeros up to `bytes`; empty when there is no memory.
UniqueFd image_memfd(const cudaabi::ImageExtent& image, std::size_t bytes);
/// A token that no other image of this process has.
std::uint64_t next_image_token();

/// Sends `record` (which has the fields source, token and image) with the image and waits for the answer. PTX
/// text ends with a NUL in the worker's copy too.
template <class Record>
CUresult send_image(Call& call, const cudaabi::ImageExtent& image, Record& record,
                    std::span<const std::byte> tail = {}) {
  const std::size_t bytes = image.size + (image.kind == cudaabi::ImageKind::ptx ? 1 : 0);
  if (bytes <= call.connection().largest_block()) {
    ArenaLease block(call.connection(), bytes);
    if (!block) return CUDA_ERROR_DEVICE_UNAVAILABLE;
    std::memcpy(block.data(), image.data, image.size);
    if (bytes > image.size) block.data()[image.size] = std::byte{0};
    record.source = static_cast<std::uint32_t>(ImageSource::block);
    record.image = block.span(bytes);
    const CUresult result = call.ask(record, tail);
    block.discard();
    return result;
  }
  const UniqueFd fd = image_memfd(image, bytes);
  if (!fd) return CUDA_ERROR_OUT_OF_MEMORY;
  record.source = static_cast<std::uint32_t>(ImageSource::memfd);
  record.token = next_image_token();
  record.image = {0, bytes};
  if (const CUresult result = send_region(call, fd.get(), record.token, bytes); result != CUDA_SUCCESS)
    return result;
  return call.ask(record, tail);
}

}  // namespace vgpu::client
