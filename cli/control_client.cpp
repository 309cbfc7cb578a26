#include "cli/control_client.hpp"

#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>

#include "daemon/control/schema.hpp"
#include "protocol/errno_text.hpp"

namespace vgpu::cli {
namespace {

constexpr timeval kPatience{5, 0};
constexpr const char* kClosed = "vgpud closed the connection (too many vgpud-cli at once?)";

std::string cannot_reach(const std::string& path, int error) {
  std::string text = "no vgpud answers at " + path + " (" + std::strerror(error) + "). ";
  if (error == EACCES) return text + "Are you in the group vgpu?";
  return text +
         "Is the service running (systemctl status vgpud)? 'run' and 'verify' can do without: --standalone";
}

}  // namespace

std::string control_path(const std::string& given) {
  if (!given.empty()) return given;
  const char* variable = std::getenv(control::kSocketVariable);
  return variable != nullptr && *variable != '\0' ? variable : control::kDefaultSocket;
}

tl::expected<ControlClient, std::string> ControlClient::connect(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return tl::unexpected("the path " + path + " is too long for a socket");
  path.copy(address.sun_path, path.size());
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return tl::unexpected(errno_text("socket"));
  setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience);
  setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience);
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return tl::unexpected(cannot_reach(path, errno));
  }
  return ControlClient(std::move(socket));
}

tl::expected<std::string, std::string> ControlClient::read_line() {
  std::array<char, 65536> chunk{};
  while (true) {
    if (const auto end = buffer_.find('\n'); end != std::string::npos) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return line;
    }
    const ssize_t size = recv(socket_.get(), chunk.data(), chunk.size(), 0);
    if (size < 0 && errno == EINTR) continue;
    // Closed with the request unread, it is reset.
    if (size == 0 || (size < 0 && errno == ECONNRESET)) return tl::unexpected(std::string(kClosed));
    if (size < 0) return tl::unexpected(errno_text("vgpud does not answer"));
    buffer_.append(chunk.data(), static_cast<std::size_t>(size));
    if (buffer_.size() > control::kMaxAnswer)
      return tl::unexpected(std::string("vgpud's answer is too long"));
  }
}

tl::expected<nlohmann::json, std::string> ControlClient::ask(const nlohmann::json& request) {
  std::string line;
  try {
    line = request.dump() + "\n";
  } catch (const nlohmann::json::type_error&) {  // dump() says so of nothing else
    return tl::unexpected(
        std::string("what is asked must be UTF-8 text; a program whose path is not can be said by a "
                    "client's pid"));
  }
  if (send(socket_.get(), line.data(), line.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(line.size())) {
    return tl::unexpected(errno == EPIPE ? std::string(kClosed) : errno_text("vgpud does not listen"));
  }
  const auto answer = read_line();
  if (!answer) return tl::unexpected(answer.error());
  nlohmann::json parsed = nlohmann::json::parse(*answer, nullptr, false);
  if (!parsed.is_object()) return tl::unexpected(std::string("vgpud's answer is not JSON"));
  if (!parsed.value("ok", false))
    return tl::unexpected("vgpud says: " + parsed.value("error", std::string("no")));
  return parsed;
}

}  // namespace vgpu::cli
