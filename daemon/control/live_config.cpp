#include "daemon/control/live_config.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "protocol/errno_text.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu::daemon {
namespace {

namespace fs = std::filesystem;

constexpr const char* kUnsaved = "changes that are not saved";
constexpr const char* kSavedName = "50-cli.yaml";
constexpr const char* kHeading =
    "# Written by vgpud-cli set --save, over what earlier files say; edit it or remove it freely.\n";

std::string file_name(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

// The mapping that a change of `target` goes into; made where it is missing.
YAML::Node find_target(YAML::Node root, const ChangeTarget& target) {
  switch (target.kind) {
    case ChangeTarget::Kind::client_class:
      return root["classes"][target.name];
    case ChangeTarget::Kind::limits:
      return root["limits"];
    case ChangeTarget::Kind::scheduler:
      return root["scheduler"];
    case ChangeTarget::Kind::device:
    case ChangeTarget::Kind::rule:
      break;
  }
  YAML::Node list = root[target.kind == ChangeTarget::Kind::rule ? "rules" : "devices"];
  for (YAML::Node item : list) {
    if (item.IsMap() && item["name"].IsDefined() && item["name"].Scalar() == target.name) return item;
  }
  YAML::Node fresh(YAML::NodeType::Map);
  fresh["name"] = target.name;
  list.push_back(fresh);
  return fresh;
}

// "[a, b]" as a list. The elements are taken as they stand: a pattern such as */train needs no quotes.
YAML::Node list_of(const std::string& value) {
  YAML::Node list(YAML::NodeType::Sequence);
  std::istringstream elements(value.substr(1, value.size() - 2));
  for (std::string element; std::getline(elements, element, ',');) {
    const auto first = element.find_first_not_of(' ');
    if (first != std::string::npos)
      list.push_back(element.substr(first, element.find_last_not_of(' ') - first + 1));
  }
  return list;
}

// No mapping of the configuration lies deeper than one level in another.
void set_value(YAML::Node map, const std::string& key, const std::string& value) {
  const bool is_list = value.size() >= 2 && value.front() == '[' && value.back() == ']';
  const YAML::Node node = is_list ? list_of(value) : YAML::Node(value);
  const auto dot = key.find('.');
  if (dot == std::string::npos) {
    map[key] = node;
  } else {
    map[key.substr(0, dot)][key.substr(dot + 1)] = node;
  }
}

// `text`, a YAML document, with the change made.
tl::expected<std::string, std::string> edit(const std::string& text, const ChangeTarget& target,
                                            const Settings& settings) {
  try {
    YAML::Node root = YAML::Load(text);
    if (!root.IsDefined() || root.IsNull()) root = YAML::Node(YAML::NodeType::Map);
    const YAML::Node map = find_target(root, target);
    for (const auto& [key, value] : settings) set_value(map, key, value);
    YAML::Emitter out;
    out << root;
    return std::string(out.c_str()) + "\n";
  } catch (const YAML::Exception& error) {
    return tl::unexpected("this change cannot be made: " + error.msg);
  }
}

std::string sentences_of(const ConfigErrors& errors) {
  std::string all;
  for (const ConfigError& error : errors) {
    // A value that was just set has no place in a file.
    all += (all.empty() ? "" : "; ") + (error.file == kUnsaved ? error.message : error.text());
  }
  return all;
}

std::string failed(const char* what, const std::string& path) {
  return errno_text(std::string(what) + " " + path);
}

// Replaces a file whole: readers see the old text or the new one.
tl::expected<void, std::string> write_file(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".new";
  UniqueFd file(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644));
  if (!file) return tl::unexpected(failed("cannot write", temporary));
  const bool written = write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
                       fsync(file.get()) == 0;
  if (!written || std::rename(temporary.c_str(), path.c_str()) != 0) {
    const std::string problem = failed("cannot write", path);
    unlink(temporary.c_str());
    return tl::unexpected(problem);
  }
  return {};
}

// Puts a drop-in among the others, by its name; one of the same path is replaced.
void put_drop_in(std::vector<ConfigDocument>& documents, ConfigDocument drop_in) {
  const auto same = std::find_if(documents.begin(), documents.end(),
                                 [&](const ConfigDocument& other) { return other.file == drop_in.file; });
  if (same != documents.end()) {
    *same = std::move(drop_in);
    return;
  }
  const auto later = std::find_if(documents.begin(), documents.end(), [&](const ConfigDocument& other) {
    return !other.main && file_name(other.file) > file_name(drop_in.file);
  });
  documents.insert(later, std::move(drop_in));
}

}  // namespace

std::string LiveConfig::saved_file() const {
  const auto folders = drop_in_folders(file_);
  return folders.empty() ? std::string() : folders.back() + "/" + kSavedName;
}

tl::expected<std::vector<ConfigDocument>, ConfigErrors> LiveConfig::documents() const {
  auto documents = config_documents(file_);
  if (documents && !unsaved_.empty()) documents->push_back({kUnsaved, unsaved_, false});
  return documents;
}

tl::expected<Config, std::string> LiveConfig::change(const ChangeTarget& target, const Settings& settings,
                                                     bool save) {
  auto documents = config_documents(file_);
  if (!documents) return tl::unexpected(sentences_of(documents.error()));
  ConfigDocument saved{saved_file(), {}, false};
  if (save) {
    if (saved.file.empty()) {
      return tl::unexpected(
          std::string("vgpud was started without a configuration file, there is no place to save to"));
    }
    for (const ConfigDocument& document : *documents) {
      if (document.file == saved.file) saved.text = document.text;
    }
    auto text = edit(saved.text, target, settings);
    if (!text) return tl::unexpected(text.error());
    saved.text = kHeading + *text;
    put_drop_in(*documents, saved);
  }
  // Also over the changes that are not saved, which are read last.
  std::string unsaved = unsaved_;
  if (!save || !unsaved.empty()) {
    auto text = edit(unsaved, target, settings);
    if (!text) return tl::unexpected(text.error());
    unsaved = std::move(*text);
    documents->push_back({kUnsaved, unsaved, false});
  }
  auto config = parse_config(*documents);
  if (!config) return tl::unexpected(sentences_of(config.error()));
  if (save) {
    std::error_code error;
    fs::create_directories(fs::path(saved.file).parent_path(), error);
    if (auto written = write_file(saved.file, saved.text); !written) return tl::unexpected(written.error());
  }
  unsaved_ = std::move(unsaved);
  return std::move(*config);
}

tl::expected<Config, ConfigErrors> LiveConfig::reload() {
  auto config = load_config(file_);
  if (config) unsaved_.clear();
  return config;
}

}  // namespace vgpu::daemon
