// Stream capture. The worker's driver captures, always in relaxed mode, since its one thread serves all
// threads of this process; which calls a capture forbids which thread is decided here. Source: CUDA Driver
// API, cuStreamBeginCapture and cuThreadExchangeStreamCaptureMode.
#include <algorithm>

#include "libclient/cuda/graph_calls.hpp"
#include "libclient/cuda/node_list.hpp"
#include "libclient/cuda/stub_runtime.hpp"
#include "vgpu/records.hpp"

namespace vgpu::client {

CUresult Call::capture_forbids() const {
  if (thread_->capture_mode == CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_SUCCESS;
  CUresult result = CUDA_SUCCESS;
  std::vector<std::uint64_t> spoilt;
  {
    const std::lock_guard lock(process_->captures_mutex);
    for (Process::Capture& capture : process_->open_captures) {
      const bool own = capture.thread == thread_ && capture.mode != CU_STREAM_CAPTURE_MODE_RELAXED;
      const bool global = capture.mode == CU_STREAM_CAPTURE_MODE_GLOBAL &&
                          thread_->capture_mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
      if (!own && !global) continue;
      if (!capture.invalidated) spoilt.push_back(capture.stream);
      capture.invalidated = true;
      result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
  }
  // The driver took nothing amiss. What it forbids in every mode makes the capture invalid there too, in all
  // the streams that take part. Source: CUDA Programming Guide, CUDA Graphs, "Prohibited and Unhandled
  // Operations".
  for (const std::uint64_t stream : spoilt) {
    record::cuStreamQuery query;
    query.hStream = stream;
    prepare(query.header);
    static_cast<void>(connection().ask(*thread_, bytes_of(query), {}, [](std::uint64_t) {}));
  }
  return result;
}

void forget_capture(Process& process, std::uint64_t stream) {
  if (process.captures.load(std::memory_order_relaxed) == 0) return;
  const std::lock_guard lock(process.captures_mutex);
  std::erase_if(process.open_captures, [=](const auto& capture) { return capture.stream == stream; });
  process.captures = static_cast<std::uint32_t>(process.open_captures.size());
}

namespace {

bool known_mode(CUstreamCaptureMode mode) {
  return mode == CU_STREAM_CAPTURE_MODE_GLOBAL || mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL ||
         mode == CU_STREAM_CAPTURE_MODE_RELAXED;
}

// Notes a capture that this thread has begun.
void opened(Call& call, std::uint64_t stream, CUstreamCaptureMode mode) {
  Process& process = call.process();
  const std::lock_guard lock(process.captures_mutex);
  process.open_captures.push_back({stream, mode, &call.thread(), false});
  process.captures = static_cast<std::uint32_t>(process.open_captures.size());
}

CUresult begin_capture(CUstream stream, CUstreamCaptureMode mode, bool per_thread) {
  if (!known_mode(mode)) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  record::cuStreamBeginCapture_v2 record;
  record.stream = call.stream(stream, per_thread);
  record.mode = static_cast<std::int32_t>(mode);
  if (const CUresult result = call.ask(record); result != CUDA_SUCCESS) return result;
  opened(call, record.stream, mode);
  return CUDA_SUCCESS;
}

CUresult begin_capture_to_graph(CUstream stream, CUgraph graph, const CUgraphNode* dependencies,
                                const CUgraphEdgeData* edges, std::size_t count, CUstreamCaptureMode mode,
                                bool per_thread) {
  if (!known_mode(mode) || (dependencies == nullptr && count != 0) || count > kMostDependencies / 2)
    return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  if (const CUresult result = check_graph(call, graph); result != CUDA_SUCCESS) return result;
  record::cuStreamBeginCaptureToGraph record;
  record.stream = call.stream(stream, per_thread);
  record.graph = bits(graph);
  record.dependency_count = static_cast<std::uint32_t>(count);
  record.edges = edges != nullptr ? 1 : 0;
  std::vector<std::byte> tail;
  append(tail, dependencies, count);
  if (edges != nullptr) append(tail, edges, count);
  if (const CUresult result = call.ask(record, tail); result != CUDA_SUCCESS) return result;
  opened(call, record.stream, mode);
  return CUDA_SUCCESS;
}

CUresult destroy_fresh(Call& call, std::uint64_t graph, CUresult why) {
  call.forget(graph);
  record::cuGraphDestroy destroy;
  destroy.graph = graph;
  static_cast<void>(call.post(destroy));
  return why;
}

// `out` may be null where the capture was into a graph that the program has.
CUresult end_capture(CUstream stream, CUgraph* out, bool per_thread) {
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  Process& process = call.process();
  record::cuStreamEndCapture record;
  record.stream = call.stream(stream, per_thread);
  if (call.problem() != CUDA_SUCCESS) return call.problem();
  bool invalidated = false;
  {
    const std::lock_guard lock(process.captures_mutex);
    const auto found =
        std::find_if(process.open_captures.begin(), process.open_captures.end(),
                     [&](const Process::Capture& capture) { return capture.stream == record.stream; });
    // What is wrong with a stream in which none was begun the driver says: it may take part in one.
    if (found != process.open_captures.end()) {
      if (found->mode != CU_STREAM_CAPTURE_MODE_RELAXED && found->thread != &call.thread()) {
        return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
      }
      invalidated = found->invalidated;
      process.open_captures.erase(found);
      process.captures = static_cast<std::uint32_t>(process.open_captures.size());
    }
  }
  record.fresh_graph = call.mint(HandleKind::graph);
  reply::cuStreamEndCapture reply;
  if (out != nullptr) *out = nullptr;
  const CUresult result = call.ask(record, reply);
  const bool fresh = reply.graph == record.fresh_graph;
  if (!fresh) call.forget(record.fresh_graph);
  if (result != CUDA_SUCCESS) return result;
  const CUresult verdict = invalidated               ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
                           : fresh && out == nullptr ? CUDA_ERROR_INVALID_VALUE
                                                     : CUDA_SUCCESS;
  if (verdict != CUDA_SUCCESS) return fresh ? destroy_fresh(call, record.fresh_graph, verdict) : verdict;
  if (out != nullptr) *out = from_bits<CUgraph>(reply.graph);
  return CUDA_SUCCESS;
}

CUresult is_capturing(CUstream stream, CUstreamCaptureStatus* status, bool per_thread) {
  if (status == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  if (call.process().captures.load(std::memory_order_relaxed) == 0) {
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    const std::uint64_t value = bits(stream);
    const bool known = value <= 2 || call.process().streams.find(value) != nullptr;
    return known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
  }
  record::cuStreamIsCapturing record;
  record.stream = call.stream(stream, per_thread);
  reply::cuStreamIsCapturing reply;
  if (const CUresult result = call.ask(record, reply); result != CUDA_SUCCESS) return result;
  *status = static_cast<CUstreamCaptureStatus>(reply.status);
  return CUDA_SUCCESS;
}

struct InfoTargets {
  CUstreamCaptureStatus* status = nullptr;
  cuuint64_t* id = nullptr;
  CUgraph* graph = nullptr;
  const CUgraphNode** dependencies = nullptr;
  const CUgraphEdgeData** edges = nullptr;
  std::size_t* count = nullptr;
};

CUresult capture_info(CUstream stream, const InfoTargets& out, bool per_thread) {
  if (out.status == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  if (call.process().captures.load(std::memory_order_relaxed) == 0)
    return is_capturing(stream, out.status, per_thread);
  record::cuStreamGetCaptureInfo_v3 record;
  record.stream = call.stream(stream, per_thread);
  record.fresh_graph = call.mint(HandleKind::graph);
  reply::cuStreamGetCaptureInfo_v3 reply;
  constexpr std::size_t kMostListed = 1024;
  // The list stays valid until the thread's next call of this kind.
  static thread_local std::vector<std::uint64_t> nodes;
  static thread_local std::vector<CUgraphEdgeData> edges;
  const bool wanted = out.dependencies != nullptr;
  EdgeBlock block;
  if (out.edges != nullptr && !block.lease(call, kMostListed, record.edges))
    return CUDA_ERROR_DEVICE_UNAVAILABLE;
  const CUresult result = ask_nodes(call, record, reply, wanted ? kMostListed : 0, nodes);
  const bool active = result == CUDA_SUCCESS && reply.status == CU_STREAM_CAPTURE_STATUS_ACTIVE;
  // A graph that the caller does not want to know is named all the same: its nodes need it.
  if (!active || reply.graph != record.fresh_graph) call.forget(record.fresh_graph);
  if (result != CUDA_SUCCESS) return result;
  if (active) {
    for (const std::uint64_t node : nodes) adopt_node(call, reply.graph, node);
  }
  *out.status = static_cast<CUstreamCaptureStatus>(reply.status);
  if (reply.status != CU_STREAM_CAPTURE_STATUS_ACTIVE) return CUDA_SUCCESS;
  if (out.id != nullptr) *out.id = reply.id;
  if (out.graph != nullptr) *out.graph = from_bits<CUgraph>(reply.graph);
  if (wanted) *out.dependencies = reinterpret_cast<const CUgraphNode*>(nodes.data());
  if (out.edges != nullptr) {
    edges.resize(nodes.size());
    block.read(edges.data(), edges.size());
    *out.edges = edges.data();
  }
  if (out.count != nullptr) *out.count = reply.node_count;
  return CUDA_SUCCESS;
}

CUresult update_dependencies(CUstream stream, const CUgraphNode* nodes, const CUgraphEdgeData* edges,
                             std::size_t count, unsigned flags, bool per_thread) {
  if ((nodes == nullptr && count != 0) || count > kMostDependencies / 2) return CUDA_ERROR_INVALID_VALUE;
  Call call;
  if (const CUresult result = call.enter(); result != CUDA_SUCCESS) return result;
  record::cuStreamUpdateCaptureDependencies_v2 record;
  record.stream = call.stream(stream, per_thread);
  record.flags = flags;
  record.dependency_count = static_cast<std::uint32_t>(count);
  record.edges = edges != nullptr ? 1 : 0;
  std::vector<std::byte> tail;
  append(tail, nodes, count);
  if (edges != nullptr) append(tail, edges, count);
  return call.ask(record, tail);
}

}  // namespace
}  // namespace vgpu::client

using namespace vgpu::client;

VGPU_EXPORT CUresult cuStreamBeginCapture(CUstream hStream) {
  return begin_capture(hStream, CU_STREAM_CAPTURE_MODE_GLOBAL, false);
}
VGPU_EXPORT CUresult cuStreamBeginCapture_ptsz(CUstream hStream) {
  return begin_capture(hStream, CU_STREAM_CAPTURE_MODE_GLOBAL, true);
}
VGPU_EXPORT CUresult cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode) {
  return begin_capture(hStream, mode, false);
}
VGPU_EXPORT CUresult cuStreamBeginCapture_v2_ptsz(CUstream hStream, CUstreamCaptureMode mode) {
  return begin_capture(hStream, mode, true);
}
VGPU_EXPORT CUresult cuStreamBeginCaptureToGraph(CUstream hStream, CUgraph hGraph,
                                                 const CUgraphNode* dependencies,
                                                 const CUgraphEdgeData* dependencyData,
                                                 size_t numDependencies, CUstreamCaptureMode mode) {
  return begin_capture_to_graph(hStream, hGraph, dependencies, dependencyData, numDependencies, mode, false);
}
VGPU_EXPORT CUresult cuStreamBeginCaptureToGraph_ptsz(CUstream hStream, CUgraph hGraph,
                                                      const CUgraphNode* dependencies,
                                                      const CUgraphEdgeData* dependencyData,
                                                      size_t numDependencies, CUstreamCaptureMode mode) {
  return begin_capture_to_graph(hStream, hGraph, dependencies, dependencyData, numDependencies, mode, true);
}
VGPU_EXPORT CUresult cuStreamEndCapture(CUstream hStream, CUgraph* phGraph) {
  return end_capture(hStream, phGraph, false);
}
VGPU_EXPORT CUresult cuStreamEndCapture_ptsz(CUstream hStream, CUgraph* phGraph) {
  return end_capture(hStream, phGraph, true);
}
VGPU_EXPORT CUresult cuStreamIsCapturing(CUstream hStream, CUstreamCaptureStatus* captureStatus) {
  return is_capturing(hStream, captureStatus, false);
}
VGPU_EXPORT CUresult cuStreamIsCapturing_ptsz(CUstream hStream, CUstreamCaptureStatus* captureStatus) {
  return is_capturing(hStream, captureStatus, true);
}
VGPU_EXPORT CUresult cuStreamGetCaptureInfo(CUstream hStream, CUstreamCaptureStatus* status, cuuint64_t* id) {
  return capture_info(hStream, {status, id, nullptr, nullptr, nullptr, nullptr}, false);
}
VGPU_EXPORT CUresult cuStreamGetCaptureInfo_ptsz(CUstream hStream, CUstreamCaptureStatus* status,
                                                 cuuint64_t* id) {
  return capture_info(hStream, {status, id, nullptr, nullptr, nullptr, nullptr}, true);
}
VGPU_EXPORT CUresult cuStreamGetCaptureInfo_v2(CUstream hStream, CUstreamCaptureStatus* status,
                                               cuuint64_t* id, CUgraph* graph,
                                               const CUgraphNode** dependencies, size_t* count) {
  return capture_info(hStream, {status, id, graph, dependencies, nullptr, count}, false);
}
VGPU_EXPORT CUresult cuStreamGetCaptureInfo_v2_ptsz(CUstream hStream, CUstreamCaptureStatus* status,
                                                    cuuint64_t* id, CUgraph* graph,
                                                    const CUgraphNode** dependencies, size_t* count) {
  return capture_info(hStream, {status, id, graph, dependencies, nullptr, count}, true);
}
VGPU_EXPORT CUresult cuStreamGetCaptureInfo_v3(CUstream hStream, CUstreamCaptureStatus* status,
                                               cuuint64_t* id, CUgraph* graph,
                                               const CUgraphNode** dependencies,
                                               const CUgraphEdgeData** edges, size_t* count) {
  return capture_info(hStream, {status, id, graph, dependencies, edges, count}, false);
}
VGPU_EXPORT CUresult cuStreamGetCaptureInfo_v3_ptsz(CUstream hStream, CUstreamCaptureStatus* status,
                                                    cuuint64_t* id, CUgraph* graph,
                                                    const CUgraphNode** dependencies,
                                                    const CUgraphEdgeData** edges, size_t* count) {
  return capture_info(hStream, {status, id, graph, dependencies, edges, count}, true);
}
VGPU_EXPORT CUresult cuStreamUpdateCaptureDependencies(CUstream hStream, CUgraphNode* dependencies,
                                                       size_t count, unsigned int flags) {
  return update_dependencies(hStream, dependencies, nullptr, count, flags, false);
}
VGPU_EXPORT CUresult cuStreamUpdateCaptureDependencies_ptsz(CUstream hStream, CUgraphNode* dependencies,
                                                            size_t count, unsigned int flags) {
  return update_dependencies(hStream, dependencies, nullptr, count, flags, true);
}
VGPU_EXPORT CUresult cuStreamUpdateCaptureDependencies_v2(CUstream hStream, CUgraphNode* dependencies,
                                                          const CUgraphEdgeData* edges, size_t count,
                                                          unsigned int flags) {
  return update_dependencies(hStream, dependencies, edges, count, flags, false);
}
VGPU_EXPORT CUresult cuStreamUpdateCaptureDependencies_v2_ptsz(CUstream hStream, CUgraphNode* dependencies,
                                                               const CUgraphEdgeData* edges, size_t count,
                                                               unsigned int flags) {
  return update_dependencies(hStream, dependencies, edges, count, flags, true);
}

VGPU_EXPORT CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
  if (mode == nullptr || *mode < CU_STREAM_CAPTURE_MODE_GLOBAL || *mode > CU_STREAM_CAPTURE_MODE_RELAXED) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (process() == nullptr) return CUDA_ERROR_NOT_INITIALIZED;
  std::swap(this_thread().capture_mode, *mode);
  return CUDA_SUCCESS;
}
