#include "daemon/testing/broker_process.hpp"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

namespace vgpu::daemon::testing {
namespace {

namespace fs = std::filesystem;

constexpr int kPatienceMs = 10000;

std::string read_all(const std::string& path) {
  std::ifstream stream(path);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

UniqueFd connect_to(const std::string& path, int type) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  UniqueFd fd(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return {};
  const timeval patience{10, 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  return fd;
}

UniqueFd listen_at(const std::string& path, int type) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  UniqueFd fd(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      listen(fd.get(), 16) != 0) {
    std::abort();
  }
  return fd;
}

}  // namespace

bool process_exists(pid_t pid) {
  const std::string stat = read_all("/proc/" + std::to_string(pid) + "/stat");
  const auto close = stat.rfind(')');
  return close != std::string::npos && close + 2 < stat.size() && stat[close + 2] != 'Z';
}

BrokerProcess::BrokerProcess(const std::string& behaviour, const std::string& more,
                             const ServiceManager* manager)
    : manager_(manager) {
  std::string name = (fs::temp_directory_path() / "vgpud-test-XXXXXX").string();
  folder_ = mkdtemp(name.data());
  write_config(behaviour, more);
  if (manager != nullptr) {
    sockets_.push_back(listen_at(socket_path(), SOCK_SEQPACKET));
    sockets_.push_back(listen_at(control_path(), SOCK_STREAM));
  }
  start();
}

void BrokerProcess::start() {
  const std::string config = config_path();
  const std::string log_path = folder_ + "/log";
  // sd_listen_fds(3): descriptors from 3 on, their names by colons, the pid they are meant for.
  std::map<std::string, UniqueFd> stored;
  std::vector<int> fds;
  std::string names = "LISTEN_FDNAMES=";
  std::string notify = "NOTIFY_SOCKET=";
  if (manager_ != nullptr) {
    notify += manager_->socket_path();
    stored = manager_->stored();
  }
  for (const UniqueFd& fd : sockets_) {
    names += (fds.empty() ? "" : ":") + std::string("vgpud.socket");
    fds.push_back(fd.get());
  }
  for (const auto& [name, fd] : stored) {
    names += (fds.empty() ? "" : ":") + name;
    fds.push_back(fd.get());
  }
  std::string count = "LISTEN_FDS=" + std::to_string(fds.size());
  std::array<char, 32> listen_pid{};
  std::vector<char*> environment;
  for (char** word = environ; *word != nullptr; ++word) environment.push_back(*word);
  if (manager_ != nullptr) {
    for (char* word : {notify.data(), names.data(), count.data(), listen_pid.data()})
      environment.push_back(word);
  }
  environment.push_back(nullptr);

  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600), 2);
    std::snprintf(listen_pid.data(), listen_pid.size(), "LISTEN_PID=%d", getpid());
    for (int& fd : fds) fd = fcntl(fd, F_DUPFD, 1000);
    for (std::size_t i = 0; i < fds.size(); ++i) dup2(fds[i], 3 + static_cast<int>(i));
    syscall(SYS_close_range, 3 + static_cast<unsigned>(fds.size()), ~0U, 0);
    std::array<const char*, 4> arguments{VGPUD_BINARY, "--config", config.c_str(), nullptr};
    execve(VGPUD_BINARY, const_cast<char* const*>(arguments.data()), environment.data());
    _exit(127);
  }
}

BrokerProcess::~BrokerProcess() {
  if (pid_ > 0) end_with(SIGKILL);
  fs::remove_all(folder_);
}

void BrokerProcess::write_config(const std::string& behaviour, const std::string& more) const {
  std::ofstream(folder_ + "/" + behaviour.substr(0, behaviour.find(','))) << "not a library\n";
  std::ofstream(config_path()) << "socket: " << socket_path() << "\ncontrol: " << control_path()
                               << "\nworker: " FAKE_WORKER_BINARY "\nlog: {level: debug, target: stderr}\n"
                               << "devices: [{name: gpu0, kind: software, driver: " << folder_ << "/"
                               << behaviour << "}]\n"
                               << more;
}

bool BrokerProcess::wait_until_up() const {
  return eventually([&] { return ask({{"request", "version"}}).is_object(); }, kPatienceMs);
}

UniqueFd BrokerProcess::connect() const {
  return connect_to(socket_path(), SOCK_SEQPACKET);
}

Answer BrokerProcess::hello(std::uint64_t protocol) const {
  Answer answer;
  answer.socket = connect();
  Hello hello;
  hello.protocol_hash = protocol;
  if (!send_message(answer.socket.get(), hello)) return answer;
  auto message = receive_message(answer.socket.get(), kPatienceMs);
  if (!message) return answer;
  if (const auto* welcome = message->as<Welcome>()) answer.welcome = std::make_unique<Welcome>(*welcome);
  if (const auto* refused = message->as<Refused>()) answer.refused = std::make_unique<Refused>(*refused);
  answer.fds = std::move(message->fds);
  return answer;
}

std::string BrokerProcess::control_line(const std::string& line) const {
  const UniqueFd fd = connect_to(control_path(), SOCK_STREAM);
  const std::string text = line + "\n";
  if (send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL) < 0) return {};
  std::string answer;
  std::array<char, 65536> chunk{};
  while (answer.find('\n') == std::string::npos) {
    const ssize_t size = recv(fd.get(), chunk.data(), chunk.size(), 0);
    if (size <= 0) return {};
    answer.append(chunk.data(), static_cast<std::size_t>(size));
  }
  return answer;
}

nlohmann::json BrokerProcess::ask(const nlohmann::json& request) const {
  return nlohmann::json::parse(control_line(request.dump()), nullptr, false);
}

std::vector<pid_t> BrokerProcess::workers() const {
  const std::string pid = std::to_string(pid_);
  std::istringstream list(read_all("/proc/" + pid + "/task/" + pid + "/children"));
  std::vector<pid_t> pids;
  for (const pid_t child : std::vector<pid_t>(std::istream_iterator<pid_t>(list), {})) {
    if (process_exists(child)) pids.push_back(child);
  }
  return pids;
}

std::size_t BrokerProcess::open_descriptors() const {
  const fs::directory_iterator entries("/proc/" + std::to_string(pid_) + "/fd");
  return static_cast<std::size_t>(std::distance(fs::begin(entries), fs::end(entries)));
}

std::string BrokerProcess::log() const {
  return read_all(folder_ + "/log");
}

bool BrokerProcess::alive() const {
  return process_exists(pid_);
}

int BrokerProcess::end_with(int signal) {
  kill(pid_, signal);
  int status = 0;
  waitpid(pid_, &status, 0);
  pid_ = 0;
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace vgpu::daemon::testing
