// The broker's log: sentences with key=value details, by spdlog, to the journal or to standard error. Keeps
// spdlog out of the other headers. Never logs what a client sent without quoting it.
#pragma once

#include <fmt/format.h>

#include <chrono>
#include <string>
#include <string_view>
#include <utility>

#include "daemon/config/config.hpp"

namespace vgpu::daemon::log {

// Sets target and level; may be called again after a reload. Not thread-safe.
void configure(const LogConfig& config);

void write(LogLevel level, std::string_view message);

template <class... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
  write(LogLevel::debug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  write(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void warning(fmt::format_string<Args...> format, Args&&... args) {
  write(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  write(LogLevel::error, fmt::format(format, std::forward<Args>(args)...));
}

// Keeps lines that a client or a guest can cause from filling the log: lets `lines` through in each `period`
// and tells how many it held back. One thread uses it.
class Limiter {
 public:
  // `whose`: named where lines were left out ("vm=web"); empty: nobody.
  Limiter(unsigned lines, std::chrono::steady_clock::duration period, std::string whose = {})
      : lines_(lines), period_(period), whose_(std::move(whose)) {}

  // True when a line may be written at `now`; says in the log, once a period is over, what was left out.
  bool allows(std::chrono::steady_clock::time_point now = std::chrono::steady_clock::now()) {
    look(now);
    if (written_ < lines_) {
      ++written_;
      return true;
    }
    ++held_back_;
    return false;
  }
  // The same without a line to be written: for who looks regularly, so that the end of a flood is told too.
  void look(std::chrono::steady_clock::time_point now = std::chrono::steady_clock::now()) {
    if (now - since_ < period_) return;
    if (held_back_ != 0) {
      info("similar lines left out count={}{}{}", held_back_, whose_.empty() ? "" : " ", whose_);
    }
    since_ = now;
    written_ = held_back_ = 0;
  }
  [[nodiscard]] unsigned held_back() const { return held_back_; }

 private:
  unsigned lines_;
  std::chrono::steady_clock::duration period_;
  std::string whose_;
  std::chrono::steady_clock::time_point since_{};
  unsigned written_ = 0;
  unsigned held_back_ = 0;
};

// `text` as one quoted word of printable ASCII, at most 200 characters: for anything that a client chose (its
// executable's name, its cgroup).
[[nodiscard]] std::string quoted(std::string_view text);

}  // namespace vgpu::daemon::log
