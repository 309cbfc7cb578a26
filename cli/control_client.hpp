// Asks vgpud over its control socket. Knows how to ask, not what the answers mean.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <tl/expected.hpp>

#include "protocol/unique_fd.hpp"

namespace vgpu::cli {

// A connection to one vgpud. Not thread-safe.
class ControlClient {
 public:
  // Connects to the socket at `path`. The error is a sentence that says what to do.
  [[nodiscard]] static tl::expected<ControlClient, std::string> connect(const std::string& path);

  // Sends a request and waits, at most five seconds, for its answer. An answer that says "ok": false is an
  // error.
  [[nodiscard]] tl::expected<nlohmann::json, std::string> ask(const nlohmann::json& request);

 private:
  explicit ControlClient(UniqueFd socket) : socket_(std::move(socket)) {}
  [[nodiscard]] tl::expected<std::string, std::string> read_line();

  UniqueFd socket_;
  std::string buffer_;
};

// The control socket to use: `given` if not empty, else $VGPUD_CONTROL, else the system's.
[[nodiscard]] std::string control_path(const std::string& given);

}  // namespace vgpu::cli
