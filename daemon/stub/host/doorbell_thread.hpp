// Answers one VM's doorbells: wakes the workers whose slots were kicked, and tells the broker's loop of
// requests. A thread of its own, so that a wake never waits for the broker, and a guest that rings without
// end costs one slow thread. It waits for nothing but its own stop and the doorbells.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "daemon/stub/host/ivshmem_server.hpp"
#include "daemon/stub/host/vm_memory.hpp"

namespace vgpu::daemon::stub_host {

class DoorbellThread {
 public:
  // Raises `requests` (an eventfd) when a request may have changed. All outlive the object.
  DoorbellThread(const VmMemory& memory, const IvshmemServer::Doorbells& doorbells, int requests);
  ~DoorbellThread();
  DoorbellThread(const DoorbellThread&) = delete;
  DoorbellThread& operator=(const DoorbellThread&) = delete;

  // Whether this kernel lets a doorbell be read without ever waiting (Linux 5.8 does). Without that a thread,
  // and who ends it, could be held up by the doorbell's other owner.
  [[nodiscard]] static bool possible();

  // Doorbells received, as far as they could be told apart.
  [[nodiscard]] std::uint64_t received() const { return received_.load(std::memory_order_relaxed); }

 private:
  void run();
  void poll_word(std::atomic<std::uint32_t>& word);
  void wait_for_eventfds();
  void wake_kicked();
  void tell_loop() const;
  // Slows down who rings faster than can be of use.
  void pace();

  const VmMemory& memory_;
  const IvshmemServer::Doorbells& doorbells_;
  int requests_;
  UniqueFd stop_event_;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> received_{0};
  std::vector<std::uint32_t> kicks_;
  std::uint64_t window_start_ns_ = 0;
  unsigned in_window_ = 0;
  std::thread thread_;  // last: it uses the others
};

}  // namespace vgpu::daemon::stub_host
