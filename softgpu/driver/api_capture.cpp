// cuStream*Capture*: recording a stream's work into a graph.
#include <algorithm>

#include "softgpu/driver/api.hpp"
#include "softgpu/driver/graph.hpp"

using namespace softgpu;

namespace {

struct CaptureInfo {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  cuuint64_t id = 0;
  CUgraph graph = nullptr;
  const CUgraphNode* dependencies = nullptr;
  const CUgraphEdgeData* edges = nullptr;
  std::size_t count = 0;
};

CUresult capture_info(CUstream handle, CaptureInfo& info) {
  return on_stream(handle, [&](Driver& driver, Context&, Stream& stream) -> CUresult {
    if (!stream.capturing.load()) return refuse_implicit(stream);
    const std::unique_lock lock(driver.graph_mutex);
    const std::shared_ptr<Capture> capture = stream.capture;
    if (capture == nullptr) return CUDA_SUCCESS;
    info.id = capture->id;
    if (capture->invalid) {
      info.status = CU_STREAM_CAPTURE_STATUS_INVALIDATED;
      return CUDA_SUCCESS;
    }
    info.status = CU_STREAM_CAPTURE_STATUS_ACTIVE;
    info.graph = capture->graph->handle();
    if (driver.graphs.find(capture->graph.get()) == nullptr) driver.graphs.add(capture->graph);
    capture->reported.clear();
    for (GraphNode* const node : stream.capture_tail) capture->reported.push_back(node->handle());
    capture->reported_edges.assign(capture->reported.size(), {});
    info.dependencies = capture->reported.data();
    info.edges = capture->reported_edges.data();
    info.count = capture->reported.size();
    return CUDA_SUCCESS;
  });
}

CUresult put_info(CUstream stream, CUstreamCaptureStatus* status, cuuint64_t* id, CUgraph* graph,
                  const CUgraphNode** dependencies, const CUgraphEdgeData** edges, std::size_t* count) {
  if (status == nullptr) return CUDA_ERROR_INVALID_VALUE;
  CaptureInfo info;
  if (const CUresult error = capture_info(stream, info); error != CUDA_SUCCESS) return error;
  *status = info.status;
  if (id != nullptr) *id = info.id;
  if (graph != nullptr) *graph = info.graph;
  if (dependencies != nullptr) *dependencies = info.dependencies;
  if (edges != nullptr) *edges = info.edges;
  if (count != nullptr) *count = info.count;
  return CUDA_SUCCESS;
}

bool find_nodes(const CUgraphNode* handles, std::size_t count, const Graph* graph,
                std::vector<GraphNode*>& nodes) {
  for (std::size_t i = 0; i < count; ++i) {
    GraphNode* const node = find_node(handles[i]);
    if (node == nullptr || node->graph != graph) return false;
    nodes.push_back(node);
  }
  return true;
}

}  // namespace

SOFTGPU_API cuStreamBeginCapture_v2(CUstream handle, CUstreamCaptureMode mode) {
  return on_stream(
      handle, [&](Driver&, Context&, Stream& stream) { return begin_capture(stream, mode, nullptr, {}); });
}
SOFTGPU_API cuStreamBeginCapture_v2_ptsz(CUstream stream, CUstreamCaptureMode mode) {
  return cuStreamBeginCapture_v2(per_thread(stream), mode);
}
SOFTGPU_API cuStreamBeginCapture(CUstream stream) {
  return cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL);
}
SOFTGPU_API cuStreamBeginCapture_ptsz(CUstream stream) {
  return cuStreamBeginCapture_v2(per_thread(stream), CU_STREAM_CAPTURE_MODE_GLOBAL);
}

SOFTGPU_API cuStreamBeginCaptureToGraph(CUstream handle, CUgraph graph_handle,
                                        const CUgraphNode* dependencies, const CUgraphEdgeData*,
                                        std::size_t count, CUstreamCaptureMode mode) {
  return on_stream(handle, [&](Driver& driver, Context&, Stream& stream) -> CUresult {
    auto graph = driver.graphs.find(graph_handle);
    if (graph == nullptr) return CUDA_ERROR_INVALID_VALUE;
    std::vector<GraphNode*> after;
    {
      const std::unique_lock lock(driver.graph_mutex);
      if (!find_nodes(dependencies, count, graph.get(), after)) return CUDA_ERROR_INVALID_VALUE;
    }
    return begin_capture(stream, mode, std::move(graph), std::move(after));
  });
}
SOFTGPU_API cuStreamBeginCaptureToGraph_ptsz(CUstream stream, CUgraph graph, const CUgraphNode* dependencies,
                                             const CUgraphEdgeData* edges, std::size_t count,
                                             CUstreamCaptureMode mode) {
  return cuStreamBeginCaptureToGraph(per_thread(stream), graph, dependencies, edges, count, mode);
}

SOFTGPU_API cuStreamEndCapture(CUstream handle, CUgraph* out) {
  return on_stream(handle, [&](Driver&, Context&, Stream& stream) -> CUresult {
    if (out != nullptr) *out = nullptr;
    std::shared_ptr<Graph> graph;
    const CUresult result = end_capture(stream, graph, out != nullptr);
    if (graph != nullptr && out != nullptr) *out = graph->handle();
    return result;
  });
}
SOFTGPU_API cuStreamEndCapture_ptsz(CUstream stream, CUgraph* out) {
  return cuStreamEndCapture(per_thread(stream), out);
}

SOFTGPU_API cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* status) {
  return on_stream(handle, [&](Driver& driver, Context&, Stream& stream) -> CUresult {
    if (status == nullptr) return CUDA_ERROR_INVALID_VALUE;
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    if (!stream.capturing.load(std::memory_order_acquire)) return refuse_implicit(stream);
    const std::unique_lock lock(driver.graph_mutex);
    if (stream.capture == nullptr) return CUDA_SUCCESS;
    *status =
        stream.capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuStreamIsCapturing_ptsz(CUstream stream, CUstreamCaptureStatus* status) {
  return cuStreamIsCapturing(per_thread(stream), status);
}

SOFTGPU_API cuStreamGetCaptureInfo(CUstream stream, CUstreamCaptureStatus* status, cuuint64_t* id) {
  return put_info(stream, status, id, nullptr, nullptr, nullptr, nullptr);
}
SOFTGPU_API cuStreamGetCaptureInfo_ptsz(CUstream stream, CUstreamCaptureStatus* status, cuuint64_t* id) {
  return put_info(per_thread(stream), status, id, nullptr, nullptr, nullptr, nullptr);
}
SOFTGPU_API cuStreamGetCaptureInfo_v2(CUstream stream, CUstreamCaptureStatus* status, cuuint64_t* id,
                                      CUgraph* graph, const CUgraphNode** dependencies, std::size_t* count) {
  return put_info(stream, status, id, graph, dependencies, nullptr, count);
}
SOFTGPU_API cuStreamGetCaptureInfo_v2_ptsz(CUstream stream, CUstreamCaptureStatus* status, cuuint64_t* id,
                                           CUgraph* graph, const CUgraphNode** dependencies,
                                           std::size_t* count) {
  return put_info(per_thread(stream), status, id, graph, dependencies, nullptr, count);
}
SOFTGPU_API cuStreamGetCaptureInfo_v3(CUstream stream, CUstreamCaptureStatus* status, cuuint64_t* id,
                                      CUgraph* graph, const CUgraphNode** dependencies,
                                      const CUgraphEdgeData** edges, std::size_t* count) {
  return put_info(stream, status, id, graph, dependencies, edges, count);
}
SOFTGPU_API cuStreamGetCaptureInfo_v3_ptsz(CUstream stream, CUstreamCaptureStatus* status, cuuint64_t* id,
                                           CUgraph* graph, const CUgraphNode** dependencies,
                                           const CUgraphEdgeData** edges, std::size_t* count) {
  return put_info(per_thread(stream), status, id, graph, dependencies, edges, count);
}

SOFTGPU_API cuStreamUpdateCaptureDependencies(CUstream handle, CUgraphNode* dependencies, std::size_t count,
                                              unsigned flags) {
  return on_stream(handle, [&](Driver& driver, Context&, Stream& stream) -> CUresult {
    if (flags > CU_STREAM_SET_CAPTURE_DEPENDENCIES || (count != 0 && dependencies == nullptr)) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    const std::unique_lock lock(driver.graph_mutex);
    if (stream.capture == nullptr) return CUDA_ERROR_ILLEGAL_STATE;
    if (stream.capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    std::vector<GraphNode*> nodes;
    if (!find_nodes(dependencies, count, stream.capture->graph.get(), nodes)) return CUDA_ERROR_INVALID_VALUE;
    if (flags == CU_STREAM_SET_CAPTURE_DEPENDENCIES) stream.capture_tail.clear();
    for (GraphNode* const node : nodes) {
      auto& tail = stream.capture_tail;
      if (std::find(tail.begin(), tail.end(), node) == tail.end()) tail.push_back(node);
    }
    return CUDA_SUCCESS;
  });
}
SOFTGPU_API cuStreamUpdateCaptureDependencies_ptsz(CUstream stream, CUgraphNode* dependencies,
                                                   std::size_t count, unsigned flags) {
  return cuStreamUpdateCaptureDependencies(per_thread(stream), dependencies, count, flags);
}
SOFTGPU_API cuStreamUpdateCaptureDependencies_v2(CUstream stream, CUgraphNode* dependencies,
                                                 const CUgraphEdgeData*, std::size_t count, unsigned flags) {
  return cuStreamUpdateCaptureDependencies(stream, dependencies, count, flags);
}
SOFTGPU_API cuStreamUpdateCaptureDependencies_v2_ptsz(CUstream stream, CUgraphNode* dependencies,
                                                      const CUgraphEdgeData*, std::size_t count,
                                                      unsigned flags) {
  return cuStreamUpdateCaptureDependencies(per_thread(stream), dependencies, count, flags);
}

SOFTGPU_API cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
  return with_driver([&](Driver&) -> CUresult {
    if (mode == nullptr || *mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
    *mode = exchange_capture_mode(*mode);
    return CUDA_SUCCESS;
  });
}
