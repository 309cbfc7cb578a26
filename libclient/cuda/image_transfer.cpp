#include "libclient/cuda/image_transfer.hpp"

#include <unistd.h>

#include <atomic>

#include "protocol/sealed_memory.hpp"

namespace vgpu::client {

UniqueFd image_memfd(const cudaabi::ImageExtent& image, std::size_t bytes) {
  UniqueFd fd = sealed_memory("vgpud-image", bytes);
  if (!fd) return {};
  for (std::size_t at = 0; at < image.size;) {
    const ssize_t written = pwrite(fd.get(), image.data + at, image.size - at, static_cast<off_t>(at));
    if (written <= 0) return {};
    at += static_cast<std::size_t>(written);
  }
  return fd;
}

std::uint64_t next_image_token() {
  static std::atomic<std::uint64_t> next{1};
  return next++;
}

}  // namespace vgpu::client
