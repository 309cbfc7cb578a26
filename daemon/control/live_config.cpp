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

#include "daemon/config/restart.hpp"
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

// Takes a rule out of its document.
void remove_rule(YAML::Node root, const std::string& name) {
  const YAML::Node rules = root["rules"];
  if (!rules.IsDefined() || !rules.IsSequence()) return;
  YAML::Node others(YAML::NodeType::Sequence);
  for (const YAML::Node& item : rules) {
    const bool same = item.IsMap() && item["name"].IsDefined() && item["name"].Scalar() == name;
    if (!same) others.push_back(item);
  }
  root["rules"] = others;
}

// Puts a rule before the others of its document.
YAML::Node put_first(YAML::Node root, const std::string& name) {
  remove_rule(root, name);
  YAML::Node fresh(YAML::NodeType::Map);
  fresh["name"] = name;
  YAML::Node all(YAML::NodeType::Sequence);
  all.push_back(fresh);
  for (const YAML::Node& item : YAML::Node(root["rules"])) all.push_back(item);
  root["rules"] = all;
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
    const YAML::Node map = target.whole ? put_first(root, target.name) : find_target(root, target);
    for (const auto& [key, value] : settings) set_value(map, key, value);
    YAML::Emitter out;
    out << root;
    return std::string(out.c_str()) + "\n";
  } catch (const YAML::Exception& error) {
    return tl::unexpected("this change cannot be made: " + error.msg);
  }
}

// `text` without what it says of a rule.
tl::expected<std::string, std::string> without_rule(const std::string& text, const std::string& name) {
  try {
    const YAML::Node root = YAML::Load(text);
    if (!root.IsMap()) return text;
    remove_rule(root, name);
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

// Null: there is none of this file.
const ConfigDocument* find_document(const std::vector<ConfigDocument>& documents, const std::string& file) {
  const auto found = std::find_if(documents.begin(), documents.end(),
                                  [&](const ConfigDocument& document) { return document.file == file; });
  return found != documents.end() ? &*found : nullptr;
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

std::vector<ConfigDocument> LiveConfig::documents() const {
  auto documents = loaded_;
  if (!unsaved_.empty()) documents.push_back({kUnsaved, unsaved_, false});
  return documents;
}

std::vector<std::string> LiveConfig::unread() const {
  ConfigErrors errors;
  const auto on_disk = config_documents(file_, errors);
  std::vector<std::string> sentences;
  for (const ConfigError& error : errors) sentences.push_back(error.text());
  for (const ConfigDocument& document : on_disk) {
    const auto* const held = find_document(loaded_, document.file);
    if (held == nullptr) {
      sentences.push_back(document.file + " is new and has not been read yet");
    } else if (held->text != document.text) {
      sentences.push_back(document.file + " has changed since it was read");
    }
  }
  for (const ConfigDocument& document : loaded_) {
    const bool unreadable = std::any_of(
        errors.begin(), errors.end(), [&](const ConfigError& error) { return error.file == document.file; });
    if (!unreadable && find_document(on_disk, document.file) == nullptr) {
      sentences.push_back(document.file + " is gone since it was read");
    }
  }
  return sentences;
}

tl::expected<void, std::string> LiveConfig::try_save(const ChangeTarget& target, const Settings& settings,
                                                     TriedChange& change) const {
  ConfigDocument saved{saved_file(), {}, false};
  if (saved.file.empty()) {
    return tl::unexpected(
        std::string("vgpud was started without a configuration file, there is no place to save to"));
  }
  const auto* const held = find_document(loaded_, saved.file);
  auto text = edit(held != nullptr ? held->text : std::string(), target, settings);
  if (!text) return tl::unexpected(text.error());
  saved.text = kHeading + *text;
  // What somebody wrote into the file since it was read stays there, and does not hold before a reload.
  change.saved_text = saved.text;
  std::error_code ignored;
  if (fs::exists(saved.file, ignored)) {
    const auto on_disk = config_text(saved.file);
    if (!on_disk) return tl::unexpected("cannot read " + saved.file + ": " + on_disk.error());
    if (held == nullptr || held->text != *on_disk) {
      text = edit(*on_disk, target, settings);
      if (!text) return tl::unexpected(saved.file + ": " + text.error());
      change.saved_text = kHeading + *text;
    }
  }
  put_drop_in(change.documents, std::move(saved));
  auto next = parse_config(change.documents);
  if (!next) {
    const std::string sentences = sentences_of(next.error());
    return tl::unexpected(unsaved_.empty() ? sentences
                                           : "without the changes that are not saved: " + sentences);
  }
  change.next = std::move(*next);
  return {};
}

tl::expected<TriedChange, std::string> LiveConfig::try_change(const ChangeTarget& target,
                                                              const Settings& settings, bool save) const {
  TriedChange change;
  change.documents = loaded_;
  if (save) {
    if (auto good = try_save(target, settings, change); !good) return tl::unexpected(good.error());
  }
  change.unsaved = unsaved_;
  // Also over the changes that are not saved, which are read last.
  if (!save || !unsaved_.empty()) {
    auto text = save && target.whole ? without_rule(unsaved_, target.name) : edit(unsaved_, target, settings);
    if (!text) return tl::unexpected(text.error());
    change.unsaved = std::move(*text);
  }
  auto all = change.documents;
  if (!change.unsaved.empty()) all.push_back({kUnsaved, change.unsaved, false});
  auto config = parse_config(all);
  if (!config) return tl::unexpected(sentences_of(config.error()));
  change.config = std::move(*config);
  if (const auto held = parse_config(documents())) change.after_restart = needs_restart(*held, change.config);
  return change;
}

tl::expected<Config, std::string> LiveConfig::make(TriedChange change) {
  if (change.next) {
    const std::string file = saved_file();
    std::error_code error;
    fs::create_directories(fs::path(file).parent_path(), error);
    if (auto written = write_file(file, change.saved_text); !written) return tl::unexpected(written.error());
  }
  loaded_ = std::move(change.documents);
  unsaved_ = std::move(change.unsaved);
  return std::move(change.config);
}

tl::expected<Config, ConfigErrors> LiveConfig::reload() {
  auto documents = config_documents(file_);
  if (!documents) return tl::unexpected(documents.error());
  auto config = parse_config(*documents);
  if (config) {
    loaded_ = std::move(*documents);
    unsaved_.clear();
  }
  return config;
}

}  // namespace vgpu::daemon
