// A stand-in for systemd in tests: receives a service's notifications, keeps the descriptors that it stores,
// and hands them to the next start.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "protocol/unique_fd.hpp"

namespace vgpu::daemon::testing {

// A thread of its own answers at once, as systemd does. All functions are thread-safe.
class ServiceManager {
 public:
  ServiceManager();
  ~ServiceManager();
  ServiceManager(const ServiceManager&) = delete;
  ServiceManager& operator=(const ServiceManager&) = delete;

  // For NOTIFY_SOCKET.
  [[nodiscard]] const std::string& socket_path() const { return path_; }
  // What is kept now: duplicates, by name.
  [[nodiscard]] std::map<std::string, UniqueFd> stored() const;
  [[nodiscard]] std::vector<std::string> stored_names() const;
  // Closes one, or all as systemd does when a service is stopped for good.
  void forget(const std::string& name);
  void forget_all();
  // Keeps what stored() gave.
  void put(const std::map<std::string, UniqueFd>& fds);

 private:
  void serve();
  // Returns when all has been taken in that was sent before: a broker that was killed may have said much.
  void catch_up();
  void take(const std::string& message, std::vector<UniqueFd> fds);

  std::string folder_;
  std::string path_;
  UniqueFd socket_;
  mutable std::mutex mutex_;
  std::condition_variable caught_up_;
  std::uint64_t asked_ = 0, answered_ = 0;  // of catch_up()
  std::map<std::string, UniqueFd> stored_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace vgpu::daemon::testing
