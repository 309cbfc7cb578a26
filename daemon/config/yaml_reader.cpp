#include "daemon/config/yaml_reader.hpp"

#include <algorithm>
#include <charconv>
#include <set>

#include "daemon/config/quantity.hpp"

namespace vgpu::daemon {

Place ErrorSink::place(const YAML::Mark& mark) const {
  return mark.is_null() ? Place{file_, 0, 0} : Place{file_, mark.line + 1, mark.column + 1};
}

void ErrorSink::add(const YAML::Mark& mark, std::string message) {
  add(place(mark), std::move(message));
}

void ErrorSink::add(const Place& place, std::string message) {
  errors_.push_back({place.file, place.line, place.column, std::move(message)});
}

MapReader::MapReader(const YAML::Node& node, std::string what, ErrorSink& errors)
    : what_(std::move(what)), errors_(errors) {
  if (!node.IsDefined() || node.IsNull()) return;
  if (!node.IsMap()) {
    errors_.add(node.Mark(), what_ + " must be a mapping (key: value)");
    return;
  }
  node_.reset(node);
}

YAML::Node MapReader::child(const std::string& key) {
  if (std::find(known_.begin(), known_.end(), key) == known_.end()) known_.push_back(key);
  if (!node_.IsMap()) return YAML::Node(YAML::NodeType::Undefined);
  const YAML::Node& map = node_;  // the const operator[] never inserts
  return map[key];
}

std::optional<std::string> MapReader::scalar(const std::string& key, YAML::Node& node) {
  const YAML::Node found = child(key);
  if (!found.IsDefined()) return std::nullopt;
  node.reset(found);
  if (!node.IsScalar()) {
    errors_.add(node.Mark(), "'" + key + "' of " + what_ + " must be a single value");
    return std::nullopt;
  }
  return node.Scalar();
}

void MapReader::text(const std::string& key, std::string& out) {
  YAML::Node node;
  if (auto value = scalar(key, node)) out = *value;
}

void MapReader::path(const std::string& key, std::string& out) {
  YAML::Node node;
  const auto value = scalar(key, node);
  if (!value) return;
  if (value->empty() || value->front() != '/') {
    errors_.add(node.Mark(), "'" + key + "' of " + what_ + " must be an absolute path, not '" + *value + "'");
    return;
  }
  out = *value;
}

void MapReader::integer(const std::string& key, unsigned& out, unsigned least, unsigned most) {
  YAML::Node node;
  const auto value = scalar(key, node);
  if (!value) return;
  unsigned number = 0;
  const auto [end, error] = std::from_chars(value->data(), value->data() + value->size(), number);
  if (error != std::errc{} || end != value->data() + value->size() || number < least || number > most) {
    errors_.add(node.Mark(), "'" + key + "' of " + what_ + " must be a whole number from " +
                                 std::to_string(least) + " to " + std::to_string(most) + ", not '" + *value +
                                 "'");
    return;
  }
  out = number;
}

void MapReader::flag(const std::string& key, bool& out) {
  YAML::Node node;
  const auto value = scalar(key, node);
  if (!value) return;
  if (*value != "true" && *value != "false") {
    errors_.add(node.Mark(), "'" + key + "' of " + what_ + " must be true or false, not '" + *value + "'");
    return;
  }
  out = *value == "true";
}

void MapReader::size(const std::string& key, std::uint64_t& out, std::uint64_t least, std::uint64_t most) {
  YAML::Node node;
  const auto value = scalar(key, node);
  if (!value) return;
  const auto bytes = parse_size(*value);
  if (!bytes) {
    errors_.add(node.Mark(), "'" + key + "' of " + what_ + ": " + bytes.error());
  } else if (*bytes < least || *bytes > most) {
    errors_.add(node.Mark(), "'" + key + "' of " + what_ + " must be from " + std::to_string(least) + " to " +
                                 std::to_string(most) + " bytes, not '" + *value + "'");
  } else {
    out = *bytes;
  }
}

void MapReader::optional_size(const std::string& key, std::optional<std::uint64_t>& out, std::uint64_t least,
                              std::uint64_t most) {
  const YAML::Node node = child(key);
  if (node.IsDefined() && node.IsScalar() && node.Scalar() == "none") {
    out.reset();
    return;
  }
  std::uint64_t bytes = 0;
  size(key, bytes, least, most);
  if (bytes != 0) out = bytes;
}

void MapReader::duration(const std::string& key, std::chrono::microseconds& out,
                         std::chrono::microseconds least) {
  YAML::Node node;
  const auto value = scalar(key, node);
  if (!value) return;
  const auto time = parse_duration(*value);
  if (!time) {
    errors_.add(node.Mark(), "'" + key + "' of " + what_ + ": " + time.error());
  } else if (*time < least) {
    errors_.add(node.Mark(),
                "'" + key + "' of " + what_ + " must be at least " + std::to_string(least.count()) + "us");
  } else {
    out = *time;
  }
}

void MapReader::duration(const std::string& key, std::chrono::milliseconds& out,
                         std::chrono::milliseconds least) {
  std::chrono::microseconds exact = out;
  duration(key, exact, std::chrono::microseconds(least));
  out = std::chrono::ceil<std::chrono::milliseconds>(exact);
}

std::vector<YAML::Node> MapReader::scalars(const std::string& key) {
  const YAML::Node node = child(key);
  std::vector<YAML::Node> values;
  if (!node.IsDefined()) return values;
  if (node.IsScalar()) {
    values.push_back(node);
    return values;
  }
  if (!node.IsSequence() || node.size() == 0) {
    errors_.add(node.Mark(), "'" + key + "' of " + what_ + " must be a value or a list of values");
    return values;
  }
  for (const YAML::Node& item : node) {
    if (item.IsScalar()) {
      values.push_back(item);
    } else {
      errors_.add(item.Mark(), "'" + key + "' of " + what_ + " must list single values");
    }
  }
  return values;
}

void MapReader::finish() {
  if (!node_.IsMap()) return;
  std::set<std::string> seen;
  for (const auto& entry : node_) {
    if (!entry.first.IsScalar()) {
      errors_.add(entry.first.Mark(), "a key of " + what_ + " must be a word");
      continue;
    }
    const std::string& key = entry.first.Scalar();
    if (!seen.insert(key).second) {
      errors_.add(entry.first.Mark(), "'" + key + "' stands twice in " + what_);
      continue;
    }
    if (std::find(known_.begin(), known_.end(), key) != known_.end()) continue;
    std::string list;
    for (const std::string& name : known_) list.append(list.empty() ? "" : ", ").append(name);
    std::string text = "unknown key '";
    text.append(key).append("' in ").append(what_).append(" (known: ").append(list).append(")");
    errors_.add(entry.first.Mark(), text);
  }
}

}  // namespace vgpu::daemon
