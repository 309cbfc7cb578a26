// One question to vgpud and what becomes of it, for commands that ask once.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace vgpu::cli {

// An answer, or the exit status after the reason has been printed.
struct Outcome {
  nlohmann::json answer;
  int status = 0;  // commands.hpp: kGood, kFailed, kNoBroker
};

// Asks on a new connection.
[[nodiscard]] Outcome ask(const std::string& control, const nlohmann::json& request);

}  // namespace vgpu::cli
