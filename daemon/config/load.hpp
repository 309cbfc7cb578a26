// Reads vgpud.yaml. Finds every mistake in one pass and says where it stands; never applies anything.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "daemon/config/config.hpp"

namespace vgpu::daemon {

// One mistake in a configuration file. Lines and columns count from 1; 0 means the file as a whole.
struct ConfigError {
  std::string file;
  int line = 0;
  int column = 0;
  std::string message;

  // "file:line:column: message"
  [[nodiscard]] std::string text() const;
};

using ConfigErrors = std::vector<ConfigError>;

// Parses YAML text; `file` is used in messages only. Names of users and groups are looked up in the system's
// database. Thread-safe as far as getpwnam is.
[[nodiscard]] tl::expected<Config, ConfigErrors> parse_config(std::string_view text, const std::string& file);

// Reads and parses a file (at most 1 MiB).
[[nodiscard]] tl::expected<Config, ConfigErrors> load_config(const std::string& file);

}  // namespace vgpu::daemon
