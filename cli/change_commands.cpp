// Commands that change something: set, pause, resume, kill, policy.
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/asking.hpp"
#include "cli/commands.hpp"
#include "cli/locate.hpp"

namespace vgpu::cli {
namespace {

using nlohmann::json;

void print(const std::string& text) {
  std::fputs(text.c_str(), stdout);
}

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

std::optional<json> settings_of(const std::vector<std::string>& words, std::size_t first) {
  json settings = json::object();
  for (std::size_t i = first; i < words.size(); ++i) {
    const auto equals = words[i].find('=');
    if (equals == std::string::npos || equals == 0) {
      print_error("'" + words[i] + "' is not KEY=VALUE");
      return std::nullopt;
    }
    settings[words[i].substr(0, equals)] = words[i].substr(equals + 1);
  }
  if (settings.empty()) {
    print_error("nothing to set: say KEY=VALUE");
    return std::nullopt;
  }
  return settings;
}

}  // namespace

int set_values(const std::string& control, const std::vector<std::string>& words, bool save) {
  const std::string& target = words.front();
  const bool named = target != "limits" && target != "scheduler";
  if (named && words.size() < 2) {
    print_error("which " + target + "? say its " + (target == "client" ? "pid" : "name"));
    return kFailed;
  }
  json request = {{"request", "set"}, {"target", target}, {"save", save}};
  if (target == "client") {
    if (!put_client(request, words[1])) return kFailed;
  } else if (named) {
    request["name"] = words[1];
  }
  auto settings = settings_of(words, named ? 2 : 1);
  if (!settings) return kFailed;
  request["settings"] = std::move(*settings);
  const Outcome outcome = ask(control, request);
  if (outcome.status == kGood && outcome.answer.contains("saved")) {
    print("saved in " + outcome.answer["saved"].get<std::string>() + "\n");
  }
  return outcome.status;
}

int act_on_clients(const std::string& control, const std::string& name,
                   const std::vector<std::string>& clients) {
  int status = kGood;
  for (const std::string& client : clients) {
    json request = {{"request", name}};
    if (!put_client(request, client)) return kFailed;
    if (const Outcome outcome = ask(control, request); outcome.status != kGood) status = outcome.status;
  }
  return status;
}

int show_policy(const std::string& control) {
  const Outcome outcome = ask(control, {{"request", "policy"}});
  if (outcome.status != kGood) return outcome.status;
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
    execl(broker->c_str(), broker->c_str(), "--check-config", file.c_str(), static_cast<char*>(nullptr));
    print_error("cannot run " + *broker);
    return kFailed;
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
  return outcome.status;
}

}  // namespace vgpu::cli
