// Gives the variables of a library the values again that its image gives them, in one context. Where a
// context is made anew the driver does it; the worker's stay. Never: touches managed variables, which belong
// to no context, or loads a library that was not in use.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "vgpu/driver_table.hpp"

namespace vgpu::worker {

/// How many copies of the library restore_first_values() has loaded at once.
inline constexpr int first_value_copies = 2;

/// Loads a library that is kept until it is unloaded, as is `image`, with zeros behind it: the driver needs
/// no copy of its own.
CUresult load_preserved(const DriverTable& driver, CUlibrary& library, std::span<const std::byte> image,
                        unsigned option_count = 0, CUjit_option* options = nullptr, void** values = nullptr);

/// In the current context, of which nothing is under way. The values come from copies of `library`, loaded
/// from its `image` for as long as it takes: of its variables the driver tells nothing but where they are.
/// What an image gives as an address differs between two copies. Addresses of variables are translated to the
/// library's own; a word with another address that differs (a function's) stays as it is, since nothing says
/// where the library's own function lies. `capability`: the device's, 75 for 7.5. An error may leave some
/// variables as they were.
CUresult restore_first_values(const DriverTable& driver, CUlibrary library, std::span<const std::byte> image,
                              std::uint32_t capability);

}  // namespace vgpu::worker
