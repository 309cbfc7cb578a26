// Members of vgpud's answers, as far as they are there and of the right type: a vgpud of another version may
// leave some out.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace vgpu::cli {

// 0 where there is no such number.
[[nodiscard]] inline std::uint64_t number(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number() ? found->get<std::uint64_t>() : 0;
}

// Empty where there is no such text.
[[nodiscard]] inline std::string text(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

}  // namespace vgpu::cli
