#include "daemon/worker/host_regions.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "protocol/address_space.hpp"
#include "protocol/errno_text.hpp"
#include "protocol/sealed_memory.hpp"

namespace vgpu::worker {
namespace {
void* at(std::uint64_t address) {
  return reinterpret_cast<void*>(address);
}
constexpr int reserve_flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

// Reserved again. When the kernel refuses, the range stays mapped, which is the client's memory still.
void release(std::uint64_t address, std::uint64_t bytes) {
  static_cast<void>(mmap(at(address), bytes, PROT_NONE, reserve_flags | MAP_FIXED, -1, 0));
}
}  // namespace

HostRegions::~HostRegions() {
  if (reserved_) munmap(at(host_window_base), host_window_size);
}

tl::expected<void, std::string> HostRegions::reserve() {
  void* const place =
      mmap(at(host_window_base), host_window_size, PROT_NONE, reserve_flags | MAP_FIXED_NOREPLACE, -1, 0);
  if (place != at(host_window_base)) {
    return tl::unexpected(errno_text("reserving the host memory window"));
  }
  reserved_ = true;
  most_bytes_ = static_cast<std::uint64_t>(std::max(sysconf(_SC_PHYS_PAGES), 1L)) *
                static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  return {};
}

CUresult HostRegions::map(int fd, std::uint64_t address, std::uint64_t bytes, CUdeviceptr& pointer) {
  // A memfd that could shrink would let the client raise SIGBUS here at any time.
  const auto whole = sealed_bytes(fd);
  if (!whole || *whole < bytes) return CUDA_ERROR_INVALID_VALUE;
  return map_slot(fd, 0, address, bytes, pointer);
}

CUresult HostRegions::map_slot(int fd, std::uint64_t offset, std::uint64_t address, std::uint64_t bytes,
                               CUdeviceptr& pointer) {
  if (!reserved_ || !in_host_window(address, bytes) || address % host_page != 0 || bytes % host_page != 0 ||
      offset % host_page != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const std::lock_guard lock(mutex_);
  // Registration pins the pages: more than the machine has can only end in its running out of memory.
  if (bytes > most_bytes_ || total_bytes_ > most_bytes_ - bytes) return CUDA_ERROR_OUT_OF_MEMORY;
  const auto next = regions_.lower_bound(address);
  if (next != regions_.end() && next->first - address < bytes) return CUDA_ERROR_INVALID_VALUE;
  if (next != regions_.begin()) {
    const auto before = std::prev(next);
    if (address - before->first < before->second) return CUDA_ERROR_INVALID_VALUE;
  }
  if (mmap(at(address), bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
           static_cast<off_t>(offset)) != at(address)) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  CUresult result = CUDA_ERROR_NOT_SUPPORTED;
  if (driver_.cuMemHostRegister_v2 != nullptr) {
    result = driver_.cuMemHostRegister_v2(at(address), bytes,
                                          CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
  }
  pointer = address;
  if (result == CUDA_SUCCESS && driver_.cuMemHostGetDevicePointer_v2 != nullptr) {
    result = driver_.cuMemHostGetDevicePointer_v2(&pointer, at(address), 0);
    if (result != CUDA_SUCCESS) driver_.cuMemHostUnregister(at(address));
  }
  if (result != CUDA_SUCCESS) {
    release(address, bytes);
    return result;
  }
  regions_.emplace(address, bytes);
  total_bytes_ += bytes;
  return CUDA_SUCCESS;
}

CUresult HostRegions::unmap(std::uint64_t address) {
  const std::lock_guard lock(mutex_);
  const auto found = regions_.find(address);
  if (found == regions_.end()) return CUDA_ERROR_INVALID_VALUE;
  if (driver_.cuMemHostUnregister != nullptr) driver_.cuMemHostUnregister(at(address));
  release(address, found->second);
  total_bytes_ -= found->second;
  regions_.erase(found);
  return CUDA_SUCCESS;
}

bool HostRegions::contains(std::uint64_t address, std::uint64_t bytes) const {
  const std::lock_guard lock(mutex_);
  auto after = regions_.upper_bound(address);
  if (after == regions_.begin()) return false;
  --after;
  const std::uint64_t inside = address - after->first;
  return inside <= after->second && after->second - inside >= bytes;
}

}  // namespace vgpu::worker
