// The broker's log: sentences with key=value details, by spdlog, to the journal or to standard error. Keeps
// spdlog out of the other headers. Never logs what a client sent without quoting it.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

#include "daemon/config/config.hpp"

namespace vgpu::daemon::log {

// Sets target and level; may be called again after a reload. Not thread-safe.
void configure(const LogConfig& config);

void write(LogLevel level, std::string_view message);

template <class... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
  write(LogLevel::debug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  write(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void warning(fmt::format_string<Args...> format, Args&&... args) {
  write(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  write(LogLevel::error, fmt::format(format, std::forward<Args>(args)...));
}

// `text` as one quoted word of printable ASCII, at most 200 characters: for anything that a client chose (its
// executable's name, its cgroup).
[[nodiscard]] std::string quoted(std::string_view text);

}  // namespace vgpu::daemon::log
