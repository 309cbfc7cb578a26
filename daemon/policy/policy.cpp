#include "daemon/policy/policy.hpp"

#include <fnmatch.h>

#include <algorithm>

#include "daemon/config/load.hpp"

namespace vgpu::daemon {
namespace {

// An empty list is no condition; an identity without the property matches no pattern, not even "*".
bool any_pattern(const std::vector<std::string>& patterns, const std::string& value) {
  if (patterns.empty()) return true;
  if (value.empty()) return false;
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
    return fnmatch(pattern.c_str(), value.c_str(), 0) == 0;
  });
}

template <class T>
bool contains(const std::vector<T>& list, T value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

bool any_group(const std::vector<gid_t>& wanted, const Identity& identity) {
  return wanted.empty() || std::any_of(wanted.begin(), wanted.end(), [&](gid_t gid) {
           return gid == identity.gid || contains(identity.groups, gid);
         });
}

}  // namespace

bool matches(const RuleConfig& rule, const Identity& identity) {
  return (rule.uids.empty() || contains(rule.uids, identity.uid)) && any_group(rule.gids, identity) &&
         any_pattern(rule.executables, identity.executable) && any_pattern(rule.units, identity.unit) &&
         any_pattern(rule.cgroups, identity.cgroup);
}

const RuleConfig* deciding_rule(const Config& config, const Identity& identity) {
  const auto rule = std::find_if(config.rules.begin(), config.rules.end(),
                                 [&](const RuleConfig& candidate) { return matches(candidate, identity); });
  return rule != config.rules.end() ? &*rule : nullptr;
}

tl::expected<Placement, std::string> place_client(const Config& config, const Identity& identity) {
  Placement placement;
  const RuleConfig* rule = deciding_rule(config, identity);
  if (rule == nullptr) {
    placement.client_class = config.classes.at(config.default_class);
    return placement;
  }
  if (rule->reject) {
    return tl::unexpected("the rule in line " + std::to_string(rule->place.line) + " of " + rule->place.file +
                          " refuses this client");
  }
  placement.client_class = config.classes.at(rule->class_name);
  placement.device = rule->device;
  placement.pool = rule->pool;
  if (const auto applied = apply_settings(placement.client_class, rule->settings); !applied) {
    return tl::unexpected("the rule in line " + std::to_string(rule->place.line) + " of " + rule->place.file +
                          ": " + applied.error());
  }
  return placement;
}

}  // namespace vgpu::daemon
