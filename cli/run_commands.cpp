#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "cli/commands.hpp"
#include "cli/control_client.hpp"
#include "cli/evidence.hpp"
#include "cli/format.hpp"
#include "cli/launcher.hpp"
#include "cli/loaded_libraries.hpp"
#include "cli/locate.hpp"
#include "cli/standalone.hpp"
#include "protocol/visible_devices.hpp"

namespace vgpu::cli {
namespace {

using nlohmann::json;

constexpr std::chrono::milliseconds kSettle{1000};  // vgpud clears up after a client within a second
constexpr std::chrono::milliseconds kPause{10};
constexpr int kCannotRun = 127;

// The CUDA runtime shows the program only "system not ready": the reason is told here.
void warn_if_forbidden(const std::string& given) {
  const std::string socket = given.empty() ? "/run/vgpud/vgpud.sock" : given;
  if (access(socket.c_str(), W_OK) != 0 && errno == EACCES) {
    print_error("no permission to use " + socket + " (Permission denied). Are you in the group vgpu?");
  }
}

// The vgpud that serves the program: the running one or a private one.
struct Broker {
  std::unique_ptr<StandaloneBroker> own;
  std::string socket;
  std::string control;
};

tl::expected<Broker, std::string> find_broker(const RunOptions& options) {
  Broker broker;
  if (options.standalone) {
    auto started = StandaloneBroker::start(options.device, options.verbose);
    if (!started) return tl::unexpected(started.error());
    broker.own = std::move(*started);
    broker.socket = broker.own->socket();
    broker.control = broker.own->control();
    return broker;
  }
  broker.socket = options.socket;
  broker.control = control_path(options.control);
  return broker;
}

// The clients among this process's descendants that have left vgpud, those that have not, and those that were
// refused. Of connections that said nothing or the wrong thing vgpud knows the number only, of everybody's.
struct Clients {
  json present;
  json ended;
  json refused;
  std::uint64_t turned_away = 0;
  std::uint64_t forgotten = 0;
};

tl::expected<Clients, std::string> ask_for_mine(ControlClient& control) {
  auto answer = control.ask({{"request", "stats"}, {"mine", true}});
  if (!answer) return tl::unexpected(answer.error());
  const json& broker = answer->at("broker");
  Clients clients{answer->at("clients"), answer->at("ended"), answer->value("refused", json::array()), 0,
                  broker.value("ended_forgotten", std::uint64_t{0})};
  for (const char* key : {"handshakes_mismatched", "handshakes_over_limit"}) {
    clients.turned_away += broker.value(key, std::uint64_t{0});
  }
  return clients;
}

std::set<std::uint64_t> sessions_of(const Clients& clients) {
  std::set<std::uint64_t> ids;
  for (const json* list : {&clients.present, &clients.ended}) {
    for (const json& client : *list) ids.insert(client.value("session", std::uint64_t{0}));
  }
  return ids;
}

// Waits until vgpud has seen the end of every client of ours, so that the figures are final.
tl::expected<Clients, std::string> final_clients(ControlClient& control) {
  const auto deadline = std::chrono::steady_clock::now() + kSettle;
  auto clients = ask_for_mine(control);
  while (clients && !clients->present.empty() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(kPause);
    clients = ask_for_mine(control);
  }
  return clients;
}

bool only_the_software_gpu(ControlClient& control) {
  const auto answer = control.ask({{"request", "devices"}});
  if (!answer) return false;
  const json& devices = answer->at("devices");
  return std::all_of(devices.begin(), devices.end(),
                     [](const json& device) { return device.value("kind", "") == "software"; });
}

// With the libraries that stand in for NVIDIA's where no machine code of theirs can run.
Environment environment_of(const std::string& client_folder, const std::string& socket,
                           ControlClient& control) {
  std::vector<std::string> folders{client_folder};
  const std::string matrix = matrix_library_folder();
  if (!matrix.empty() && only_the_software_gpu(control)) folders.push_back(matrix);
  return client_environment(folders, socket);
}

}  // namespace

int run_program(const RunOptions& options) {
  const auto folder = client_library_folder();
  if (!folder) {
    print_error(folder.error());
    return kCannotRun;
  }
  const auto broker = find_broker(options);
  if (!broker) {
    print_error(broker.error());
    return kCannotRun;
  }
  auto control = ControlClient::connect(broker->control);
  const Environment environment = control ? environment_of(*folder, broker->socket, *control)
                                          : client_environment({*folder}, broker->socket);
  if (!broker->own) {
    warn_if_forbidden(broker->socket);
    print_error(become(options.command, environment));
    return kCannotRun;
  }
  const Ending ending = run_and_wait(options.command, environment);
  if (!ending.started) print_error(ending.problem);
  return ending.shell_status();
}

int verify_program(const RunOptions& options) {
  const auto folder = client_library_folder();
  const auto broker = folder ? find_broker(options) : tl::expected<Broker, std::string>(Broker{});
  auto control = broker ? ControlClient::connect(broker->control)
                        : tl::expected<ControlClient, std::string>(tl::unexpected(broker.error()));
  if (!folder || !control) {
    const std::string reason = folder ? control.error() : folder.error();
    std::printf("NOT VERIFIED: %s\n", reason.c_str());
    return kNotVerified;
  }
  const auto before = ask_for_mine(*control);
  const LibraryNotes notes;
  Environment environment = environment_of(*folder, broker->socket, *control);
  for (auto& variable : notes.environment()) environment.push_back(variable);

  Evidence evidence;
  evidence.ending = run_and_wait(options.command, environment);
  evidence.expected_library = *folder + "/libcuda.so.1";
  evidence.cuda_libraries = notes.cuda_libraries();
  evidence.devices_hidden = wish_of_environment().kind == WishKind::nothing;
  const auto after = final_clients(*control);
  if (!before || !after) {
    const std::string reason = before ? after.error() : before.error();
    std::printf("NOT VERIFIED: %s\n", reason.c_str());
    return kNotVerified;
  }
  // A pid may have been used before: only sessions that are new count.
  const std::set<std::uint64_t> old = sessions_of(*before);
  for (const json* list : {&after->present, &after->ended}) {
    for (const json& client : *list) {
      if (old.count(client.value("session", std::uint64_t{0})) == 0) evidence.add_client(client);
    }
  }
  std::uint64_t seen = 0;
  for (const json& one : before->refused) seen = std::max(seen, one.value("number", std::uint64_t{0}));
  for (const json& one : after->refused) {
    if (one.value("number", std::uint64_t{0}) > seen) evidence.add_refusal(one.value("sentence", ""));
  }
  evidence.turned_away = after->turned_away - before->turned_away;
  evidence.forgotten = after->forgotten - before->forgotten;

  const Verdict verdict = judge(evidence);
  std::fflush(stdout);
  std::printf("%s", verdict.report.c_str());
  return verdict.verified ? kGood : kNotVerified;
}

}  // namespace vgpu::cli
