#include "daemon/testing/service_manager.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>

namespace vgpu::daemon::testing {
namespace {

constexpr int kLookAroundMs = 20;
// A message to itself, behind all that was sent before.
constexpr const char* kCatchUp = "X_CATCH_UP=1";

// The value of "KEY=value" in a notification's lines; empty when there is none.
std::string value_of(const std::string& message, const std::string& key) {
  std::istringstream lines(message);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(key + "=", 0) == 0) return line.substr(key.size() + 1);
  }
  return {};
}

}  // namespace

ServiceManager::ServiceManager() {
  std::string name = (std::filesystem::temp_directory_path() / "vgpud-manager-XXXXXX").string();
  folder_ = mkdtemp(name.data());
  path_ = folder_ + "/notify";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path_.copy(address.sun_path, sizeof address.sun_path - 1);
  socket_.reset(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) std::abort();
  thread_ = std::thread([this] { serve(); });
}

ServiceManager::~ServiceManager() {
  stop_ = true;
  thread_.join();
  std::filesystem::remove_all(folder_);
}

void ServiceManager::serve() {
  while (!stop_) {
    pollfd entry{socket_.get(), POLLIN, 0};
    if (poll(&entry, 1, kLookAroundMs) <= 0) continue;
    std::array<char, 4096> text{};
    std::array<char, CMSG_SPACE(8 * sizeof(int))> control{};
    iovec part{text.data(), text.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t size = recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
    std::vector<UniqueFd> fds;
    for (cmsghdr* head = CMSG_FIRSTHDR(&message); head != nullptr; head = CMSG_NXTHDR(&message, head)) {
      if (head->cmsg_type != SCM_RIGHTS) continue;
      const std::size_t count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (std::size_t i = 0; i < count; ++i) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(head) + i * sizeof fd, sizeof fd);
        fds.emplace_back(fd);
      }
    }
    if (size > 0) take(std::string(text.data(), static_cast<std::size_t>(size)), std::move(fds));
  }
}

void ServiceManager::take(const std::string& message, std::vector<UniqueFd> fds) {
  const std::string name = value_of(message, "FDNAME");
  const std::lock_guard lock(mutex_);
  if (value_of(message, "FDSTORE") == "1" && fds.size() == 1) stored_[name] = std::move(fds.front());
  if (value_of(message, "FDSTOREREMOVE") == "1") stored_.erase(name);
  if (message == kCatchUp) {
    ++answered_;
    caught_up_.notify_all();
  }
}

std::map<std::string, UniqueFd> ServiceManager::stored() const {
  const std::lock_guard lock(mutex_);
  std::map<std::string, UniqueFd> copies;
  for (const auto& [name, fd] : stored_) copies[name].reset(fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
  return copies;
}

std::vector<std::string> ServiceManager::stored_names() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& [name, fd] : stored_) names.push_back(name);
  return names;
}

void ServiceManager::put(const std::map<std::string, UniqueFd>& fds) {
  const std::lock_guard lock(mutex_);
  for (const auto& [name, fd] : fds) stored_[name].reset(fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
}

void ServiceManager::catch_up() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path_.copy(address.sun_path, sizeof address.sun_path - 1);
  std::unique_lock lock(mutex_);
  const std::uint64_t mine = ++asked_;
  lock.unlock();
  const UniqueFd sender(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (sendto(sender.get(), kCatchUp, std::strlen(kCatchUp), 0, reinterpret_cast<const sockaddr*>(&address),
             sizeof address) < 0) {
    std::abort();
  }
  lock.lock();
  caught_up_.wait(lock, [&] { return answered_ >= mine; });
}

void ServiceManager::forget(const std::string& name) {
  catch_up();
  const std::lock_guard lock(mutex_);
  stored_.erase(name);
}

void ServiceManager::forget_all() {
  catch_up();
  const std::lock_guard lock(mutex_);
  stored_.clear();
}

}  // namespace vgpu::daemon::testing
