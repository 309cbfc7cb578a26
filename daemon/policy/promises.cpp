#include "daemon/policy/promises.hpp"

#include <algorithm>

namespace vgpu::daemon {

void Promises::note(pid_t pid, std::size_t device, std::uint64_t weight, TimePoint now) {
  if (pid <= 0) return;  // of a pid namespace that cannot be seen from here: stands for several
  if (const auto known = told_.find(pid); known != told_.end()) {
    if (now - known->second.since < kKept && known->second.device == device) return;
    told_.erase(known);
  }
  if (told_.size() >= kMost) {
    told_.erase(std::min_element(told_.begin(), told_.end(), [](const auto& a, const auto& b) {
      return a.second.since < b.second.since;
    }));
  }
  told_.emplace(pid, Promise{device, weight, now});
}

std::optional<std::size_t> Promises::find(pid_t pid, TimePoint now) const {
  const auto known = told_.find(pid);
  if (known == told_.end() || now - known->second.since >= kKept) return std::nullopt;
  return known->second.device;
}

std::uint64_t Promises::load(std::size_t device, TimePoint now) const {
  std::uint64_t sum = 0;
  for (const auto& [pid, promise] : told_) {
    if (promise.device == device && now - promise.since < kExpected) sum += promise.weight;
  }
  return sum;
}

}  // namespace vgpu::daemon
