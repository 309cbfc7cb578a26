// The host's end of QEMU's ivshmem-doorbell: a unix socket to which one QEMU at a time connects, which is
// given a shared memory and eventfds of its own. Source of the protocol: QEMU, docs/specs/ivshmem-spec.rst.
// Never reads anything from QEMU but its end.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <tl/expected.hpp>

#include "daemon/base/event_loop.hpp"
#include "daemon/base/log.hpp"
#include "daemon/session/listen.hpp"
#include "protocol/stub_layout.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu::daemon::stub_host {

// Belongs to the loop's thread.
class IvshmemServer {
 public:
  using Doorbells = std::array<UniqueFd, stub::vector_count>;
  // What one QEMU is given: no other may have been told of it, ever. Nothing: it cannot be served.
  struct Device {
    int memory = -1;
    const Doorbells* doorbells = nullptr;
  };
  struct Callbacks {
    std::function<Device()> on_connect;         // before QEMU is told anything; its id is below next_peer()
    std::function<void(int socket)> on_served;  // QEMU has been told all
    std::function<void()> on_disconnect;        // QEMU has gone
  };

  // Peer ids: ours is 0 for the life of the socket, each QEMU gets a new one.
  static constexpr std::int64_t host_peer = 0;

  IvshmemServer(EventLoop& loop, Callbacks callbacks);
  ~IvshmemServer();
  IvshmemServer(const IvshmemServer&) = delete;
  IvshmemServer& operator=(const IvshmemServer&) = delete;

  [[nodiscard]] tl::expected<void, std::string> listen(const std::string& path, const std::string& group);
  // Goes on with the QEMU of an earlier vgpud (none: no descriptor).
  void adopt(UniqueFd qemu, std::int64_t next_peer);
  // Ids from here on were never given to a QEMU.
  [[nodiscard]] std::int64_t next_peer() const { return next_peer_; }
  [[nodiscard]] bool connected() const { return static_cast<bool>(qemu_); }

 private:
  void accept_one();
  bool introduce(int socket, std::int64_t peer, const Device& device);
  void on_qemu();

  EventLoop& loop_;
  Callbacks callbacks_;
  ListeningPath path_;
  UniqueFd listener_;
  UniqueFd qemu_;
  Doorbells guest_doorbells_;  // nothing is ever written to them: the guest polls
  std::int64_t next_peer_ = 1;
  log::Limiter lines_{20, std::chrono::seconds(10)};  // that whoever may connect can cause
};

}  // namespace vgpu::daemon::stub_host
