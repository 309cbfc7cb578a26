// What of a configuration vgpud reads at its start only. Pure.
#pragma once

#include <string>
#include <vector>

#include "daemon/config/config.hpp"

namespace vgpu::daemon {

// The keys by which `wanted` differs from `running` and which hold only after a restart, as vgpud-cli spells
// them: "socket", "scheduler quantum", "device gpu0 pool", "device gpu1" (one that is not there, or no more).
[[nodiscard]] std::vector<std::string> needs_restart(const Config& running, const Config& wanted);

// "a, b and c"
[[nodiscard]] std::string listed(const std::vector<std::string>& words);

}  // namespace vgpu::daemon
