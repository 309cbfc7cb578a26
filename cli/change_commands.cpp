// Commands that change something: set, pause, resume, kill, quarantine, release, policy.
#include <pwd.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/asking.hpp"
#include "cli/commands.hpp"
#include "cli/format.hpp"
#include "cli/launcher.hpp"
#include "cli/locate.hpp"

namespace vgpu::cli {
namespace {

using nlohmann::json;

// Adds the client that a word means: a pid, or a session's number after '#'.
bool put_client(json& request, const std::string& word) {
  const bool session = !word.empty() && word.front() == '#';
  const char* first = word.data() + (session ? 1 : 0);
  const char* last = word.data() + word.size();
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(first, last, number);
  if (error != std::errc{} || end != last || number <= 0 || (!session && number > INT32_MAX)) {
    print_error("'" + word + "' is no client: say its pid, or #SESSION");
    return false;
  }
  request[session ? "session" : "pid"] = number;
  return true;
}

// A user's number; none: there is no such user. An empty text means who asks.
std::optional<uid_t> uid_of(const std::string& user) {
  if (user.empty()) return getuid();
  uid_t number = 0;
  const char* last = user.data() + user.size();
  if (const auto [end, error] = std::from_chars(user.data(), last, number);
      error == std::errc{} && end == last)
    return number;
  const passwd* entry = getpwnam(user.c_str());
  return entry != nullptr ? std::optional(entry->pw_uid) : std::nullopt;
}

std::optional<json> settings_of(const std::vector<std::string>& words, std::size_t first) {
  json settings = json::object();
  for (std::size_t i = first; i < words.size(); ++i) {
    const auto equals = words[i].find('=');
    if (equals == std::string::npos || equals == 0) {
      print_error("'" + words[i] + "' is not KEY=VALUE");
      return std::nullopt;
    }
    std::string key = words[i].substr(0, equals);
    if (settings.contains(key)) {
      print_error("'" + key + "' is set twice");
      return std::nullopt;
    }
    settings[std::move(key)] = words[i].substr(equals + 1);
  }
  return settings;
}

// Adds the program that is meant, or says what is wrong.
bool put_program(json& request, const ProgramChoice& program) {
  if (!program.client.empty() && program.executable.empty() && !program.user.empty()) {
    print_error("--user goes with --executable: a client's user is known");
    return false;
  }
  if (!program.client.empty() && program.executable.empty()) return put_client(request, program.client);
  if (!program.client.empty() || program.executable.empty()) {
    print_error("which program? say a client's pid, or --executable PATH and --user USER");
    return false;
  }
  const auto uid = uid_of(program.user);
  if (!uid) {
    print_error("there is no user '" + program.user + "'");
    return false;
  }
  request["executable"] = program.executable;
  request["uid"] = *uid;
  return true;
}

// What else there is to know of what was done.
void print_notes(const json& answer) {
  if (!answer.is_object()) return;
  for (const json& note : answer.value("notes", json::array())) print(note.get<std::string>() + "\n");
}

int list_quarantined(const std::string& control, bool as_json) {
  const Outcome outcome = ask(control, {{"request", "quarantined"}});
  if (outcome.status != kGood) return outcome.status;
  const json list = outcome.answer.value("quarantined", json::array());
  if (as_json) {
    print(list.dump(2) + "\n");
    return kGood;
  }
  if (list.empty()) {
    print("nothing is in quarantine\n");
    return kGood;
  }
  std::vector<std::vector<std::string>> rows;
  for (const json& entry : list) {
    rows.push_back({std::to_string(entry.value("uid", 0U)), entry.value("executable", ""),
                    format_time(entry.value("age_ns", std::uint64_t{0})),
                    entry.contains("left_ns") ? format_time(entry["left_ns"].get<std::uint64_t>()) : "-",
                    std::to_string(entry.value("faults", 0U)), entry.value("why", "")});
  }
  print(format_table({"UID", "EXECUTABLE", "SINCE", "LEFT", "FAULTS", "WHY"}, rows, 6));
  return kGood;
}

}  // namespace

int quarantine(const std::string& control, const ProgramChoice& program, const std::string& how_long,
               const std::string& why, bool as_json) {
  const bool lists = program.client.empty() && program.executable.empty() && program.user.empty() &&
                     how_long.empty() && why.empty();
  if (lists) return list_quarantined(control, as_json);
  if (as_json) {
    print_error("--json is for the list of those in quarantine");
    return kUsage;
  }
  json request = {{"request", "quarantine"}};
  if (!put_program(request, program)) return kUsage;
  if (!how_long.empty()) request["for"] = how_long;
  if (!why.empty()) request["why"] = why;
  return ask(control, request).status;
}

int release(const std::string& control, const ProgramChoice& program) {
  json request = {{"request", "release"}};
  if (!put_program(request, program)) return kUsage;
  return ask(control, request).status;
}

int set_values(const std::string& control, const std::vector<std::string>& words, bool save) {
  const std::string& target = words.front();
  const bool named = target != "limits" && target != "scheduler";
  if (named && words.size() < 2) {
    print_error("which " + target + "? say its " + (target == "client" ? "pid" : "name"));
    return kUsage;
  }
  json request = {{"request", "set"}, {"target", target}, {"save", save}};
  if (target == "client") {
    if (!put_client(request, words[1])) return kUsage;
  } else if (named) {
    request["name"] = words[1];
  }
  auto settings = settings_of(words, named ? 2 : 1);
  if (!settings) return kUsage;
  request["settings"] = std::move(*settings);
  const Outcome outcome = ask(control, request);
  if (outcome.status == kGood && outcome.answer.contains("saved")) {
    print("saved in " + outcome.answer["saved"].get<std::string>() + "\n");
  }
  print_notes(outcome.answer);
  return outcome.status;
}

int act_on_clients(const std::string& control, const std::string& name,
                   const std::vector<std::string>& clients) {
  // All words are looked at first: a wrong command line does nothing.
  std::vector<json> requests;
  for (const std::string& client : clients) {
    json& request = requests.emplace_back(json{{"request", name}});
    if (!put_client(request, client)) return kUsage;
  }
  int status = kGood;
  for (const json& request : requests) {
    if (const Outcome outcome = ask(control, request); outcome.status != kGood) status = outcome.status;
  }
  return status;
}

int show_policy(const std::string& control) {
  const Outcome outcome = ask(control, {{"request", "policy"}});
  if (outcome.status != kGood) return outcome.status;
  for (const json& sentence : outcome.answer.value("unread", json::array())) {
    print("# not held: " + sentence.get<std::string>() + "; policy reload reads it\n");
  }
  for (const json& document : outcome.answer.value("documents", json::array())) {
    print("# " + document.value("file", "") + "\n" + document.value("text", "") + "\n");
  }
  if (outcome.answer.value("documents", json::array()).empty()) print("# built-in defaults, no file\n");
  return kGood;
}

int check_policy(const std::string& control, const std::string& file) {
  if (!file.empty()) {
    const auto broker = broker_program();
    if (!broker) {
      print_error(broker.error());
      return kFailed;
    }
    const Ending ending = run_and_wait({*broker, "--check-config", file}, {});
    if (!ending.started) print_error("cannot run " + *broker + ": " + ending.problem);
    return ending.shell_status() == 0 ? kGood : kFailed;
  }
  const Outcome outcome = ask(control, {{"request", "check"}});
  if (outcome.status != kGood) return outcome.status;
  const json mistakes = outcome.answer.value("mistakes", json::array());
  for (const json& mistake : mistakes) print(mistake.get<std::string>() + "\n");
  if (mistakes.empty()) print("good\n");
  return mistakes.empty() ? kGood : kFailed;
}

int reload(const std::string& control) {
  const Outcome outcome = ask(control, {{"request", "reload"}});
  if (outcome.status == kGood) print("configuration reloaded\n");
  print_notes(outcome.answer);
  return outcome.status;
}

}  // namespace vgpu::cli
