// Accepts connections to the client socket and waits for their first message, within bounds: a peer that is
// silent, sends garbage or connects a thousand times costs a few descriptors for two seconds. Admits nobody.
#pragma once

#include <functional>
#include <unordered_map>

#include "daemon/base/event_loop.hpp"
#include "daemon/base/log.hpp"
#include "daemon/config/config.hpp"
#include "daemon/metrics/rejections.hpp"
#include "protocol/handshake.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu::daemon {

// Tells a peer that it is not admitted and why. Best effort, never waits.
void send_refusal(int socket, RefusalCode code, const std::string& text);

// Belongs to the loop's thread.
class Greeter {
 public:
  struct Callbacks {
    // A Hello that fits this build came.
    std::function<void(UniqueFd socket, const DeviceWish& wish)> on_hello;
    // A StatusQuery came.
    std::function<void(UniqueFd socket, const StatusQuery& query)> on_status;
    // Somebody was refused, with a sentence.
    std::function<void(uid_t uid, RejectionReason reason, const std::string& why)> on_refused;
  };
  // What came to nothing, since the start.
  struct Counters {
    std::uint64_t over_limit = 0;
    std::uint64_t timed_out = 0;
    std::uint64_t malformed = 0;
    std::uint64_t mismatched = 0;
  };

  // `listener`: a listening SEQPACKET socket.
  Greeter(EventLoop& loop, UniqueFd listener, const LimitsConfig& limits, Callbacks callbacks);
  ~Greeter();
  Greeter(const Greeter&) = delete;
  Greeter& operator=(const Greeter&) = delete;

  void set_limits(const LimitsConfig& limits) { limits_ = limits; }
  [[nodiscard]] const Counters& counters() const { return counters_; }
  [[nodiscard]] std::size_t pending() const { return guests_.size(); }

 private:
  struct Guest {
    UniqueFd socket;
    uid_t uid;
    EventLoop::TimerId timer;
  };

  void accept_some();
  void pause_accepting();
  void welcome(UniqueFd socket);
  void refuse(int socket, uid_t uid, RefusalCode code, RejectionReason reason, const std::string& why);
  void on_message(int fd);
  // Takes a guest off the books; its socket is the caller's then.
  UniqueFd dismiss(int fd);

  EventLoop& loop_;
  UniqueFd listener_;
  LimitsConfig limits_;
  Callbacks callbacks_;
  Counters counters_;
  log::Limiter log_limit_{20, std::chrono::seconds(10)};
  std::unordered_map<int, Guest> guests_;
  std::unordered_map<uid_t, unsigned> per_user_;
  EventLoop::TimerId resume_ = 0;
};

}  // namespace vgpu::daemon
