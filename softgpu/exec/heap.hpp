// The heap behind device-side malloc: one a module, in device memory. Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

#include "softgpu/engine.hpp"

namespace softgpu::exec {

class DeviceHeap {
 public:
  explicit DeviceHeap(DeviceAllocator& memory) : memory_(memory) {}
  DeviceHeap(const DeviceHeap&) = delete;
  DeviceHeap& operator=(const DeviceHeap&) = delete;
  ~DeviceHeap();
  /// 16-aligned device memory, 0 when the heap (8 MiB, as CUDA's default) is full.
  std::uint64_t allocate(std::uint64_t bytes);
  /// False when `address` is not an allocation.
  bool release(std::uint64_t address);

 private:
  DeviceAllocator& memory_;
  std::mutex mutex_;
  std::uint64_t base_ = 0;
  std::map<std::uint64_t, std::uint64_t> free_, used_;  ///< address -> bytes
};

/// Device printf's way out.
void write_printf(std::string_view text);

}  // namespace softgpu::exec
