// Turns vgpud's answers into the tables of `stats`, `ps` and `devices`. Pure; tolerant of missing keys, since
// vgpud may be of another version.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace vgpu::cli {

// The table of `stats`: every client with its figures; with `ended` also those that have ended.
[[nodiscard]] std::string stats_table(const nlohmann::json& answer, bool ended);
// The table of `ps`: who the clients are.
[[nodiscard]] std::string process_table(const nlohmann::json& answer);
// The table of `vm list`.
[[nodiscard]] std::string vm_table(const nlohmann::json& answer);
// The table of `devices`, and a line for each device that cannot serve or is a host's.
[[nodiscard]] std::string device_table(const nlohmann::json& answer);

}  // namespace vgpu::cli
