// All of the broker's dealings with systemd, in one place: readiness, watchdog, passed sockets, the journal.
// Built without libsystemd (-DVGPU_SYSTEMD=OFF) every function is present and says "not under systemd".
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

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

// True when standard error is connected to the journal.
[[nodiscard]] bool stderr_is_journal();

// A logger that writes to the journal with priorities; null where libsystemd is not built in.
[[nodiscard]] std::shared_ptr<spdlog::logger> journal_logger();

}  // namespace vgpu::daemon::systemd
