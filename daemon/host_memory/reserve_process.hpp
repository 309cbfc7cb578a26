// vgpud-reserve as the broker holds it: a child of its own, so that the memory it holds is neither the
// broker's nor in the way of its loop.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <string>

#include "daemon/base/event_loop.hpp"
#include "protocol/unique_fd.hpp"

namespace vgpu::daemon {

/// Starts the program when made, which then takes all that is wanted. Ends it with itself; the kernel ends it
/// when the thread that made this ends first. One that ends by itself, as when memory ran out, is not started
/// again. SIGPIPE must be ignored. Belongs to the loop's thread.
class ReserveProcess {
 public:
  /// `program`: path of vgpud-reserve. A start that fails is logged: nothing is held then. `calm`: for how
  /// long nothing may have been given back before more is taken.
  ReserveProcess(EventLoop& loop, const std::string& program, std::uint64_t bytes,
                 std::chrono::milliseconds calm = std::chrono::seconds(1));
  ~ReserveProcess();
  ReserveProcess(const ReserveProcess&) = delete;
  ReserveProcess& operator=(const ReserveProcess&) = delete;

  /// Holds so many bytes from now on, wanted() at most: what is too much is given back at once, what is
  /// missing is taken when all is calm.
  void aim(std::uint64_t bytes);

  [[nodiscard]] bool running() const { return pid_ != 0; }
  [[nodiscard]] std::uint64_t wanted() const { return wanted_; }  // bytes
  /// Bytes, as last told; less than was aimed at where the machine has no more to spare, and a chunk's more.
  [[nodiscard]] std::uint64_t held() const { return held_; }
  /// It is taking memory, or has not said what it holds.
  [[nodiscard]] bool busy() const { return running() && busy_; }
  /// How long it took to take all the first time; 0 until then.
  [[nodiscard]] std::chrono::nanoseconds first_took() const { return first_took_; }

 private:
  // The error is a sentence.
  [[nodiscard]] std::string start(const std::string& program);
  void say();
  void on_output();
  void on_exit();

  EventLoop& loop_;
  const std::uint64_t wanted_;
  const std::chrono::milliseconds calm_;
  const EventLoop::Clock::time_point began_ = EventLoop::Clock::now();
  std::uint64_t aim_;
  std::uint64_t held_ = 0;
  bool busy_ = true;
  std::chrono::nanoseconds first_took_{0};
  EventLoop::TimerId timer_ = 0;
  pid_t pid_ = 0;
  UniqueFd pidfd_;
  UniqueFd input_;   // what it reads
  UniqueFd output_;  // what it prints
};

}  // namespace vgpu::daemon
