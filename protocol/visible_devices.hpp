// What CUDA_VISIBLE_DEVICES asks for, as NVIDIA's driver reads it: from the variable's text to the wish that
// travels in a client's first message, and the check of a wish that has travelled. Never: knows a device.
#pragma once

#include <string_view>

#include "protocol/handshake.hpp"

namespace vgpu {

/// Reads a value of CUDA_VISIBLE_DEVICES; nullptr: the variable is not set. Of a list the first
/// most_client_devices entries are wished for; later ones count where they hide them:
/// - An entry is a number, read as strtoul does ("1x" is 1), or begins with "GPU-"; the first entry says
/// which
///   of the two the list consists of.
/// - The list ends at the first entry that is neither a number from 0 on nor of its kind; nothing is left of
///   one that begins so: "", "-1", "NoDevFiles", MIG instances.
/// - A list that names an entry twice hides everything.
DeviceWish wish_of(const char* variable);

/// The same of this process's environment.
DeviceWish wish_of_environment();

/// The beginning of a UUID that a wish holds at `entry`, "GPU-" included; empty where it is no such text.
/// Safe for a wish of any bytes.
std::string_view wished_uuid(const DeviceWish& wish, std::size_t entry);

/// How many entries a wish holds: at most most_client_devices. Safe for a wish of any bytes.
std::size_t wished_count(const DeviceWish& wish);

/// Whether two wishes ask for the same. Of wishes that were read here.
bool same_wish(const DeviceWish& a, const DeviceWish& b);

}  // namespace vgpu
