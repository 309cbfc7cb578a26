// What is set of running clients, and saved for the next starts of their programs.
#include <algorithm>
#include <cctype>

#include "daemon/control/change.hpp"
#include "daemon/policy/lowering.hpp"
#include "daemon/policy/policy.hpp"

namespace vgpu::daemon {
namespace {

using nlohmann::json;

// Takes a setting out of the list; none when it is not there.
std::optional<std::string> take(Settings& settings, const std::string& key) {
  const auto found =
      std::find_if(settings.begin(), settings.end(), [&](const auto& entry) { return entry.first == key; });
  if (found == settings.end()) return std::nullopt;
  std::string value = std::move(found->second);
  settings.erase(found);
  return value;
}

// The rule for the next starts of what this client runs.
ChangeTarget rule_for(const Identity& who) {
  std::string name = "cli-" + std::to_string(who.uid) + "-";
  for (const char c : who.program.substr(0, 24))
    name += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '-';
  // Programs of one name in two folders are two rules.
  name += "-" + std::to_string(std::hash<std::string>{}(who.executable) % 100'000);
  return {ChangeTarget::Kind::rule, std::move(name), true};
}

// A shell pattern that matches `path` only.
std::string pattern_of(const std::string& path) {
  std::string pattern;
  for (const char c : path) {
    if (c == '*' || c == '?' || c == '[' || c == '\\') pattern += '\\';
    pattern += c;
  }
  return pattern;
}

std::string described(const RuleConfig& rule) {
  return "the rule '" + rule.name + "' (" + rule.place.file + ":" + std::to_string(rule.place.line) + ")";
}

// All that policy and administrators say of this client today, with the change. What its owner lowered is his
// own and ends with the client.
Settings rule_with(const Change& change, const Session& session, const RuleConfig* now,
                   const ClientChange& wanted) {
  const Config& config = change.state.config();
  const Adjustments& live = session.adjustments;
  std::optional<std::string> class_name = wanted.class_name;
  if (!class_name && config.classes.count(live.class_name) != 0) class_name = live.class_name;
  // A class that was set takes the place of the rule's class and of what the rule sets over it.
  Settings settings = now != nullptr && !class_name ? now->settings : Settings{};
  settings = merge_settings(merge_settings({}, settings), live.by_administrator);
  settings = merge_settings(std::move(settings), wanted.settings);
  if (!class_name) class_name = now != nullptr ? now->class_name : config.default_class;

  const Identity& who = session.peer.identity;
  Settings rule{{"match.uid", std::to_string(who.uid)},
                {"match.executable", pattern_of(who.executable)},
                {"class", *class_name}};
  if (wanted.device) {
    rule.emplace_back("device", *wanted.device);
  } else if (now != nullptr && !now->device.empty()) {
    rule.emplace_back("device", now->device);
  } else if (now != nullptr && !now->pool.empty()) {
    rule.emplace_back("pool", now->pool);
  }
  for (const auto& [key, value] : settings) rule.emplace_back("set." + key, value);
  return rule;
}

// Adds to `notes` what the asking user should know.
tl::expected<TriedChange, std::string> try_save(const Change& change, const Session& session,
                                                const ClientChange& wanted, json& notes) {
  const Identity& who = session.peer.identity;
  if (who.executable.empty()) {
    return tl::unexpected(
        std::string("its executable cannot be read, so nothing can be saved for its next start"));
  }
  const RuleConfig* now = deciding_rule(change.state.config(), who);
  if (now != nullptr && now->reject) {
    return tl::unexpected(described(*now) +
                          " refuses the next starts of this program: change that rule to save something");
  }
  const ChangeTarget target = rule_for(who);
  auto tried = change.state.live.try_change(target, rule_with(change, session, now, wanted), true);
  if (!tried) return tried;
  const auto decides = [&](const Config& config) -> const RuleConfig* { return deciding_rule(config, who); };
  if (const RuleConfig* next = decides(*tried->next); next == nullptr || next->name != target.name) {
    return tl::unexpected(next == nullptr ? "no rule can be written that matches '" + who.executable + "'"
                                          : described(*next) +
                                                " is asked before a saved one and decides for this "
                                                "program's next start: change that rule, or remove it");
  }
  if (const RuleConfig* next = decides(tried->config); next == nullptr || next->name != target.name) {
    if (next != nullptr) {
      notes.push_back("until a restart or a reload " + described(*next) +
                      " decides for new clients of this program");
    }
  }
  return tried;
}

Outcome lower_all(const Change& change, const std::vector<std::uint64_t>& ids, const Settings& settings) {
  SessionManager& sessions = change.state.sessions;
  for (const std::uint64_t id : ids) {
    if (auto good = sessions.try_lower(id, settings); !good) return tl::unexpected(good.error());
  }
  for (const std::uint64_t id : ids) sessions.lower(id, settings);
  return json{{"ok", true}, {"clients", ids.size()}};
}

}  // namespace

Outcome set_client(const Change& change) {
  SessionManager& sessions = change.state.sessions;
  const auto ids = sessions_of(change);
  if (!ids) return tl::unexpected(ids.error());
  const auto said = settings_of(change);
  if (!said) return tl::unexpected(said.error());
  const bool save = change.request.value("save", false);
  ClientChange wanted;
  wanted.settings = *said;
  wanted.class_name = take(wanted.settings, "class");
  wanted.device = take(wanted.settings, "device");
  wanted.device_may_wait = save;
  if (!change.administrator) {
    if (wanted.class_name || wanted.device || save) {
      return tl::unexpected(
          for_administrators(change, "change a client's class or device, or save a change"));
    }
    return lower_all(change, *ids, wanted.settings);
  }
  json answer{{"ok", true}, {"clients", ids->size()}};
  json notes = json::array();
  for (const std::uint64_t id : *ids) {
    if (auto good = sessions.try_adjust(id, wanted); !good) return tl::unexpected(good.error());
    const Session& session = *sessions.find(id);
    if (wanted.device && session.state != SessionState::waiting &&
        session.device->config().name != *wanted.device) {
      notes.push_back("the client stays on '" + session.device->config().name +
                      "' until it ends; its next start is placed on '" + *wanted.device + "'");
    }
  }
  std::optional<Config> config;
  if (save) {
    // The sessions of one process are of one program: the oldest speaks for them.
    auto tried = try_save(change, *sessions.find(ids->front()), wanted, notes);
    if (!tried) return tl::unexpected(tried.error());
    auto made = change.state.live.make(std::move(*tried));
    if (!made) return tl::unexpected(made.error());
    config = std::move(*made);
    answer["saved"] = change.state.live.saved_file();
  }
  for (const std::uint64_t id : *ids) sessions.adjust(id, wanted);
  if (config) change.state.apply(std::move(*config));
  if (!notes.empty()) answer["notes"] = std::move(notes);
  return answer;
}

}  // namespace vgpu::daemon
