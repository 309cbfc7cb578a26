// The software GPU's address windows. Device pointers are host addresses inside the device window, so a
// global load is a host load; shared and local memory have windows of their own in the generic address space,
// which no host mapping ever uses.
//
// Sanitizers reserve large parts of the address space for themselves, so each gets a window that it leaves
// free.
#pragma once

#include <cstdint>

namespace softgpu {

#ifdef VGPU_THREAD_SANITIZER
inline constexpr std::uint64_t device_window_base = 0x0000'0020'0000'0000;
inline constexpr std::uint64_t device_window_size = 0x0000'0020'0000'0000;  // 128 GiB
inline constexpr std::uint64_t shared_window_base = 0x0000'0060'0000'0000;
inline constexpr std::uint64_t local_window_base = 0x0000'0068'0000'0000;
#else
inline constexpr std::uint64_t device_window_base = 0x0000'2000'0000'0000;
inline constexpr std::uint64_t device_window_size = 0x0000'0100'0000'0000;  // 1 TiB
inline constexpr std::uint64_t shared_window_base = 0x0000'2200'0000'0000;
inline constexpr std::uint64_t local_window_base = 0x0000'2300'0000'0000;
#endif

inline constexpr std::uint64_t shared_window_size = std::uint64_t{1}
                                                    << 24;  // addresses of one block's shared memory
inline constexpr std::uint64_t local_window_size = std::uint64_t{1}
                                                   << 24;  // addresses of one thread's local memory

/// True when [address, address+bytes) lies inside the device window.
constexpr bool in_device_window(std::uint64_t address, std::uint64_t bytes = 1) {
  return address - device_window_base < device_window_size &&
         device_window_size - (address - device_window_base) >= bytes;
}

/// Host memory that kernels may touch besides the device window: pinned or registered host ranges.
/// Implemented in softgpu/memory; thread-safe. add/remove are called by the driver, allowed() by the engine
/// on its slow path.
void add_host_range(std::uint64_t address, std::uint64_t bytes);
void remove_host_range(std::uint64_t address);
bool host_range_allowed(std::uint64_t address, std::uint64_t bytes);

}  // namespace softgpu
