#include <fmt/format.h>
#include <pwd.h>

#include <charconv>
#include <iterator>
#include <optional>
#include <set>
#include <system_error>
#include <vector>

#include "daemon/config/sections.hpp"

namespace vgpu::daemon {
namespace {

template <class Id>
std::optional<Id> number_of(const std::string& text) {
  Id id{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return id;
}

// The values of a condition; none: the document does not say it. Of a rule that an earlier document has, an
// empty list takes the condition away.
std::optional<std::vector<YAML::Node>> condition(MapReader& map, const char* key, bool present) {
  const YAML::Node node = map.child(key);
  if (!node.IsDefined()) return std::nullopt;
  if (present && node.IsSequence() && node.size() == 0) return std::vector<YAML::Node>{};
  return map.scalars(key);
}

void read_patterns(MapReader& map, const char* key, bool present, std::vector<std::string>& out) {
  const auto values = condition(map, key, present);
  if (!values) return;
  out.clear();
  for (const YAML::Node& item : *values) out.push_back(item.Scalar());
}

// Users or groups, by number or by the name that `look_up` knows; `what` they are is for messages.
template <class Id, class LookUp>
void read_ids(MapReader& map, const char* key, bool present, std::vector<Id>& out, ErrorSink& errors,
              const char* what, LookUp look_up) {
  const auto values = condition(map, key, present);
  if (!values) return;
  out.clear();
  for (const YAML::Node& item : *values) {
    const std::string& text = item.Scalar();
    auto id = number_of<Id>(text);
    if (!id) id = look_up(text);
    if (id) {
      out.push_back(*id);
    } else {
      errors.add(item.Mark(), fmt::format("there is no {} '{}' on this system", what, text));
    }
  }
}

// Changes the conditions that the document says. `present`: an earlier document has the rule.
void read_match(const YAML::Node& node, bool present, RuleConfig& rule, ErrorSink& errors) {
  MapReader map(node, "'match'", errors);
  read_ids(map, "uid", present, rule.uids, errors, "user",
           [](const std::string& name) -> std::optional<uid_t> {
             const passwd* const entry = getpwnam(name.c_str());
             return entry != nullptr ? std::optional(entry->pw_uid) : std::nullopt;
           });
  read_ids(map, "gid", present, rule.gids, errors, "group", gid_of);
  if (const auto values = condition(map, "executable", present)) {
    rule.executables.clear();
    for (const YAML::Node& item : *values) {
      const std::string& text = item.Scalar();
      if (text.empty() || (text.front() != '/' && text.front() != '*')) {
        errors.add(item.Mark(),
                   "'executable' is matched with the full path: '" + text + "' must begin with / or *");
      }
      rule.executables.push_back(text);
    }
  }
  read_patterns(map, "unit", present, rule.units);
  read_patterns(map, "cgroup", present, rule.cgroups);
  map.finish();
}

void read_settings(const YAML::Node& node, Settings& out, ErrorSink& errors) {
  if (!node.IsDefined()) return;
  ClassConfig scratch;
  MapReader map(node, "'set'", errors);
  read_class_settings(map, scratch, errors);
  map.finish();
  if (!node.IsMap()) return;
  for (const auto& entry : node) {
    if (entry.first.IsScalar() && entry.second.IsScalar()) {
      out.emplace_back(entry.first.Scalar(), entry.second.Scalar());
    }
  }
}

void read_rule(const YAML::Node& item, bool present, RuleConfig& rule, ErrorSink& errors) {
  rule.place = errors.place(item.Mark());
  MapReader map(item, "a rule", errors);
  map.text("name", rule.name);
  read_match(map.child("match"), present, rule, errors);
  if (const YAML::Node node = map.child("class"); node.IsDefined())
    rule.class_place = errors.place(node.Mark());
  map.text("class", rule.class_name);
  if (const YAML::Node node = map.child("device"); node.IsDefined()) {
    rule.device_place = errors.place(node.Mark());
  }
  map.text("device", rule.device);
  if (const YAML::Node node = map.child("pool"); node.IsDefined())
    rule.pool_place = errors.place(node.Mark());
  map.text("pool", rule.pool);
  read_settings(map.child("set"), rule.settings, errors);
  map.flag("reject", rule.reject);
  map.finish();
  if (rule.reject == !rule.class_name.empty()) {
    errors.add(item.Mark(), "a rule must say either 'class: NAME' or 'reject: true'");
  }
}

}  // namespace

void read_rules(const YAML::Node& node, const std::string& prefix, Config& config, ErrorSink& errors) {
  if (!node.IsDefined() || node.IsNull()) return;
  if (!node.IsSequence()) {
    errors.add(node.Mark(), "'rules' must be a list");
    return;
  }
  std::vector<RuleConfig> fresh;
  std::set<std::string> names;
  std::size_t position = 0;
  for (const YAML::Node& item : node) {
    ++position;
    const std::string name = name_of(item);
    const bool nameless = !item.IsMap() || !item["name"].IsDefined();
    if (!nameless && !good_name(name)) {
      errors.add(item.Mark(), "a rule's name may hold letters, digits, '-', '_' and '.'");
    }
    if (!name.empty() && !names.insert(name).second) {
      errors.add(item.Mark(), "two rules are named '" + name + "'");
    }
    if (const auto present = find_named(config.rules, name); !name.empty() && present != config.rules.end()) {
      read_rule(item, true, *present, errors);
      continue;
    }
    RuleConfig& rule = fresh.emplace_back();
    rule.named = !name.empty();
    rule.name = prefix + "rule" + std::to_string(position);
    read_rule(item, false, rule, errors);
  }
  config.rules.insert(config.rules.begin(), std::make_move_iterator(fresh.begin()),
                      std::make_move_iterator(fresh.end()));
}

}  // namespace vgpu::daemon
