#include "daemon/control/changes.hpp"

#include <algorithm>
#include <array>

#include "daemon/base/log.hpp"
#include "daemon/config/quantity.hpp"
#include "daemon/config/restart.hpp"
#include "daemon/control/change.hpp"
#include "daemon/control/failure.hpp"
#include "daemon/control/whole_number.hpp"

namespace vgpu::daemon {
namespace {

using nlohmann::json;

constexpr std::size_t kLongestReason = 200;
constexpr const char* kForAdministrators = "only root and members of the group ";

}  // namespace

std::string for_administrators(const Change& change, const char* what) {
  return kForAdministrators + change.state.config().admin_group + " may " + what;
}

// The sessions that a request means by "pid" or "session", as far as the asking user may change them.
tl::expected<std::vector<std::uint64_t>, std::string> sessions_of(const Change& change) {
  const SessionManager& sessions = change.state.sessions;
  std::vector<std::uint64_t> ids;
  std::string named;
  if (change.request.contains("session")) {
    const auto id = whole_number<std::uint64_t>(change.request.at("session"));
    if (sessions.find(id) != nullptr) ids.push_back(id);
    named = "session " + std::to_string(id);
  } else {
    const auto pid = whole_number(change.request, "pid", pid_t{0});
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

tl::expected<Settings, std::string> settings_of(const Change& change) {
  Settings settings;
  if (change.request.contains("settings")) {
    for (const auto& [key, value] : change.request.at("settings").items())
      settings.emplace_back(key, value.get<std::string>());
  }
  if (settings.empty()) return tl::unexpected(std::string("nothing to set: say KEY=VALUE"));
  return settings;
}

namespace {

// Whether a target that is there already can be changed.
tl::expected<void, std::string> can_be_set(const Change& change, const ChangeTarget& target) {
  if (target.kind == ChangeTarget::Kind::rule) {
    const auto& rules = change.state.config().rules;
    const auto unnamed = [&](const RuleConfig& rule) { return !rule.named && rule.name == target.name; };
    if (std::any_of(rules.begin(), rules.end(), unnamed)) {
      return tl::unexpected("rule '" + target.name +
                            "' has no name in its file: give it one (name: ...) to change it");
    }
  }
  if (target.kind == ChangeTarget::Kind::device) {
    // A device comes with a restart only, and by a file, where its other keys are said with it.
    std::vector<std::string> names;
    for (const auto& device : change.state.devices) names.push_back(device->config().name);
    if (std::find(names.begin(), names.end(), target.name) == names.end())
      return tl::unexpected("there is no device '" + target.name + "'; there is " + listed(names));
  }
  return {};
}

// A rule that sends its clients where nothing runs would refuse them.
tl::expected<void, std::string> leads_to_a_device(const Change& change, const Config& config,
                                                  const std::string& name) {
  const auto rule = std::find_if(config.rules.begin(), config.rules.end(),
                                 [&](const RuleConfig& candidate) { return candidate.name == name; });
  if (rule == config.rules.end()) return {};
  const auto runs = [&](const auto& wanted) {
    return std::any_of(change.state.devices.begin(), change.state.devices.end(),
                       [&](const auto& device) { return wanted(device->config()); });
  };
  if (!rule->device.empty() &&
      !runs([&](const DeviceConfig& device) { return device.name == rule->device; })) {
    return tl::unexpected("the device '" + rule->device + "' does not run before a restart");
  }
  if (!rule->pool.empty() && !runs([&](const DeviceConfig& device) { return device.pool == rule->pool; })) {
    return tl::unexpected("the pool '" + rule->pool + "' has no device before a restart");
  }
  return {};
}

Outcome set_policy(const Change& change, ChangeTarget::Kind kind) {
  if (!change.administrator) return tl::unexpected(for_administrators(change, "change the policy"));
  const ChangeTarget target{kind, change.request.value("name", std::string()), false};
  const auto settings = settings_of(change);
  if (!settings) return tl::unexpected(settings.error());
  // The change would go to another rule or device than the one that is named.
  if (std::any_of(settings->begin(), settings->end(),
                  [](const auto& entry) { return entry.first == "name"; }))
    return tl::unexpected("'name' cannot be set: '" + target.name + "' keeps its name");
  if (auto good = can_be_set(change, target); !good) return tl::unexpected(good.error());
  const bool save = change.request.value("save", false);
  auto tried = change.state.live.try_change(target, *settings, save);
  if (!tried) return tl::unexpected(tried.error());
  if (kind == ChangeTarget::Kind::rule) {
    if (auto good = leads_to_a_device(change, tried->config, target.name); !good)
      return tl::unexpected(good.error());
  }
  const std::vector<std::string> later = std::move(tried->after_restart);
  if (!later.empty() && !save) {
    return tl::unexpected(listed(later) + " can change by a restart only: say it with --save");
  }
  auto config = change.state.live.make(std::move(*tried));
  if (!config) return tl::unexpected(config.error());
  change.state.apply(std::move(*config));
  json answer{{"ok", true}};
  if (save) answer["saved"] = change.state.live.saved_file();
  if (!later.empty()) answer["notes"] = json::array({listed(later) + " holds after a restart"});
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
    return std::vector<Subject>{{whole_number<uid_t>(change.request.at("uid")), path}};
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
  json list = json::array();
  for (const ConfigDocument& document : change.state.live.documents())
    list.push_back({{"file", document.file}, {"text", document.text}});
  return json{{"ok", true}, {"documents", std::move(list)}, {"unread", change.state.live.unread()}};
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
  const auto notes = change.state.reload();
  if (!notes) return tl::unexpected(notes.error());
  json answer{{"ok", true}};
  if (!notes->empty()) answer["notes"] = *notes;
  return answer;
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
