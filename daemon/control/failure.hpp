// The one form in which the control protocol says that a request failed. Pure.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace vgpu::daemon {

// {"ok":false,"error":sentence}
[[nodiscard]] inline nlohmann::json failure(const std::string& sentence) {
  return {{"ok", false}, {"error", sentence}};
}

}  // namespace vgpu::daemon
