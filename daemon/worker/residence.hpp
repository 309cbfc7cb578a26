// What a session has where its memory can be moved out: the memory, the grants for it, and a thread that
// wakes the dispatcher when the broker wants it moved. The moves themselves are the dispatcher's
// (session_residence.cpp).
#pragma once

#include <atomic>
#include <functional>
#include <thread>

#include "daemon/worker/memory_grant.hpp"
#include "daemon/worker/movable_memory.hpp"

namespace vgpu::worker {

class Residence {
 public:
  /// `wake_dispatcher` is called from the thread whenever an order waits.
  Residence(const DriverTable& driver, CUdevice device, CUcontext context, GatePage& page,
            std::function<void()> wake_broker, std::function<void()> wake_dispatcher)
      : memory(driver, device, context), grant(page, std::move(wake_broker)) {
    watcher_ = std::thread([this, wake = std::move(wake_dispatcher)] {
      while (!stop_.load()) {
        const std::uint32_t turn = grant.turn();
        if (grant.order() != 0) wake();
        grant.wait(turn, grant.order() != 0 ? wake_again_ns : sleep_ns);
      }
    });
  }
  ~Residence() {
    stop_.store(true);
    watcher_.join();
  }
  Residence(const Residence&) = delete;
  Residence& operator=(const Residence&) = delete;

  MovableMemory memory;
  MemoryGrant grant;
  std::uint64_t patience_ns =
      first_patience_ns;  ///< for how long an order waits for the client's work to end
  static constexpr std::uint64_t first_patience_ns = 100'000'000;
  static constexpr std::uint64_t longest_patience_ns = 6'400'000'000;

 private:
  static constexpr std::uint64_t sleep_ns = 100'000'000;
  static constexpr std::uint64_t wake_again_ns = 5'000'000;
  std::atomic<bool> stop_{false};
  std::thread watcher_;
};

}  // namespace vgpu::worker
