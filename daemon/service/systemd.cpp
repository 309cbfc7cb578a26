#include "daemon/service/systemd.hpp"

#include <spdlog/spdlog.h>

#ifdef VGPU_HAVE_SYSTEMD
#include <fcntl.h>
#include <spdlog/sinks/systemd_sink.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

#include <cstdlib>
#include <string_view>
#include <utility>
#endif

namespace vgpu::daemon::systemd {

#ifdef VGPU_HAVE_SYSTEMD
namespace {

// Marks our names among those of sockets, which systemd calls by their unit.
constexpr std::string_view kStoredPrefix = "vgpud/";

struct Passed {
  std::vector<UniqueFd> sockets;
  std::vector<StoredFd> stored;
};

void take_one(Passed& taken, UniqueFd fd, std::string_view name) {
  fcntl(fd.get(), F_SETFD, FD_CLOEXEC);
  if (name.substr(0, kStoredPrefix.size()) == kStoredPrefix) {
    taken.stored.push_back({std::string(name.substr(kStoredPrefix.size())), std::move(fd)});
    return;
  }
  fcntl(fd.get(), F_SETFL, fcntl(fd.get(), F_GETFL) | O_NONBLOCK);
  taken.sockets.push_back(std::move(fd));
}

// Takes all passed descriptors out of the environment at the first use, so that no worker inherits them.
Passed& passed() {
  static Passed all = [] {
    Passed taken;
    char** names = nullptr;
    const int count = sd_listen_fds_with_names(1, &names);
    for (int i = 0; i < count; ++i) {
      take_one(taken, UniqueFd(SD_LISTEN_FDS_START + i), names[i] != nullptr ? names[i] : "");
      std::free(names[i]);  // NOLINT(cppcoreguidelines-no-malloc): sd_listen_fds_with_names(3) says so
    }
    std::free(static_cast<void*>(names));  // NOLINT(cppcoreguidelines-no-malloc)
    return taken;
  }();
  return all;
}

}  // namespace

void notify(const std::string& state) {
  sd_notify(0, state.c_str());
}

std::optional<std::chrono::microseconds> watchdog_interval() {
  std::uint64_t interval = 0;
  if (sd_watchdog_enabled(0, &interval) <= 0) return std::nullopt;
  return std::chrono::microseconds(interval / 2);
}

UniqueFd take_socket(int type) {
  for (UniqueFd& fd : passed().sockets) {
    if (fd && sd_is_socket(fd.get(), AF_UNIX, type, 1) > 0) return std::move(fd);
  }
  return {};
}

bool may_store() {
  return std::getenv("NOTIFY_SOCKET") != nullptr;
}

void store(const std::string& name, int fd) {
  // FDPOLL=0: we say when it is to go, not a hang-up at its other end.
  const std::string state = "FDSTORE=1\nFDPOLL=0\nFDNAME=" + std::string(kStoredPrefix) + name;
  sd_pid_notify_with_fds(0, 0, state.c_str(), &fd, 1);
}

void unstore(const std::string& name) {
  notify("FDSTOREREMOVE=1\nFDNAME=" + std::string(kStoredPrefix) + name);
}

std::vector<StoredFd> take_stored() {
  return std::exchange(passed().stored, {});
}

bool stderr_is_journal() {
  // systemd.exec(5): JOURNAL_STREAM holds device and inode of the stream that it connected.
  const char* stream = std::getenv("JOURNAL_STREAM");
  struct stat status {};
  if (stream == nullptr || fstat(2, &status) != 0) return false;
  return std::string_view(stream) == std::to_string(status.st_dev) + ":" + std::to_string(status.st_ino);
}

std::shared_ptr<spdlog::logger> journal_logger() {
  return std::make_shared<spdlog::logger>("vgpud", std::make_shared<spdlog::sinks::systemd_sink_st>("vgpud"));
}

#else

void notify(const std::string&) {}
std::optional<std::chrono::microseconds> watchdog_interval() {
  return std::nullopt;
}
UniqueFd take_socket(int) {
  return {};
}
bool may_store() {
  return false;
}
void store(const std::string&, int) {}
void unstore(const std::string&) {}
std::vector<StoredFd> take_stored() {
  return {};
}
bool stderr_is_journal() {
  return false;
}
std::shared_ptr<spdlog::logger> journal_logger() {
  return nullptr;
}

#endif

}  // namespace vgpu::daemon::systemd
