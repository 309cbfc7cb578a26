// What can be told of a module from its image without running it. Never: changes the image, or decides
// whether the driver may have it.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "cudaabi/image.hpp"

namespace vgpu::worker {

/// What kernels may write.
struct ImageText {
  bool prints = false;     ///< printf
  bool asserts = false;    ///< the message of a failed assertion
  bool variables = false;  ///< variables that outlive them (image_variables.hpp)
};

/// A member is false when no kernel of `image` (fatbin, machine code, PTX) does that: so a synchronisation
/// has nothing to write out where the name of the device function behind it, vprintf or __assertfail, stands
/// nowhere in the image. True when one may, and for images too large or too strange to say. Safe on any
/// bytes. Source of the names: CUDA C++ Programming Guide, "Formatted Output"; nvcc's PTX.
ImageText image_text(std::span<const std::byte> image);

/// What a fatbin's entry holds, decompressed into `buffer` where need be; nothing where it is damaged, or too
/// large to be believed. Safe on any bytes.
std::optional<std::span<const std::byte>> plain_bytes(const cudaabi::FatbinEntry& entry,
                                                      std::vector<std::byte>& buffer);

}  // namespace vgpu::worker
