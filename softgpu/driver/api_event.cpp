// cuEvent*: points in streams, their times, and waiting for them.
#include <chrono>
#include <thread>

#include "softgpu/driver/api.hpp"
#include "softgpu/driver/graph.hpp"
#include "softgpu/driver/shared_event.hpp"

using namespace softgpu;

namespace {

template <class Body>
CUresult on_event(CUevent handle, Body&& body) noexcept {
  return in_context([&](Driver& driver, Context&) -> CUresult {
    const std::shared_ptr<Event> event = driver.events.find(handle);
    if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    return body(driver, event);
  });
}

// The last record of an interprocess event, by whichever process: waits for it, or until the context is of no
// more use.
void wait_for_shared(const Event& event) {
  constexpr auto longest = std::chrono::microseconds(500);
  const std::uint64_t number = event.shared->recorded();
  std::chrono::microseconds pause(10);
  while (!event.shared->passed(number) && event.context.error() == CUDA_SUCCESS) {
    std::this_thread::sleep_for(pause);
    pause = std::min<std::chrono::microseconds>(pause * 2, longest);
  }
}

OperationRef point_of(Driver& driver, const Event& event) {
  const std::unique_lock lock(driver.scheduler.mutex());
  return event.point;
}

}  // namespace

SOFTGPU_API cuEventCreate(CUevent* out, unsigned flags) {
  return in_context([&](Driver& driver, Context& context) -> CUresult {
    constexpr unsigned known = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
    if (out == nullptr || (flags & ~known) != 0) return CUDA_ERROR_INVALID_VALUE;
    auto event = std::make_shared<Event>(context, flags);
    if ((flags & CU_EVENT_INTERPROCESS) != 0) {
      if ((flags & CU_EVENT_DISABLE_TIMING) == 0) return CUDA_ERROR_INVALID_VALUE;
      event->shared = SharedEvent::create();
      if (event->shared == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *out = reinterpret_cast<CUevent>(driver.events.add(std::move(event)));
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuEventDestroy_v2(CUevent handle) {
  return with_driver([&](Driver& driver) -> CUresult {
    return driver.events.remove(handle) != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
  });
}

SOFTGPU_API cuEventRecordWithFlags(CUevent handle, CUstream stream_handle, unsigned flags) {
  return on_stream(stream_handle, [&](Driver& driver, Context& context, Stream& stream) -> CUresult {
    const std::shared_ptr<Event> event = driver.events.find(handle);
    if (event == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if ((flags & ~unsigned{CU_EVENT_RECORD_EXTERNAL}) != 0) return CUDA_ERROR_INVALID_VALUE;
    if (&event->context != &context) return CUDA_ERROR_INVALID_HANDLE;
    if (event->shared != nullptr && stream.capturing.load(std::memory_order_acquire))
      return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    CUresult result = CUDA_SUCCESS;
    if (capture_event_record(stream, event, (flags & CU_EVENT_RECORD_EXTERNAL) != 0, result)) return result;
    if (const CUresult error = refuse_implicit(stream); error != CUDA_SUCCESS) return error;
    const std::unique_lock lock(driver.scheduler.mutex());
    OperationRef point;
    if (event->shared != nullptr) {
      point = std::make_shared<Operation>(Lane::device, &stream,
                                          [shared = event->shared, number = event->shared->begin()] {
                                            shared->finish(number);
                                            return true;
                                          });
    } else {
      point = std::make_shared<Operation>(Lane::none, &stream, nullptr);
    }
    context.submit_locked(stream, point);
    event->point = std::move(point);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuEventRecordWithFlags_ptsz(CUevent event, CUstream stream, unsigned flags) {
  return cuEventRecordWithFlags(event, per_thread(stream), flags);
}
SOFTGPU_API cuEventRecord(CUevent event, CUstream stream) {
  return cuEventRecordWithFlags(event, stream, 0);
}
SOFTGPU_API cuEventRecord_ptsz(CUevent event, CUstream stream) {
  return cuEventRecordWithFlags(event, per_thread(stream), 0);
}

SOFTGPU_API cuEventQuery(CUevent handle) {
  return on_event(handle, [&](Driver& driver, const std::shared_ptr<Event>& event) -> CUresult {
    if (const CUresult error = refuse_captured(*event); error != CUDA_SUCCESS) return error;
    if (event->shared != nullptr) {
      if (!event->shared->passed(event->shared->recorded())) return CUDA_ERROR_NOT_READY;
    } else if (const OperationRef point = point_of(driver, *event); point != nullptr && !point->done()) {
      return CUDA_ERROR_NOT_READY;
    }
    flush_printf();
    return event->context.error();
  });
}

SOFTGPU_API cuEventSynchronize(CUevent handle) {
  return on_event(handle, [&](Driver& driver, const std::shared_ptr<Event>& event) -> CUresult {
    if (const CUresult error = refuse_captured(*event); error != CUDA_SUCCESS) return error;
    if (event->shared != nullptr) {
      wait_for_shared(*event);
    } else {
      driver.scheduler.wait(point_of(driver, *event));
    }
    flush_printf();
    return event->context.error();
  });
}

SOFTGPU_API cuEventElapsedTime_v2(float* milliseconds, CUevent start_handle, CUevent end_handle) {
  return in_context([&](Driver& driver, Context&) -> CUresult {
    const auto start = driver.events.find(start_handle);
    const auto end = driver.events.find(end_handle);
    if (start == nullptr || end == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (milliseconds == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (start->context.device != end->context.device) return CUDA_ERROR_INVALID_HANDLE;
    if (((start->flags | end->flags) & CU_EVENT_DISABLE_TIMING) != 0) return CUDA_ERROR_INVALID_HANDLE;
    for (const auto& event : {start, end}) {
      if (const CUresult error = refuse_captured(*event); error != CUDA_SUCCESS) return error;
    }
    const OperationRef from = point_of(driver, *start);
    const OperationRef to = point_of(driver, *end);
    if (from == nullptr || to == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    if (!from->done() || !to->done()) return CUDA_ERROR_NOT_READY;
    constexpr double ns_per_ms = 1e6;
    const auto difference = static_cast<std::int64_t>(to->ended_ns() - from->ended_ns());
    *milliseconds = static_cast<float>(static_cast<double>(difference) / ns_per_ms);
    return CUDA_SUCCESS;
  });
}

SOFTGPU_API cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  return cuEventElapsedTime_v2(milliseconds, start, end);
}
