#include "daemon/service/systemd.hpp"

#include <spdlog/spdlog.h>

#ifdef VGPU_HAVE_SYSTEMD
#include <fcntl.h>
#include <spdlog/sinks/systemd_sink.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

#include <charconv>
#include <cstdlib>
#include <map>
#include <string_view>
#endif

namespace vgpu::daemon::systemd {

#ifdef VGPU_HAVE_SYSTEMD
namespace {

// Takes all passed descriptors out of the environment at the first use, so that no worker inherits them.
std::multimap<std::string, UniqueFd>& passed() {
  static std::multimap<std::string, UniqueFd> sockets = [] {
    std::multimap<std::string, UniqueFd> taken;
    char** names = nullptr;
    const int count = sd_listen_fds_with_names(1, &names);
    for (int i = 0; i < count; ++i) {
      const int fd = SD_LISTEN_FDS_START + i;
      fcntl(fd, F_SETFD, FD_CLOEXEC);
      taken.emplace(names != nullptr ? names[i] : "", UniqueFd(fd));
      if (names != nullptr) std::free(names[i]);
    }
    std::free(names);
    return taken;
  }();
  return sockets;
}

}  // namespace

void notify(const std::string& state) { sd_notify(0, state.c_str()); }

std::optional<std::chrono::microseconds> watchdog_interval() {
  std::uint64_t interval = 0;
  if (sd_watchdog_enabled(0, &interval) <= 0) return std::nullopt;
  return std::chrono::microseconds(interval / 2);
}

UniqueFd take_socket(const std::string& name) {
  auto& sockets = passed();
  const auto found = sockets.find(name);
  if (found == sockets.end()) return {};
  UniqueFd fd = std::move(found->second);
  sockets.erase(found);
  return fd;
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
std::optional<std::chrono::microseconds> watchdog_interval() { return std::nullopt; }
UniqueFd take_socket(const std::string&) { return {}; }
bool stderr_is_journal() { return false; }
std::shared_ptr<spdlog::logger> journal_logger() { return nullptr; }

#endif

}  // namespace vgpu::daemon::systemd
