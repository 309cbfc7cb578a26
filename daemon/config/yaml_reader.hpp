// A strict view of a YAML document for daemon/config/load.cpp: typed reads that note a mistake with its place
// and go on, so that one pass finds them all. Never throws past its own functions.
#pragma once

#include <yaml-cpp/yaml.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "daemon/config/load.hpp"

namespace vgpu::daemon {

// Collects the mistakes of a configuration, file by file.
class ErrorSink {
 public:
  explicit ErrorSink(std::string file) : file_(std::move(file)) {}
  // Marks that come now belong to another file.
  void set_file(std::string file) { file_ = std::move(file); }
  // Where a mark stands.
  [[nodiscard]] Place place(const YAML::Mark& mark) const;
  // Notes a mistake at `mark`.
  void add(const YAML::Mark& mark, std::string message);
  void add(const Place& place, std::string message);
  [[nodiscard]] bool empty() const { return errors_.empty(); }
  [[nodiscard]] ConfigErrors take() { return std::move(errors_); }

 private:
  std::string file_;
  ConfigErrors errors_;
};

// One mapping of the document. Each read names a key; finish() reports every key that no read asked for.
class MapReader {
 public:
  // `what` names the mapping in messages ("class 'batch'"). A node that is not a mapping is a mistake; a null
  // node is an empty mapping.
  MapReader(const YAML::Node& node, std::string what, ErrorSink& errors);

  // The node under `key`, or an undefined one. Marks the key as known.
  YAML::Node child(const std::string& key);
  // Each of these leaves `out` alone where the key is absent or its value is wrong (which is noted).
  void text(const std::string& key, std::string& out);
  void path(const std::string& key, std::string& out);  // must be absolute
  void integer(const std::string& key, unsigned& out, unsigned least, unsigned most);
  void flag(const std::string& key, bool& out);
  void size(const std::string& key, std::uint64_t& out, std::uint64_t least, std::uint64_t most);
  // As size(), or "none".
  void optional_size(const std::string& key, std::optional<std::uint64_t>& out, std::uint64_t least,
                     std::uint64_t most);
  void duration(const std::string& key, std::chrono::microseconds& out, std::chrono::microseconds least);
  void duration(const std::string& key, std::chrono::milliseconds& out, std::chrono::milliseconds least);
  // A scalar or a list of scalars, with each value's place.
  std::vector<YAML::Node> scalars(const std::string& key);

  // Notes unknown and repeated keys.
  void finish();

 private:
  std::optional<std::string> scalar(const std::string& key, YAML::Node& node);

  YAML::Node node_;
  std::string what_;
  ErrorSink& errors_;
  std::vector<std::string> known_;
};

}  // namespace vgpu::daemon
