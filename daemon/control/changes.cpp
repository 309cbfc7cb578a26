#include "daemon/control/changes.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <nlohmann/json.hpp>

#include "daemon/base/log.hpp"
#include "daemon/config/quantity.hpp"
#include "daemon/control/failure.hpp"

namespace vgpu::daemon {
namespace {

using nlohmann::json;
using Outcome = tl::expected<json, std::string>;

constexpr std::size_t kLongestReason = 200;
constexpr const char* kForAdministrators = "only root and members of the group ";

// One request and who made it.
struct Change {
  const BrokerState& state;
  const json& request;
  const Requester& who;
  bool administrator;
};

std::string for_administrators(const Change& change, const char* what) {
  return kForAdministrators + change.state.config().admin_group + " may " + what;
}

// The sessions that a request means by "pid" or "session", as far as the asking user may change them.
tl::expected<std::vector<std::uint64_t>, std::string> sessions_of(const Change& change) {
  const SessionManager& sessions = change.state.sessions;
  std::vector<std::uint64_t> ids;
  std::string named;
  if (change.request.contains("session")) {
    const auto id = change.request.at("session").get<std::uint64_t>();
    if (sessions.find(id) != nullptr) ids.push_back(id);
    named = "session " + std::to_string(id);
  } else {
    const auto pid = change.request.value("pid", pid_t{0});
    ids = sessions.of_process(pid);
    named = "pid " + std::to_string(pid);
  }
  if (!change.administrator) {
    // Others' clients are not shown to him, so they are not there.
    ids.erase(std::remove_if(ids.begin(), ids.end(),
                             [&](std::uint64_t id) {
                               return !is_owner(change.who, sessions.find(id)->peer.identity.uid);
                             }),
              ids.end());
  }
  if (!ids.empty()) return ids;
  return tl::unexpected(change.administrator ? "there is no client with " + named
                                             : "you have no client with " + named + "; " +
                                                   for_administrators(change, "change other users' clients"));
}

Settings settings_of(const json& request) {
  Settings settings;
  if (!request.contains("settings")) return settings;
  for (const auto& [key, value] : request.at("settings").items())
    settings.emplace_back(key, value.get<std::string>());
  return settings;
}

// Takes a setting out of the list; empty when it is not there.
std::string take(Settings& settings, const std::string& key) {
  const auto found =
      std::find_if(settings.begin(), settings.end(), [&](const auto& entry) { return entry.first == key; });
  if (found == settings.end()) return {};
  std::string value = std::move(found->second);
  settings.erase(found);
  return value;
}

// A rule for the next starts of what this client runs.
ChangeTarget rule_for(const Identity& who) {
  std::string name = "cli-" + std::to_string(who.uid) + "-";
  for (const char c : who.program.substr(0, 24))
    name += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '-';
  // Programs of one name in two folders are two rules.
  name += "-" + std::to_string(std::hash<std::string>{}(who.executable) % 100'000);
  return {ChangeTarget::Kind::rule, std::move(name)};
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

tl::expected<void, std::string> save_client(const Change& change, const Session& session,
                                            const std::string& device, const Settings& settings) {
  const Identity& who = session.peer.identity;
  if (who.executable.empty()) {
    return tl::unexpected(
        std::string("its executable cannot be read, so nothing can be saved for its next start"));
  }
  Settings rule{{"match.uid", std::to_string(who.uid)},
                {"match.executable", pattern_of(who.executable)},
                {"class", session.client_class.name}};
  if (!device.empty()) rule.emplace_back("device", device);
  for (const auto& [key, value] : settings) rule.emplace_back("set." + key, value);
  auto config = change.state.live.change(rule_for(who), rule, true);
  if (!config) return tl::unexpected(config.error());
  change.state.apply(std::move(*config));
  return {};
}

tl::expected<void, std::string> set_one(const Change& change, std::uint64_t id, Settings settings,
                                        bool save) {
  SessionManager& sessions = change.state.sessions;
  const std::string class_name = take(settings, "class");
  const std::string device = take(settings, "device");
  if (!change.administrator) {
    if (!class_name.empty() || !device.empty() || save) {
      return tl::unexpected(
          for_administrators(change, "change a client's class or device, or save a change"));
    }
    return sessions.lower(id, settings);
  }
  if (!class_name.empty() || !settings.empty()) {
    if (auto done = sessions.adjust(id, class_name, settings); !done) return done;
  }
  if (save) {
    if (auto done = save_client(change, *sessions.find(id), device, settings); !done) return done;
  }
  // Last, since it may be refused where all else was possible.
  return device.empty() ? tl::expected<void, std::string>{} : sessions.move(id, device);
}

Outcome set_client(const Change& change) {
  const auto ids = sessions_of(change);
  if (!ids) return tl::unexpected(ids.error());
  const Settings settings = settings_of(change.request);
  if (settings.empty()) return tl::unexpected(std::string("nothing to set: say KEY=VALUE"));
  for (const std::uint64_t id : *ids) {
    if (auto done = set_one(change, id, settings, change.request.value("save", false)); !done) {
      return tl::unexpected(done.error());
    }
  }
  return json{{"ok", true}, {"clients", ids->size()}};
}

Outcome set_policy(const Change& change, ChangeTarget::Kind kind) {
  if (!change.administrator) return tl::unexpected(for_administrators(change, "change the policy"));
  const ChangeTarget target{kind, change.request.value("name", std::string())};
  const Settings settings = settings_of(change.request);
  if (settings.empty()) return tl::unexpected(std::string("nothing to set: say KEY=VALUE"));
  if (kind == ChangeTarget::Kind::rule) {
    const auto& rules = change.state.config().rules;
    const auto unnamed = [&](const RuleConfig& rule) { return !rule.named && rule.name == target.name; };
    if (std::any_of(rules.begin(), rules.end(), unnamed)) {
      return tl::unexpected("rule '" + target.name +
                            "' has no name in its file: give it one (name: ...) to change it");
    }
  }
  const bool save = change.request.value("save", false);
  auto config = change.state.live.change(target, settings, save);
  if (!config) return tl::unexpected(config.error());
  change.state.apply(std::move(*config));
  json answer{{"ok", true}};
  if (save) answer["saved"] = change.state.live.saved_file();
  return answer;
}

Outcome answer_set(const Change& change) {
  static constexpr std::array<std::pair<const char*, ChangeTarget::Kind>, 5> kinds{
      {{"class", ChangeTarget::Kind::client_class},
       {"rule", ChangeTarget::Kind::rule},
       {"device", ChangeTarget::Kind::device},
       {"limits", ChangeTarget::Kind::limits},
       {"scheduler", ChangeTarget::Kind::scheduler}}};
  const std::string target = change.request.value("target", std::string("client"));
  if (target == "client") return set_client(change);
  for (const auto& [word, kind] : kinds) {
    if (target == word) return set_policy(change, kind);
  }
  return tl::unexpected("there is no '" + target +
                        "' to set; there are client, class, rule, device, limits, scheduler");
}

Outcome answer_pause(const Change& change, bool paused) {
  const auto ids = sessions_of(change);
  if (!ids) return tl::unexpected(ids.error());
  for (const std::uint64_t id : *ids) {
    if (auto done = change.state.sessions.pause(id, paused, change.administrator); !done) {
      return tl::unexpected(done.error());
    }
  }
  return json{{"ok", true}, {"clients", ids->size()}};
}

Outcome answer_kill(const Change& change) {
  const auto ids = sessions_of(change);
  if (!ids) return tl::unexpected(ids.error());
  for (const std::uint64_t id : *ids) {
    change.state.sessions.kill(id, "ended by uid " + std::to_string(change.who.uid) + " (vgpud-cli kill)");
  }
  return json{{"ok", true}, {"clients", ids->size()}};
}

// The programs that a request means: those of a client, or one said by "uid" and "executable".
tl::expected<std::vector<Subject>, std::string> subjects_of(const Change& change) {
  if (!change.administrator) {
    return tl::unexpected(for_administrators(change, "put programs in quarantine or release them"));
  }
  if (change.request.contains("executable")) {
    const auto path = change.request.at("executable").get<std::string>();
    if (path.empty() || path.front() != '/')
      return tl::unexpected(std::string("an executable is said by its full path"));
    return std::vector<Subject>{{change.request.at("uid").get<uid_t>(), path}};
  }
  const auto ids = sessions_of(change);
  if (!ids) return tl::unexpected(ids.error());
  std::vector<Subject> subjects;
  for (const std::uint64_t id : *ids) subjects.push_back(subject_of(*change.state.sessions.find(id)));
  return subjects;
}

Outcome answer_quarantine(const Change& change) {
  const auto subjects = subjects_of(change);
  if (!subjects) return tl::unexpected(subjects.error());
  const auto how_long = parse_duration(change.request.value("for", std::string("0")));
  if (!how_long) return tl::unexpected(how_long.error());
  std::string why = change.request.value("why", std::string());
  if (why.size() > kLongestReason) return tl::unexpected(std::string("the reason is too long"));
  if (why.empty()) why = "put there by uid " + std::to_string(change.who.uid);
  for (const Subject& subject : *subjects) change.state.sessions.quarantine(subject, *how_long, why);
  return json{{"ok", true}};
}

Outcome answer_release(const Change& change) {
  const auto subjects = subjects_of(change);
  if (!subjects) return tl::unexpected(subjects.error());
  bool any = false;
  for (const Subject& subject : *subjects) any = change.state.sessions.release(subject) || any;
  if (!any) return tl::unexpected(std::string("this program is not in quarantine"));
  return json{{"ok", true}};
}

Outcome answer_quarantined(const Change& change) {
  const bool all = sees_all(change.who, change.state.config());
  const auto now = EventLoop::Clock::now();
  json list = json::array();
  for (const QuarantineEntry& entry : change.state.sessions.quarantined()) {
    if (!all && !is_owner(change.who, entry.subject.uid)) continue;
    json row = {{"uid", entry.subject.uid},
                {"executable", entry.subject.executable},
                {"why", entry.why},
                {"faults", entry.faults},
                {"age_ns", std::chrono::nanoseconds(now - entry.since).count()}};
    if (entry.until) row["left_ns"] = std::chrono::nanoseconds(*entry.until - now).count();
    list.push_back(std::move(row));
  }
  return json{{"ok", true}, {"quarantined", std::move(list)}};
}

Outcome answer_policy(const Change& change) {
  if (!change.administrator) return tl::unexpected(for_administrators(change, "see the policy"));
  const auto documents = change.state.live.documents();
  if (!documents) return tl::unexpected(documents.error().front().text());
  json list = json::array();
  for (const ConfigDocument& document : *documents)
    list.push_back({{"file", document.file}, {"text", document.text}});
  return json{{"ok", true}, {"documents", std::move(list)}};
}

Outcome answer_check(const Change& change) {
  if (!change.administrator) return tl::unexpected(for_administrators(change, "check the policy"));
  const auto config = change.state.live.check();
  json mistakes = json::array();
  if (!config) {
    for (const ConfigError& error : config.error()) mistakes.push_back(error.text());
  }
  return json{{"ok", true}, {"mistakes", std::move(mistakes)}};
}

Outcome answer_reload(const Change& change) {
  if (!change.administrator) return tl::unexpected(for_administrators(change, "reload the configuration"));
  const std::string problem = change.state.reload();
  if (!problem.empty()) return tl::unexpected(problem);
  return json{{"ok", true}};
}

using Answer = Outcome (*)(const Change&);

// By the request's name; those that only tell are not logged.
struct Handler {
  const char* name;
  Answer answer;
  bool logged = true;
};

constexpr std::array<Handler, 10> kHandlers{
    {{"set", answer_set},
     {"pause", [](const Change& change) { return answer_pause(change, true); }},
     {"resume", [](const Change& change) { return answer_pause(change, false); }},
     {"kill", answer_kill},
     {"quarantine", answer_quarantine},
     {"release", answer_release},
     {"quarantined", answer_quarantined, false},
     {"policy", answer_policy, false},
     {"check", answer_check, false},
     {"reload", answer_reload}}};

}  // namespace

std::optional<json> answer_change(const BrokerState& state, const std::string& name, const json& request,
                                  const Requester& who) {
  const auto* const handler = std::find_if(kHandlers.begin(), kHandlers.end(),
                                           [&](const Handler& candidate) { return name == candidate.name; });
  if (handler == kHandlers.end()) return std::nullopt;
  const Outcome outcome = handler->answer({state, request, who, is_administrator(who, state.config())});
  if (handler->logged) {
    log::info("control request uid={} pid={} request={} outcome={}", who.uid, who.pid,
              log::quoted(request.dump(-1, ' ', false, json::error_handler_t::replace)),
              log::quoted(outcome ? "done" : outcome.error()));
  }
  return outcome ? *outcome : failure(outcome.error());
}

}  // namespace vgpu::daemon
