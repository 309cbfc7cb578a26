// How much device memory the variables of a module take (__device__, __constant__, __managed__), told from
// its image: no driver call says it, and afterwards is too late for a quota. Never: changes the image, or
// decides whether the driver may have it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace vgpu::worker {

/// Bytes of the variables of `image` (fatbin, machine code, PTX) on a device of this compute capability (75
/// for 7.5): of a fatbin's images the most that any takes that the driver may choose. Nothing where it cannot
/// be told. Safe on any bytes. Source: PTX ISA, "State Spaces" and "Variables"; ELF; sections of nvcc's
/// cubins.
std::optional<std::uint64_t> variable_bytes(std::span<const std::byte> image, std::uint32_t capability);

/// The same of PTX text alone.
std::optional<std::uint64_t> ptx_variable_bytes(std::string_view text);

}  // namespace vgpu::worker
