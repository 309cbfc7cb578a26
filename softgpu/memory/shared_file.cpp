#include "softgpu/memory/shared_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

namespace softgpu {

std::optional<SharedFile> describe_file(int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0) return std::nullopt;
  return SharedFile{getpid(), fd, status.st_dev, status.st_ino};
}

int open_file(const SharedFile& file) {
  if (file.pid <= 0 || file.fd < 0) return -1;
  const std::string path = "/proc/" + std::to_string(file.pid) + "/fd/" + std::to_string(file.fd);
  // What is there instead may be a device or a pipe, whose opening could wait or do something.
  struct stat status {};
  if (stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode) || status.st_dev != file.device ||
      status.st_ino != file.inode) {
    return -1;
  }
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return -1;
  if (fstat(fd, &status) == 0 && status.st_dev == file.device && status.st_ino == file.inode) return fd;
  close(fd);
  return -1;
}

}  // namespace softgpu
