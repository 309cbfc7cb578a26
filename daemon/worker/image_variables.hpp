// What the variables of a module are (__device__, __constant__, __managed__) and how much device memory they
// take, told from its image: no driver call says it, and afterwards is too late for a quota. Never: changes
// the image, or decides whether the driver may have it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "daemon/worker/ptx_variables.hpp"

namespace vgpu::worker {

/// Bytes of the variables of `image` (fatbin, machine code, PTX) on a device of this compute capability (75
/// for 7.5): of a fatbin's images the most that any takes that the driver may choose. Nothing where it cannot
/// be told. Safe on any bytes. Source: PTX ISA, "State Spaces" and "Variables"; ELF; sections of nvcc's
/// cubins.
std::optional<std::uint64_t> variable_bytes(std::span<const std::byte> image, std::uint32_t capability);

/// The same of PTX text alone.
std::optional<std::uint64_t> ptx_variable_bytes(std::string_view text);

/// The variables of all images that the driver may choose, each once, without those that the compiler makes
/// and nothing writes to. Nothing where they cannot be told. Safe on any bytes.
std::optional<std::vector<ImageVariable>> image_variables(std::span<const std::byte> image,
                                                          std::uint32_t capability);

/// Whether machine code or PTX declares any of those; true where it cannot be told. Cheap: PTX is searched
/// for declarations, not read. Safe on any bytes.
bool declares_variables(std::span<const std::byte> code);

}  // namespace vgpu::worker
