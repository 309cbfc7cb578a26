// Host memory that client and worker share at equal addresses: the window's reservation and the regions in
// it.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <tl/expected.hpp>

#include "protocol/unique_fd.hpp"
#include "vgpu/driver_table.hpp"

namespace vgpu::worker {

/// Thread-safe. One in a process.
class HostRegions {
 public:
  explicit HostRegions(const DriverTable& driver) : driver_(driver) {}
  ~HostRegions();
  HostRegions(const HostRegions&) = delete;
  HostRegions& operator=(const HostRegions&) = delete;

  /// Reserves the host window, so that nothing else of this process ever lies there. The error is a sentence.
  tl::expected<void, std::string> reserve();

  /// Maps `bytes` of the client's memfd at `address` and registers it with the driver; `pointer` is its
  /// device address. Checks that the range lies in the window and is free, and that the memfd cannot shrink.
  CUresult map(int fd, std::uint64_t address, std::uint64_t bytes, CUdeviceptr& pointer);
  /// The same with pages from `offset` on of a VM's memory, which the broker made and whose size holds.
  CUresult map_slot(int fd, std::uint64_t offset, std::uint64_t address, std::uint64_t bytes,
                    CUdeviceptr& pointer);
  CUresult unmap(std::uint64_t address);
  /// True when [address, address+bytes) lies inside one region.
  bool contains(std::uint64_t address, std::uint64_t bytes) const;

 private:
  const DriverTable& driver_;
  bool reserved_ = false;
  mutable std::mutex mutex_;
  std::map<std::uint64_t, std::uint64_t> regions_;  // address -> bytes
  std::uint64_t total_bytes_ = 0;
  std::uint64_t most_bytes_ = 0;  // of all regions together
};

}  // namespace vgpu::worker
