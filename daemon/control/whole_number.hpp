// A whole number of a request, which may come from anybody. The JSON library's own conversions wrap around.
#pragma once

#include <concepts>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <utility>

namespace vgpu::daemon {

/// The number as a T. What is no whole number, or none that a T holds, is a json::type_error, as any value of
/// the wrong type.
template <std::integral T>
[[nodiscard]] T whole_number(const nlohmann::json& value) {
  if (value.is_number_unsigned()) {
    if (const auto wide = value.get<std::uint64_t>(); std::in_range<T>(wide)) return static_cast<T>(wide);
  } else if (value.is_number_integer()) {
    if (const auto wide = value.get<std::int64_t>(); std::in_range<T>(wide)) return static_cast<T>(wide);
  }
  throw nlohmann::json::type_error::create(302, "no such whole number: " + value.dump(), &value);
}

/// The same of a request's key, or `otherwise` where it is not there.
template <std::integral T>
[[nodiscard]] T whole_number(const nlohmann::json& request, const char* key, T otherwise) {
  const auto found = request.find(key);
  return found == request.end() ? otherwise : whole_number<T>(*found);
}

}  // namespace vgpu::daemon
