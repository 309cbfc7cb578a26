// Reads vgpud.yaml and its drop-ins. Finds every mistake in one pass and says where it stands; never applies
// anything.
#pragma once

#include <span>
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

// One document of a configuration. `file` is used in messages only.
struct ConfigDocument {
  std::string file;
  std::string text;
  bool main = true;  // the operator's own file; others add to it (see config_documents)
};

// Parses YAML text. Names of users and groups are looked up in the system's database. Thread-safe as far as
// getpwnam is.
[[nodiscard]] tl::expected<Config, ConfigErrors> parse_config(std::string_view text, const std::string& file);

// Parses the documents in order, later ones over earlier ones: single values replace, classes, devices and
// named rules (also what they match) are merged key by key, rules of a later document are asked before those
// of an earlier one.
[[nodiscard]] tl::expected<Config, ConfigErrors> parse_config(std::span<const ConfigDocument> documents);

// Reads `file` (at most 1 MiB; empty: none, the built-in defaults) and its drop-ins: every *.yaml of the
// folders drop_in_folders() names, in the order of their names.
[[nodiscard]] tl::expected<std::vector<ConfigDocument>, ConfigErrors> config_documents(
    const std::string& file);

// The same, with what can be read in spite of `errors`.
[[nodiscard]] std::vector<ConfigDocument> config_documents(const std::string& file, ConfigErrors& errors);

// What stands in one file. Regular files of UTF-8 text only, so that it never waits for a pipe or a terminal.
// The error says why it cannot be read.
[[nodiscard]] tl::expected<std::string, std::string> config_text(const std::string& file);

// Where drop-ins of `file` are looked for: /etc/vgpud/vgpud.d for /etc/vgpud/vgpud.yaml, and vgpud.d in
// $STATE_DIRECTORY (systemd.exec(5)).
[[nodiscard]] std::vector<std::string> drop_in_folders(const std::string& file);

// Reads and parses `file` with its drop-ins.
[[nodiscard]] tl::expected<Config, ConfigErrors> load_config(const std::string& file);

// Changes a class by settings. The error is a sentence.
[[nodiscard]] tl::expected<void, std::string> apply_settings(ClassConfig& client_class,
                                                             const Settings& settings);

}  // namespace vgpu::daemon
