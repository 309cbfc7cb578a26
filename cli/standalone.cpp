#include "cli/standalone.hpp"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>
#include <thread>

#include "cli/control_client.hpp"
#include "cli/locate.hpp"
#include "protocol/errno_text.hpp"
#include "protocol/unique_fd.hpp"
#include "protocol/visible_devices.hpp"

namespace vgpu::cli {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr std::chrono::seconds kStartPatience{30};
constexpr std::chrono::seconds kEndPatience{5};
constexpr milliseconds kPause{5};
constexpr int kExecFailed = 127;
constexpr std::size_t kLogLinesShown = 5;

// Holds back what asks this process to end, so that the folder of a vgpud that is being started is removed
// first.
class HeldSignals {
 public:
  HeldSignals() {
    sigemptyset(&held_);
    for (const int number : kNumbers) sigaddset(&held_, number);
    sigprocmask(SIG_BLOCK, &held_, &before_);
  }
  ~HeldSignals() { sigprocmask(SIG_SETMASK, &before_, nullptr); }
  HeldSignals(const HeldSignals&) = delete;
  HeldSignals& operator=(const HeldSignals&) = delete;

  // Whether one of them waits.
  [[nodiscard]] static bool any() {
    sigset_t waiting;
    sigpending(&waiting);
    return std::any_of(kNumbers.begin(), kNumbers.end(),
                       [&](int number) { return sigismember(&waiting, number) == 1; });
  }
  [[nodiscard]] const sigset_t& before() const { return before_; }

 private:
  static constexpr std::array kNumbers{SIGINT, SIGTERM, SIGHUP};
  sigset_t held_{};
  sigset_t before_{};
};

// Runs between fork and exec.
[[noreturn]] void become_broker(const char* program, const char* config, const char* log, pid_t parent,
                                const sigset_t& signals) {
  sigprocmask(SIG_SETMASK, &signals, nullptr);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(kExecFailed);
  setsid();  // an interrupt at the terminal is the program's; its broker ends after it
  const int null = open("/dev/null", O_RDWR);
  dup2(null, 0);
  dup2(null, 1);
  unsetenv("CUDA_VISIBLE_DEVICES");  // chooses among this broker's devices, not among those of its driver
  if (log != nullptr) dup2(open(log, O_WRONLY | O_CREAT | O_APPEND, 0600), 2);
  execl(program, program, "--config", config, static_cast<char*>(nullptr));
  _exit(kExecFailed);
}

bool has_ended(pid_t pid) {
  int status = 0;
  return waitpid(pid, &status, WNOHANG) != 0;
}

// A path as a YAML text: TMPDIR may hold what YAML takes for its own.
std::string yaml_text(const std::string& path) {
  std::string text = "'";
  for (const char c : path) text += c == '\'' ? std::string("''") : std::string(1, c);
  return text + "'";
}

// NVIDIA cards that the kernel has bound.
unsigned count_cards() {
  constexpr unsigned most = 64;
  unsigned cards = 0;
  std::error_code ignored;
  while (cards < most && fs::exists("/dev/nvidia" + std::to_string(cards), ignored)) ++cards;
  return cards;
}

}  // namespace

PrivateDevices private_devices(const std::string& device_kind, const DeviceWish& wish, unsigned cards) {
  if (device_kind == "software" || cards < 2) return {};
  if (wish.kind == WishKind::uuid) return {cards, 0};
  if (wish.kind != WishKind::index || wish.index[0] >= cards) return {};
  PrivateDevices devices{1, wish.index[0]};
  for (std::size_t i = 0; i < wished_count(wish) && wish.index[i] < cards; ++i) {
    devices.count = std::max(devices.count, wish.index[i] + 1);
  }
  return devices;
}

std::string StandaloneBroker::write_config(const std::string& device_kind,
                                           const PrivateDevices& devices) const {
  std::string file = folder_ + "/vgpud.yaml";
  std::ofstream stream(file);
  stream << "# Written by vgpud-cli --standalone.\n"
         << "socket: " << yaml_text(socket()) << "\ncontrol: " << yaml_text(control()) << "\ngroup: \"\"\n"
         << "log: {target: stderr}\n"
         << "devices:\n";
  for (unsigned i = 0; i < devices.count; ++i) {
    stream << "  - {name: gpu" << i << ", kind: " << device_kind << ", ordinal: " << i
           << ", prestart: " << (i == devices.first ? 1 : 0) << "}\n";
  }
  return file;
}

std::string StandaloneBroker::log_end() const {
  std::ifstream stream(folder_ + "/vgpud.log");
  std::deque<std::string> lines;
  for (std::string line; std::getline(stream, line);) {
    lines.push_back(line);
    if (lines.size() > kLogLinesShown) lines.pop_front();
  }
  std::string all;
  for (const std::string& line : lines) all += "\n  " + line;
  return all;
}

tl::expected<std::unique_ptr<StandaloneBroker>, std::string> StandaloneBroker::start(
    const std::string& device_kind, bool verbose) {
  const auto program = broker_program();
  if (!program) return tl::unexpected(program.error());
  const HeldSignals held;  // outlives the broker where that cannot be started
  std::unique_ptr<StandaloneBroker> broker(new StandaloneBroker());
  std::error_code ignored;
  std::string name = (fs::temp_directory_path(ignored) / "vgpud-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) return tl::unexpected(errno_text("cannot make the folder " + name));
  broker->folder_ = name;
  const PrivateDevices devices = private_devices(device_kind, wish_of_environment(), count_cards());
  const std::string config = broker->write_config(device_kind, devices);
  const std::string log = name + "/vgpud.log";
  const pid_t parent = getpid();
  broker->pid_ = fork();
  if (broker->pid_ < 0) {
    broker->pid_ = 0;
    return tl::unexpected(errno_text("fork"));
  }
  if (broker->pid_ == 0)
    become_broker(program->c_str(), config.c_str(), verbose ? nullptr : log.c_str(), parent, held.before());
  if (auto ready = broker->wait_until_ready(devices.first); !ready)
    return tl::unexpected(ready.error() + broker->log_end());
  return broker;
}

tl::expected<void, std::string> StandaloneBroker::wait_until_ready(unsigned index) {
  const auto deadline = steady_clock::now() + kStartPatience;
  while (steady_clock::now() < deadline) {
    if (HeldSignals::any()) return tl::unexpected(std::string("interrupted while the private vgpud started"));
    if (has_ended(pid_)) {
      pid_ = 0;
      return tl::unexpected(std::string("the private vgpud could not start:"));
    }
    if (auto client = ControlClient::connect(control())) {
      const auto answer = client->ask({{"request", "devices"}});
      if (answer && answer->at("devices").size() > index) {
        const nlohmann::json& device = answer->at("devices").at(index);
        if (const std::string problem = device.value("problem", ""); !problem.empty()) {
          return tl::unexpected("the private vgpud's device cannot serve: " + problem);
        }
        if (device.value("workers_ready", 0) > 0) return {};
      }
    }
    std::this_thread::sleep_for(kPause);
  }
  return tl::unexpected(std::string("the private vgpud was not ready within 30 seconds:"));
}

StandaloneBroker::~StandaloneBroker() {
  if (pid_ > 0) {
    kill(pid_, SIGTERM);
    const auto deadline = steady_clock::now() + kEndPatience;
    bool ended = has_ended(pid_);
    while (!ended && steady_clock::now() < deadline) {
      std::this_thread::sleep_for(kPause);
      ended = has_ended(pid_);
    }
    if (!ended) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
  }
  std::error_code ignored;
  if (!folder_.empty()) fs::remove_all(folder_, ignored);
}

}  // namespace vgpu::cli
