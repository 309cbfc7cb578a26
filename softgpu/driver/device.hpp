// What a device is: its identity and its limits. Everything it reports is what this engine does. All devices
// are alike but for their identities.
#pragma once

#include <cuda.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>

namespace softgpu {

inline constexpr int driver_version = 13000;
inline constexpr const char* device_name = "vgpud Software GPU";
inline constexpr int compute_major = 7;
inline constexpr int compute_minor = 5;
inline constexpr int pci_domain = 0;
inline constexpr int pci_device = 0;
/// Each device is alone on its bus.
constexpr int pci_bus(int device) {
  return device;
}

inline constexpr unsigned warp_size = 32;
inline constexpr unsigned max_block_threads = 1024;
inline constexpr unsigned max_block_z = 64;
inline constexpr unsigned max_grid_x = 0x7fffffff;
inline constexpr unsigned max_grid_yz = 65535;
inline constexpr unsigned resident_threads = 1024;  ///< a multiprocessor
inline constexpr unsigned resident_block_limit = 16;
inline constexpr unsigned registers = 65536;          ///< a multiprocessor, and a block
inline constexpr unsigned shared_default = 48 << 10;  ///< bytes a block, without opting in
inline constexpr unsigned shared_opt_in = 64 << 10;
inline constexpr unsigned shared_per_multiprocessor = 64 << 10;
inline constexpr unsigned shared_granularity = 256;
inline constexpr unsigned texture_alignment = 512;
inline constexpr unsigned texture_pitch_alignment = 32;
inline constexpr unsigned pitch_alignment = 512;  ///< of cuMemAllocPitch

/// Largest arrays and textures, in texels: those of compute capability 7.5.
struct TextureLimits {
  unsigned width_1d, width_2d, height_2d, volume;
  unsigned layered_width;  ///< and height
  unsigned layers;
  unsigned linear;  ///< of a texture over linear memory
};
inline constexpr TextureLimits texture_limits{131072, 131072, 65536, 16384, 32768, 2048, 1U << 28};

/// How many devices there are: SOFTGPU_DEVICES, 1 to 8, else one.
int configured_device_count();
/// The same on every run on this machine, for each device another.
std::array<unsigned char, 16> device_uuid(int device);
/// The value of an attribute; nothing for an unknown one.
std::optional<int> device_attribute(CUdevice_attribute attribute, int device);

}  // namespace softgpu
