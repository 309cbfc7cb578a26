#include "libclient/cuda/image_transfer.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>

namespace vgpu::client {

UniqueFd image_memfd(const cudaabi::ImageExtent& image, std::size_t bytes) {
  UniqueFd fd(memfd_create("vgpud-image", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd || ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) return {};
  for (std::size_t at = 0; at < image.size;) {
    const ssize_t written = pwrite(fd.get(), image.data + at, image.size - at, static_cast<off_t>(at));
    if (written <= 0) return {};
    at += static_cast<std::size_t>(written);
  }
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) return {};
  return fd;
}

std::uint64_t next_image_token() {
  static std::atomic<std::uint64_t> next{1};
  return next++;
}

}  // namespace vgpu::client
