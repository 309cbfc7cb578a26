#include "daemon/session/listen.hpp"

#include <grp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "daemon/base/log.hpp"
#include "protocol/errno_text.hpp"

namespace vgpu::daemon {
namespace {

constexpr int kBacklog = 128;

std::string failed(const char* what, const std::string& path) {
  return errno_text(std::string(what) + " " + path);
}

// Takes away a socket file that nobody listens on: a broker that was killed left it. Anything else stays, and
// why is the error.
tl::expected<void, std::string> remove_stale(const std::string& path, const sockaddr_un& address, int type) {
  // Asked first: connecting to what is no socket is refused as well.
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0) return tl::unexpected(failed("cannot look at", path));
  if (!S_ISSOCK(status.st_mode)) {
    return tl::unexpected("there is already something at " + path + " that is no socket, it is left alone");
  }
  const UniqueFd probe(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return tl::unexpected(failed("cannot make a socket for", path));
  if (connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ||
      errno != ECONNREFUSED) {
    return tl::unexpected("another vgpud already listens at " + path);
  }
  if (::unlink(path.c_str()) != 0) return tl::unexpected(failed("cannot replace", path));
  return {};
}

void set_access(const std::string& path, const std::string& group_name) {
  if (group_name.empty()) return;
  const group* entry = getgrnam(group_name.c_str());
  // In a folder with the set-group-ID bit the socket has the folder's group already, and a service that may
  // not change it need not.
  struct stat status {};
  const auto has_group = [&] { return stat(path.c_str(), &status) == 0 && status.st_gid == entry->gr_gid; };
  if (entry == nullptr) {
    log::info("socket is for its owner only, group does not exist path={} group={}", path,
              log::quoted(group_name));
  } else if (!has_group() && chown(path.c_str(), static_cast<uid_t>(-1), entry->gr_gid) != 0) {
    log::info("socket is for its owner only, its group cannot be set path={} group={}", path, group_name);
  } else if (chmod(path.c_str(), 0660) != 0) {
    log::warning("socket mode cannot be set path={}", path);
  }
}

}  // namespace

ListeningPath::ListeningPath(ListeningPath&& other) noexcept
    : socket_(std::move(other.socket_)), path_(std::exchange(other.path_, {})) {}

ListeningPath& ListeningPath::operator=(ListeningPath&& other) noexcept {
  if (this != &other) {
    remove();
    socket_ = std::move(other.socket_);
    path_ = std::exchange(other.path_, {});
  }
  return *this;
}

ListeningPath::~ListeningPath() {
  remove();
}

void ListeningPath::remove() {
  if (!path_.empty()) ::unlink(path_.c_str());
  path_.clear();
}

tl::expected<ListeningPath, std::string> ListeningPath::create(const std::string& path, int type,
                                                               const std::string& group_name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return tl::unexpected("the socket path " + path + " is longer than 107 characters");
  }
  path.copy(address.sun_path, path.size());

  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  if (error) return tl::unexpected("cannot make the folder of " + path + ": " + error.message());

  ListeningPath listening;
  listening.socket_.reset(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listening.socket_) return tl::unexpected(failed("cannot make a socket for", path));
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  const mode_t before = umask(0177);  // nobody else may connect before set_access
  int result = bind(listening.socket_.get(), generic, sizeof address);
  if (result != 0 && errno == EADDRINUSE) {
    if (auto removed = remove_stale(path, address, type); !removed) {
      umask(before);
      return tl::unexpected(removed.error());
    }
    result = bind(listening.socket_.get(), generic, sizeof address);
  }
  const int reason = errno;
  umask(before);
  errno = reason;
  if (result != 0) return tl::unexpected(failed("cannot bind", path));
  listening.path_ = path;
  if (listen(listening.socket_.get(), kBacklog) != 0) return tl::unexpected(failed("cannot listen at", path));
  set_access(path, group_name);
  return listening;
}

}  // namespace vgpu::daemon
