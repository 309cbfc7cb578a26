// All of the broker's dealings with systemd, in one place: readiness, watchdog, passed sockets, the
// descriptor store, the journal. Built without libsystemd (-DVGPU_SYSTEMD=OFF) every function is present and
// says "not under systemd".
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "protocol/unique_fd.hpp"

namespace spdlog {
class logger;
}

namespace vgpu::daemon::systemd {

// sd_notify(3): "READY=1", "RELOADING=1", "STOPPING=1", "STATUS=...". Does nothing outside a notify service.
void notify(const std::string& state);

// How often WATCHDOG=1 must be sent (half of WATCHDOG_USEC); none: no watchdog is set.
[[nodiscard]] std::optional<std::chrono::microseconds> watchdog_interval();

// The listening unix socket of `type` (SOCK_SEQPACKET, SOCK_STREAM) that a .socket unit passed; an empty one
// if there is none. Each can be taken once.
[[nodiscard]] UniqueFd take_socket(int type);

// A descriptor that an earlier run of the service left in the descriptor store.
struct StoredFd {
  std::string name;
  UniqueFd fd;
};

// True in a service that can talk to its manager: store() may have an effect then.
[[nodiscard]] bool may_store();

// Puts a copy of `fd` into the manager's descriptor store (sd_pid_notify_with_fds(3)), where it stays until
// unstore() or until the service is stopped for good. At most 250 bytes of printable ASCII without ':'.
void store(const std::string& name, int fd);
void unstore(const std::string& name);

// What store() kept for this start of the service. Gives it once.
[[nodiscard]] std::vector<StoredFd> take_stored();

// True when standard error is connected to the journal.
[[nodiscard]] bool stderr_is_journal();

// A logger that writes to the journal with priorities; null where libsystemd is not built in.
[[nodiscard]] std::shared_ptr<spdlog::logger> journal_logger();

}  // namespace vgpu::daemon::systemd
