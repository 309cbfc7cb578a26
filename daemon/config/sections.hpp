// The parts of vgpud.yaml that more than one file reads. Only for the files of this folder.
#pragma once

#include <sys/types.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/config/config.hpp"
#include "daemon/config/yaml_reader.hpp"

namespace vgpu::daemon {

inline constexpr std::uint64_t mebibyte = 1ULL << 20U;

// What is wrong with a socket's path: unix(7), it and a zero byte have 108.
inline std::optional<std::string> wrong_socket_path(const std::string& path) {
  if (path.size() <= 107) return std::nullopt;
  return "the socket path " + path + " is longer than 107 characters";
}

// One of several words; says which there are.
template <class Value, std::size_t N>
void read_word(MapReader& map, const std::string& key, Value& out,
               const std::array<std::pair<const char*, Value>, N>& words, ErrorSink& errors) {
  const YAML::Node node = map.child(key);
  if (!node.IsDefined()) return;
  std::string known;
  for (const auto& [word, value] : words) {
    if (node.IsScalar() && node.Scalar() == word) {
      out = value;
      return;
    }
    known += (known.empty() ? "" : ", ") + std::string(word);
  }
  errors.add(node.Mark(), "'" + key + "' must be one of: " + known);
}

// The name of a list's or mapping's entry: letters, digits and "-_." only, since it is printed and looked up.
[[nodiscard]] bool good_name(const std::string& name);

// The entry of a list of mappings called `name`, or an empty text.
[[nodiscard]] std::string name_of(const YAML::Node& item);

// The group of this system that has the name.
[[nodiscard]] std::optional<gid_t> gid_of(const std::string& name);

template <class Entry>
auto find_named(std::vector<Entry>& list, const std::string& name) {
  return std::find_if(list.begin(), list.end(), [&](const Entry& entry) { return entry.name == name; });
}

// The keys of a class. The one place that knows them: `classes`, a rule's `set` and vgpud-cli set all come
// here.
void read_class_settings(MapReader& map, ClassConfig& out, ErrorSink& errors);

// The list of rules. Those of a later document are asked first; one that has a rule's name changes that rule
// where it stands. `prefix`: of the names of those that have none.
void read_rules(const YAML::Node& node, const std::string& prefix, Config& config, ErrorSink& errors);

// The list of VMs. `main`: the document's VMs are all there are; else they add to those of earlier documents.
void read_vms(const YAML::Node& node, bool main, Config& config, ErrorSink& errors);

// Once all documents have been read: what vgpud would refuse at its start.
void check_vms(const Config& config, ErrorSink& errors);

}  // namespace vgpu::daemon
