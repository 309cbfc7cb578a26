// Which device a process was told of before it came as a client: libnvidia-ml asks first, libcuda connects
// later, and both must name one device though loads have changed meanwhile. Hints, bounded in number and
// time; knows pids and numbers only.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>

namespace vgpu::daemon {

class Promises {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  static constexpr std::size_t kMost = 1024;            // the oldest give way
  static constexpr std::chrono::minutes kKept{10};      // from the first time that the process was told
  static constexpr std::chrono::seconds kExpected{10};  // for so long it counts as load

  // The process was told of this device; told the same again, it counts from the first time.
  void note(pid_t pid, std::size_t device, std::uint64_t weight, TimePoint now);
  [[nodiscard]] std::optional<std::size_t> find(pid_t pid, TimePoint now) const;
  // It has come, or shall get another.
  void drop(pid_t pid) { told_.erase(pid); }
  // The weights of those that were told of this device and may be about to come.
  [[nodiscard]] std::uint64_t load(std::size_t device, TimePoint now) const;

 private:
  struct Promise {
    std::size_t device;
    std::uint64_t weight;
    TimePoint since;
  };
  std::map<pid_t, Promise> told_;
};

}  // namespace vgpu::daemon
