#include "softgpu/memory/physical_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace softgpu {

tl::expected<std::shared_ptr<PhysicalMemory>, int> PhysicalMemory::create(std::uint64_t bytes, int device) {
  const int fd = memfd_create("softgpu", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return tl::unexpected(errno);
  if (ftruncate(fd, static_cast<off_t>(bytes)) != 0) {
    const int error = errno;
    close(fd);
    return tl::unexpected(error);
  }
  // A mapping process must not be able to pull the pages from under the others.
  fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  return std::shared_ptr<PhysicalMemory>(new PhysicalMemory(fd, bytes, false, device));
}

tl::expected<std::shared_ptr<PhysicalMemory>, int> PhysicalMemory::import(int fd, int device) {
  struct stat status {};
  if (fstat(fd, &status) != 0) return tl::unexpected(errno);
  const int seals = fcntl(fd, F_GET_SEALS);
  if (!S_ISREG(status.st_mode) || seals < 0 || (seals & F_SEAL_SHRINK) == 0) return tl::unexpected(EINVAL);
  const int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (own < 0) return tl::unexpected(errno);
  return std::shared_ptr<PhysicalMemory>(
      new PhysicalMemory(own, static_cast<std::uint64_t>(status.st_size), true, device));
}

PhysicalMemory::~PhysicalMemory() {
  close(fd_);
}

}  // namespace softgpu
