#include "daemon/worker_pool/environment.hpp"

#include <unistd.h>

#include <algorithm>
#include <string_view>

namespace vgpu::daemon {

EnvironmentBlock::EnvironmentBlock(const std::vector<std::string>& changes) : variables_(changes) {
  const auto name = [](std::string_view variable) { return variable.substr(0, variable.find('=')); };
  for (char** variable = environ; variable != nullptr && *variable != nullptr; ++variable) {
    const bool changed = std::any_of(changes.begin(), changes.end(), [&](const std::string& change) {
      return name(change) == name(*variable);
    });
    if (!changed) variables_.emplace_back(*variable);
  }
  for (std::string& variable : variables_) pointers_.push_back(variable.data());
  pointers_.push_back(nullptr);
}

}  // namespace vgpu::daemon
