#include "daemon/worker/command_timers.hpp"

#include "daemon/worker/event_gap.hpp"
#include "protocol/futex.hpp"

namespace vgpu::worker {

CUevent CommandTimers::take(CUcontext context) {
  {
    const std::lock_guard lock(mutex_);
    std::vector<CUevent>& free = free_[context];
    if (!free.empty()) {
      const CUevent event = free.back();
      free.pop_back();
      return event;
    }
  }
  CUevent event = nullptr;
  driver_.cuEventCreate(&event, CU_EVENT_BLOCKING_SYNC);
  return event;
}

void CommandTimers::put(CUcontext context, std::initializer_list<CUevent> events) {
  const std::lock_guard lock(mutex_);
  for (const CUevent event : events) {
    if (event != nullptr) free_[context].push_back(event);
  }
}

CommandTimers::Started CommandTimers::begin(const StreamKey& key, CUstream stream, bool hold) {
  if (driver_.cuEventElapsedTime_v2 == nullptr || driver_.cuEventCreate == nullptr ||
      driver_.cuEventRecord == nullptr) {
    return {};
  }
  const CUevent event = take(key.first);
  if (event == nullptr) return {};
  const bool held = hold && hold_ != nullptr && hold_->begin(stream);
  if (driver_.cuEventRecord(event, stream) == CUDA_SUCCESS) return {key, event, now_ns(), held};
  if (held) hold_->end();
  put(key.first, {event});
  return {};
}

void CommandTimers::drop(const Started& started, std::uint64_t kind) {
  if (started.held) hold_->end();
  put(started.stream.first, {started.event});
  estimates_.not_timed(kind);
}

bool CommandTimers::end(const Started& started, CUstream stream, std::uint64_t kind) {
  if (started.event == nullptr) return false;
  const std::uint64_t sending_ns = now_ns() - started.at_ns;
  // The software GPU's events add nothing, so there is nothing to be asked.
  const bool reached =
      gap_ns_ != 0 && driver_.cuEventQuery != nullptr && driver_.cuEventQuery(started.event) == CUDA_SUCCESS;
  const auto [context, queue] = started.stream;
  const CUevent end = take(context);
  const bool recorded = end != nullptr && driver_.cuEventRecord(end, stream) == CUDA_SUCCESS;
  if (started.held) hold_->end();
  // That a held stream has been let go too early says nothing about what it had before.
  const bool drained = reached && !started.held;
  if (!recorded) {
    put(context, {started.event, end});
    estimates_.not_timed(kind);
    return drained;
  }
  completions_.after_recorded(
      context, queue, end, [this, started, end, kind, reached, sending_ns](CUresult result) {
        float ms = 0;
        const bool timed = result == CUDA_SUCCESS &&
                           driver_.cuEventElapsedTime_v2(&ms, started.event, end) == CUDA_SUCCESS && ms >= 0;
        const auto between = static_cast<std::uint64_t>(static_cast<double>(ms) * 1e6);
        // Whatever comes of it: others of its kind wait for something to be known.
        estimates_.learn(kind,
                         timed ? own_time_ns(between, gap_ns_, reached, sending_ns) : Estimates::unknown_ns,
                         timed && !reached);
        put(started.stream.first, {started.event, end});
      });
  return drained;
}

}  // namespace vgpu::worker
