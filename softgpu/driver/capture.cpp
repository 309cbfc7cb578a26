// Stream capture: which streams take part, what joins them, and what ends or spoils it.
#include <algorithm>
#include <unordered_set>

#include "softgpu/driver/driver.hpp"
#include "softgpu/driver/graph.hpp"

namespace softgpu {
namespace {

std::atomic<unsigned> captures_active{0};
std::atomic<std::uint64_t> last_capture_id{0};

// Captures in progress, under the graph mutex.
std::vector<std::shared_ptr<Capture>>& captures() {
  static auto* const list = new std::vector<std::shared_ptr<Capture>>;
  return *list;
}

CUstreamCaptureMode& thread_mode() {
  thread_local CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  return mode;
}

void join(const std::shared_ptr<Capture>& capture, Stream& stream, std::vector<GraphNode*> tail) {
  stream.capture = capture;
  stream.capture_tail = std::move(tail);
  // The default streams are kept alive by their context and thread; created ones by the table.
  std::shared_ptr<Stream> keep = Driver::get().streams.find(&stream);
  if (keep == nullptr) keep = std::shared_ptr<Stream>(std::shared_ptr<Stream>(), &stream);
  capture->members.push_back(std::move(keep));
  stream.capturing.store(true, std::memory_order_release);
}

void finish(Capture& capture) {
  capture.ended = true;
  for (const auto& stream : capture.members) {
    stream->capturing.store(false, std::memory_order_release);
    stream->capture_tail.clear();
    stream->capture = nullptr;
  }
  capture.members.clear();
  capture.graph = nullptr;
  std::erase_if(captures(), [&](const auto& own) { return own.get() == &capture; });
  captures_active.fetch_sub(1);
}

// True when all that the other streams did leads into what the origin did last.
bool all_joined(const Capture& capture) {
  std::unordered_set<const GraphNode*> reached(capture.origin->capture_tail.begin(),
                                               capture.origin->capture_tail.end());
  std::vector<const GraphNode*> open(reached.begin(), reached.end());
  while (!open.empty()) {
    const GraphNode* const node = open.back();
    open.pop_back();
    for (const GraphNode* const earlier : node->before) {
      if (reached.insert(earlier).second) open.push_back(earlier);
    }
  }
  return std::all_of(capture.members.begin(), capture.members.end(), [&](const auto& stream) {
    return std::all_of(stream->capture_tail.begin(), stream->capture_tail.end(),
                       [&](const GraphNode* node) { return reached.contains(node); });
  });
}

}  // namespace

CUresult begin_capture(Stream& stream, CUstreamCaptureMode mode, std::shared_ptr<Graph> graph,
                       std::vector<GraphNode*> after) {
  if (mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
  if (stream.kind == Stream::Kind::legacy) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  const std::unique_lock lock(Driver::get().graph_mutex);
  if (stream.capture != nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  auto capture = std::make_shared<Capture>();
  capture->id = ++last_capture_id;
  capture->graph_is_callers = graph != nullptr;
  capture->graph = graph != nullptr ? std::move(graph) : std::make_shared<Graph>();
  capture->mode = mode;
  capture->thread = std::this_thread::get_id();
  capture->origin = &stream;
  captures().push_back(capture);
  captures_active.fetch_add(1);
  join(capture, stream, std::move(after));
  return CUDA_SUCCESS;
}

CUresult end_capture(Stream& stream, std::shared_ptr<Graph>& graph, bool wanted) {
  const std::unique_lock lock(Driver::get().graph_mutex);
  const std::shared_ptr<Capture> capture = stream.capture;
  if (capture == nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  if (capture->origin != &stream) {
    capture->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
  }
  if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && capture->thread != std::this_thread::get_id()) {
    return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  }
  CUresult result = CUDA_SUCCESS;
  if (!capture->graph_is_callers)
    Driver::get().graphs.remove(capture->graph.get());  // if it was asked about meanwhile
  if (capture->invalid) {
    result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  } else if (!all_joined(*capture)) {
    result = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
  } else if (!wanted && !capture->graph_is_callers) {
    result = CUDA_ERROR_INVALID_VALUE;
  } else {
    graph = capture->graph;
    if (!capture->graph_is_callers) Driver::get().graphs.add(graph);
  }
  finish(*capture);
  return result;
}

namespace {

// Call with the graph mutex.
void abandon(Capture& capture) {
  capture.invalid = true;
  if (!capture.graph_is_callers)
    Driver::get().graphs.remove(capture.graph.get());  // if it was asked about meanwhile
  finish(capture);
}

}  // namespace

void abandon_capture(Stream& stream) {
  if (!stream.capturing.load(std::memory_order_acquire)) return;
  const std::unique_lock lock(Driver::get().graph_mutex);
  const std::shared_ptr<Capture> capture = stream.capture;
  if (capture == nullptr) return;
  capture->invalid = true;
  if (capture->origin == &stream) abandon(*capture);
}

void abandon_captures(const Context& context) {
  if (captures_active.load(std::memory_order_acquire) == 0) return;
  const std::unique_lock lock(Driver::get().graph_mutex);
  const std::vector<std::shared_ptr<Capture>> open = captures();
  for (const auto& capture : open) {
    const bool concerned = std::any_of(capture->members.begin(), capture->members.end(),
                                       [&](const auto& member) { return &member->context == &context; });
    if (concerned) abandon(*capture);
  }
}

CUresult capture_work(Stream& stream, Work work, GraphNode** added) {
  const std::unique_lock lock(Driver::get().graph_mutex);
  if (stream.capture == nullptr) return CUDA_ERROR_ILLEGAL_STATE;
  if (stream.capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  GraphNode* const node = stream.capture->graph->add(std::move(work), stream.capture_tail);
  stream.capture_tail = {node};
  if (added != nullptr) *added = node;
  return CUDA_SUCCESS;
}

CUresult refuse_in_capture() {
  if (captures_active.load(std::memory_order_acquire) == 0) return CUDA_SUCCESS;
  const CUstreamCaptureMode mine = thread_mode();
  if (mine == CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_SUCCESS;
  const std::unique_lock lock(Driver::get().graph_mutex);
  bool refused = false;
  for (const auto& capture : captures()) {
    const bool own = capture->thread == std::this_thread::get_id();
    const bool counts =
        own ? capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED
            : capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL && mine == CU_STREAM_CAPTURE_MODE_GLOBAL;
    if (!counts) continue;
    capture->invalid = true;
    refused = true;
  }
  return refused ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}

CUresult refuse_capturing(Stream& stream) {
  if (captures_active.load(std::memory_order_acquire) == 0) return CUDA_SUCCESS;
  {
    const std::unique_lock lock(Driver::get().graph_mutex);
    if (stream.capture != nullptr) {
      const bool was_invalid = stream.capture->invalid;
      stream.capture->invalid = true;
      return was_invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
  }
  return refuse_implicit(stream);
}

CUresult refuse_implicit(Stream& stream) {
  if (stream.kind != Stream::Kind::legacy || captures_active.load(std::memory_order_acquire) == 0) {
    return CUDA_SUCCESS;
  }
  const std::unique_lock lock(Driver::get().graph_mutex);
  for (const auto& capture : captures()) {
    for (const auto& member : capture->members) {
      if (&member->context != &stream.context || !member->blocking()) continue;
      capture->invalid = true;
      return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    }
  }
  return CUDA_SUCCESS;
}

CUresult enqueue(Stream& stream, Work work, OperationRef* operation) {
  if (stream.capturing.load(std::memory_order_acquire)) return capture_work(stream, std::move(work));
  if (const CUresult error = refuse_implicit(stream); error != CUDA_SUCCESS) return error;
  OperationRef submitted = stream.context.submit(stream, std::move(work));
  if (operation != nullptr) *operation = std::move(submitted);
  return CUDA_SUCCESS;
}

bool capture_event_record(Stream& stream, const std::shared_ptr<Event>& event, bool external,
                          CUresult& result) {
  if (!stream.capturing.load(std::memory_order_acquire)) {
    const std::unique_lock lock(Driver::get().graph_mutex);
    event->capture = nullptr;
    event->capture_point.clear();
    return false;
  }
  if (external) {
    result = capture_work(stream, EventRecordWork{event});
    return true;
  }
  const std::unique_lock lock(Driver::get().graph_mutex);
  if (stream.capture == nullptr) return false;
  result = stream.capture->invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
  event->capture = stream.capture;
  event->capture_point = stream.capture_tail;
  return true;
}

bool capture_event_wait(Stream& stream, const std::shared_ptr<Event>& event, bool external,
                        CUresult& result) {
  if (captures_active.load(std::memory_order_acquire) == 0) return false;
  if (external && stream.capturing.load(std::memory_order_acquire)) {
    result = capture_work(stream, EventWaitWork{event});
    return true;
  }
  const std::unique_lock lock(Driver::get().graph_mutex);
  const std::shared_ptr<Capture> capture = event->capture;
  if (capture == nullptr || capture->ended) {
    if (stream.capture == nullptr) return false;
    stream.capture->invalid = true;
    result = CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    return true;
  }
  if (capture->invalid) {
    result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  } else if (stream.capture == nullptr) {
    result = CUDA_SUCCESS;
    if (stream.kind == Stream::Kind::legacy) {
      capture->invalid = true;
      result = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    } else {
      join(capture, stream, event->capture_point);
    }
  } else if (stream.capture != capture) {
    capture->invalid = true;
    stream.capture->invalid = true;
    result = CUDA_ERROR_STREAM_CAPTURE_MERGE;
  } else {
    for (GraphNode* const node : event->capture_point) {
      auto& tail = stream.capture_tail;
      if (std::find(tail.begin(), tail.end(), node) == tail.end()) tail.push_back(node);
    }
    result = CUDA_SUCCESS;
  }
  return true;
}

CUresult refuse_captured(const Event& event) {
  const std::unique_lock lock(Driver::get().graph_mutex);
  if (event.capture == nullptr) return CUDA_SUCCESS;
  if (!event.capture->ended) event.capture->invalid = true;
  return CUDA_ERROR_CAPTURED_EVENT;
}

CUstreamCaptureMode exchange_capture_mode(CUstreamCaptureMode mode) {
  return std::exchange(thread_mode(), mode);
}

}  // namespace softgpu
