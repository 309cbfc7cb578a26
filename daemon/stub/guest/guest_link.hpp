// The guest's vgpud and its VGPU-STUB function: finds it, owns it, shows the host that it lives, sees whether
// the host does. The data of clients never comes here (link_session.hpp).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/base/event_loop.hpp"
#include "daemon/stub/guest/pci_function.hpp"

namespace vgpu::daemon {

// For `vgpud-cli devices` and `stats`.
struct LinkStats {
  std::string function;  // folder of the PCI function
  std::string memory;    // "resource2_wc" or "resource2"
  std::uint64_t bytes = 0;
  std::uint32_t slots = 0;
  std::uint64_t host_doorbells = 0;  // received, as the host says
  std::uint64_t host_starts = 0;     // hosts seen so far
  bool connected = false;
};

// Belongs to the loop's thread.
class GuestLink {
 public:
  struct Callbacks {
    std::function<void()> on_up;                      // the host can be asked for sessions
    std::function<void(const std::string&)> on_down;  // it cannot, with the reason; also at first
  };

  GuestLink(EventLoop& loop, std::string sysfs_root, std::string address, std::vector<std::string> ids,
            Callbacks callbacks);
  ~GuestLink();
  GuestLink(const GuestLink&) = delete;
  GuestLink& operator=(const GuestLink&) = delete;

  // Looks for the function now and, until it is there, every second. Calls back at once.
  void start();
  // Why the host cannot be asked for sessions now; empty: it can.
  [[nodiscard]] const std::string& problem() const { return problem_; }
  // The function's folder; empty while there is none.
  [[nodiscard]] std::string folder() const;
  // True while the host's heartbeat stands still for longer than a working host's does: a client that comes
  // now waits for on_up or on_down, which follows within 100 ms.
  [[nodiscard]] bool in_doubt();
  // The largest arena that a client can have through this link.
  [[nodiscard]] std::uint64_t most_arena_bytes() const;
  [[nodiscard]] LinkStats stats() const;

 private:
  std::string connect();
  void beat();
  void listen();
  void up();
  void hear_answer();
  void down(const std::string& why);

  EventLoop& loop_;
  std::string sysfs_root_;
  std::string address_;
  std::vector<std::string> ids_;
  Callbacks callbacks_;
  std::unique_ptr<stub_guest::PciFunction> function_;
  EventLoop::TimerId timer_ = 0;
  std::uint64_t generation_ = 0;  // ours
  std::uint64_t heartbeat_ = 0;   // ours
  std::uint64_t host_generation_ = 0;
  std::uint64_t host_heartbeat_ = 0;
  std::uint64_t hosts_ = 0;
  EventLoop::Clock::time_point listened_;
  EventLoop::Clock::duration silence_{};  // of the host, while this process ran
  bool doubted_ = false;                  // a client waits because of it
  bool answered_ = false;                 // the host has received a doorbell since the connection
  std::uint64_t doorbells_before_ = 0;
  EventLoop::Clock::time_point rang_;
  EventLoop::Clock::time_point tried_;
  std::string problem_ = "not looked for yet";
};

}  // namespace vgpu::daemon
