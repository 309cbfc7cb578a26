// The variables of a module as its PTX declares them. image_variables.hpp knows all kinds of images. Never:
// checks the text beyond its declarations.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vgpu::worker {

/// More than any device has: what does not fit into it counts as much.
inline constexpr std::uint64_t most_variable_bytes = std::uint64_t{1} << 48;

/// A variable by the name that the driver knows it by.
struct ImageVariable {
  std::string name;
  bool managed = false;
  bool operator==(const ImageVariable&) const = default;
};

/// Whether the compiler made the variable, for its strings, its tables of mathematical functions and those of
/// classes with virtual functions: nothing writes to such.
bool written_by_compiler(std::string_view name);

/// Bytes of the variables that PTX declares; those that code can change are added to `found`, unless it is
/// null. Nothing where they cannot be told. Safe on any bytes. Source: PTX ISA, "State Spaces" and
/// "Variables".
std::optional<std::uint64_t> ptx_variables(std::string_view text, std::vector<ImageVariable>* found);

/// Whether it declares any that code can change; true where that cannot be told, and perhaps where a comment
/// looks like it. It searches for declarations and reads nothing else, which takes a tenth of the time.
bool ptx_declares(std::string_view text);

}  // namespace vgpu::worker
