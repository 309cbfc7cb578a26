// What the owner of a client may change of it: he may ask for less than policy and administrators give, never
// for more. Knows classes only.
#pragma once

#include <string>

#include "daemon/config/config.hpp"

namespace vgpu::daemon {

// Empty when `wanted` differs from `granted` only in that it asks for less; else a sentence that names the
// first key which does not.
[[nodiscard]] std::string why_not_lower(const ClassConfig& wanted, const ClassConfig& granted);

// `settings` over `base`: the key's last value counts, each key stands once.
[[nodiscard]] Settings merge_settings(Settings base, const Settings& settings);

}  // namespace vgpu::daemon
