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
#include <vector>
#endif

namespace vgpu::daemon::systemd {

#ifdef VGPU_HAVE_SYSTEMD
namespace {

// Takes all passed descriptors out of the environment at the first use, so that no worker inherits them.
std::vector<UniqueFd>& passed() {
  static std::vector<UniqueFd> sockets = [] {
    std::vector<UniqueFd> taken;
    const int count = sd_listen_fds(1);
    for (int fd = SD_LISTEN_FDS_START; fd < SD_LISTEN_FDS_START + count; ++fd) {
      fcntl(fd, F_SETFD, FD_CLOEXEC);
      fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
      taken.emplace_back(fd);
    }
    return taken;
  }();
  return sockets;
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
  for (UniqueFd& fd : passed()) {
    if (fd && sd_is_socket(fd.get(), AF_UNIX, type, 1) > 0) return std::move(fd);
  }
  return {};
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
bool stderr_is_journal() {
  return false;
}
std::shared_ptr<spdlog::logger> journal_logger() {
  return nullptr;
}

#endif

}  // namespace vgpu::daemon::systemd
