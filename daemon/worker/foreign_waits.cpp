#include "daemon/worker/foreign_waits.hpp"

#include <utility>

#include "protocol/futex.hpp"

namespace vgpu::worker {
namespace {

constexpr std::size_t most_waits = 1024;  // looked after at a time

}  // namespace

void ForeignWaits::closed(std::uint64_t handle) {
  if (events_.erase(handle) == 0) return;
  std::erase_if(waits_,
                [handle](const Wait& wait) { return wait.handle == handle && wait.before == nullptr; });
}

void ForeignWaits::recorded(std::uint64_t handle) {
  if (events_.empty()) return;
  const auto found = events_.find(handle);
  if (found != events_.end()) found->second.recorded_here = true;
}

void ForeignWaits::drop(CUevent event) const {
  if (event != nullptr && driver_.cuEventDestroy_v2 != nullptr) driver_.cuEventDestroy_v2(event);
}

CUevent ForeignWaits::mark(CUstream stream) {
  CUevent made = nullptr;
  if (driver_.cuEventCreate == nullptr || driver_.cuEventRecord == nullptr ||
      driver_.cuEventCreate(&made, CU_EVENT_DISABLE_TIMING) != CUDA_SUCCESS) {
    return nullptr;
  }
  if (driver_.cuEventRecord(made, stream) == CUDA_SUCCESS) return made;
  drop(made);  // a stream of another context than the current one
  return nullptr;
}

CUresult ForeignWaits::wait(std::uint64_t handle, CUevent event, CUstream stream, unsigned flags,
                            std::uint16_t context) {
  const auto known = events_.find(handle);
  const bool watched = known != events_.end() && !known->second.recorded_here && waits_.size() < most_waits;
  const CUevent before = watched ? mark(stream) : nullptr;
  const CUresult result = driver_.cuStreamWaitEvent(stream, event, flags);
  const CUevent after = result == CUDA_SUCCESS && before != nullptr ? mark(stream) : nullptr;
  if (after == nullptr) {
    drop(before);
    return result;
  }
  waits_.push_back({handle, known->second.maker, before, after, context, now_ns() + patience_ns, false});
  return result;
}

void ForeignWaits::wait_on_host(std::uint64_t handle, CUevent event) {
  const auto known = events_.find(handle);
  if (known == events_.end() || known->second.recorded_here || waits_.size() >= most_waits) return;
  waits_.push_back({handle, known->second.maker, nullptr, event, 0, now_ns() + patience_ns, false});
}

void ForeignWaits::forget_context(std::uint16_t context, const std::function<bool(std::uint64_t)>& alive) {
  std::erase_if(waits_, [&](const Wait& wait) {
    return wait.before != nullptr ? wait.context == context : !alive(wait.handle);
  });
  std::erase_if(events_, [&](const auto& entry) { return !alive(entry.first); });
}

bool ForeignWaits::over(Wait& wait, std::uint64_t now, bool& never) {
  if (driver_.cuEventQuery(wait.after) != CUDA_ERROR_NOT_READY) return true;
  if (now < wait.next_look) return false;
  wait.next_look = now + patience_ns;
  const auto event = events_.find(wait.handle);
  if (event != events_.end() && event->second.recorded_here) return true;  // not to be judged any more
  if (wait.before != nullptr && driver_.cuEventQuery(wait.before) != CUDA_SUCCESS) return false;
  // Twice in a row, a while apart.
  never = wait.orphaned;
  wait.orphaned = ipc_.orphaned(wait.maker);
  never = never && wait.orphaned;
  return false;
}

bool ForeignWaits::stuck(std::uint64_t now) {
  if (waits_.empty() || now < next_look_ || driver_.cuEventQuery == nullptr) return false;
  next_look_ = now + pause_ns;
  std::vector<Wait> left;
  bool never = false;
  for (Wait& wait : waits_) {
    if (never || !over(wait, now, never)) {
      left.push_back(wait);
    } else if (wait.before != nullptr) {
      drop(wait.before);
      drop(wait.after);
    }
  }
  waits_ = std::move(left);
  return never;
}

}  // namespace vgpu::worker
