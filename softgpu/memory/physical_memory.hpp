// Memory that can be mapped at several addresses: what cuMemCreate makes. A memfd, shared by all its
// mappings.
#pragma once

#include <cstdint>
#include <memory>
#include <tl/expected.hpp>

namespace softgpu {

/// Owns a memfd of a fixed size. Immutable after construction, so thread-safe.
class PhysicalMemory {
 public:
  /// Makes `bytes` of zeroed memory, committed as it is touched; errno when there is none.
  static tl::expected<std::shared_ptr<PhysicalMemory>, int> create(std::uint64_t bytes, int device = 0);
  /// Takes over a duplicate of `fd`, a memfd of this or another process; errno when it is not one.
  static tl::expected<std::shared_ptr<PhysicalMemory>, int> import(int fd, int device = 0);

  ~PhysicalMemory();
  PhysicalMemory(const PhysicalMemory&) = delete;
  PhysicalMemory& operator=(const PhysicalMemory&) = delete;

  std::uint64_t bytes() const { return bytes_; }
  /// Stays owned by this object.
  int fd() const { return fd_; }
  /// True when another process made it, so that it is not counted against this device's memory.
  bool imported() const { return imported_; }
  /// Whose memory it counts as.
  int device() const { return device_; }

 private:
  PhysicalMemory(int fd, std::uint64_t bytes, bool imported, int device)
      : fd_(fd), bytes_(bytes), imported_(imported), device_(device) {}

  int fd_;
  std::uint64_t bytes_;
  bool imported_;
  int device_;
};

}  // namespace softgpu
