// The address window in which client and worker map pinned, mapped and managed host memory at equal
// addresses. The worker reserves it whole at its start; the client picks addresses in it.
#pragma once

#include <cstdint>

namespace vgpu {

#ifdef VGPU_THREAD_SANITIZER
// ThreadSanitizer's shadow lies where the usual window would be.
inline constexpr std::uint64_t host_window_base = 0x0000'0040'0000'0000;
inline constexpr std::uint64_t host_window_size = 0x0000'0010'0000'0000;  // 64 GiB
#else
inline constexpr std::uint64_t host_window_base = 0x0000'3000'0000'0000;
inline constexpr std::uint64_t host_window_size = 0x0000'0100'0000'0000;  // 1 TiB
#endif

inline constexpr std::uint64_t host_page =
    4096;  ///< addresses and sizes of host regions are multiples of this

/// True when [address, address+bytes) lies inside the window; bytes > 0.
constexpr bool in_host_window(std::uint64_t address, std::uint64_t bytes = 1) {
  return bytes != 0 && address - host_window_base < host_window_size &&
         host_window_size - (address - host_window_base) >= bytes;
}

}  // namespace vgpu
