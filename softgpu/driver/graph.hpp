// Graphs: nodes and edges as programs build or capture them, executables made of them, and captures in
// progress. All of it is guarded by Driver::graph_mutex; only an executable's launch leaves it.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <map>
#include <memory>
#include <thread>
#include <unordered_map>
#include <vector>

#include "softgpu/driver/context.hpp"
#include "softgpu/driver/graph_memory.hpp"
#include "softgpu/driver/work.hpp"

namespace softgpu {

struct Driver;

struct GraphNode {
  Graph* graph = nullptr;
  std::shared_ptr<const Work> work;
  std::vector<GraphNode*> before, after;
  const GraphNode* cloned_from = nullptr;
  std::map<int, CUlaunchAttributeValue> attributes;  ///< of a kernel node, as set
  // What cuGraphKernelNodeGetParams points into; made when asked for.
  std::vector<void*> params_view;

  ~GraphNode();

  CUgraphNode handle() { return reinterpret_cast<CUgraphNode>(this); }
};

/// Runs its destructor callback when the last reference is dropped (cuUserObjectCreate).
struct UserObject {
  void* pointer = nullptr;
  CUhostFn destroy = nullptr;
  std::atomic<long> references{0};
};
void drop_references(Driver& driver, UserObject& object, long count);

struct GraphExec;

struct Graph {
  std::vector<std::unique_ptr<GraphNode>> nodes;
  std::shared_ptr<GraphMemory> memory = std::make_shared<GraphMemory>();
  std::map<UserObject*, long> user_objects;
  const Graph* cloned_from = nullptr;
  std::weak_ptr<GraphExec> instance;  ///< the only one, where the graph has memory nodes
  bool owned_by_node = false;         ///< a child graph's: not destroyed by cuGraphDestroy

  Graph() = default;
  ~Graph();
  CUgraph handle() { return reinterpret_cast<CUgraph>(this); }

  /// A new node after `before`, without duplicates.
  GraphNode* add(Work work, const std::vector<GraphNode*>& before);
  void remove(GraphNode* node);
  /// False when the edge exists already.
  bool connect(GraphNode* from, GraphNode* to);
  bool disconnect(GraphNode* from, GraphNode* to);
  std::size_t edges() const;
  /// Allocates or frees memory: then it cannot be cloned, cut or instantiated twice.
  bool has_memory_nodes() const;
  std::shared_ptr<Graph> clone() const;
};

/// Nodes by handle, over all graphs.
GraphNode* find_node(CUgraphNode handle);

CUgraphNodeType node_type(const Work& work);

struct GraphExec {
  struct Node {
    std::shared_ptr<const Work> work;
    std::vector<std::size_t> before;
    bool enabled = true;
    std::size_t inner = 0;  ///< of a child graph: how many nodes just before this one are its own
  };
  Context& context;
  std::uint64_t flags = 0;
  std::vector<Node> nodes;                                  ///< in an order in which they may run
  std::unordered_map<const GraphNode*, std::size_t> index;  ///< of the graph's nodes and its children's
  std::shared_ptr<GraphMemory> memory;
  std::vector<std::uint64_t> leaves_allocated;  ///< what a launch allocates and does not free
  std::vector<std::uint64_t> frees_others;      ///< what it frees and does not allocate
  std::shared_ptr<const Graph>
      source;           ///< kept for its user objects, and so that its nodes' addresses stay taken
  bool linear = false;  ///< a chain of plain work: runs as one operation
  OperationRef last;    ///< end of the latest launch: launches of one executable never overlap

  CUgraphExec handle() { return reinterpret_cast<CUgraphExec>(this); }
};

/// An executable of `graph`; null and an error when it has a cycle.
CUresult instantiate(Context& context, const Graph& graph, std::uint64_t flags,
                     std::shared_ptr<GraphExec>& exec);
/// Submits a launch to a stream that is not capturing. An error when memory that the launch would allocate
/// has not been freed since the last one.
CUresult launch(GraphExec& exec, Stream& stream);
/// Takes over the parameters of a graph of the same shape.
CUresult update(GraphExec& exec, const Graph& graph, CUgraphExecUpdateResultInfo& info);
/// Checks that `work` may replace the node's work, and replaces it.
CUresult replace_work(GraphExec& exec, const GraphNode* node, Work work);
/// Takes over the parameters of a graph of the same shape as the child graph of the node.
CUresult update_child(GraphExec& exec, const GraphNode* node, const Graph& child);

/// A capture in progress: the graph that grows, and who takes part.
struct Capture {
  std::uint64_t id = 0;
  std::shared_ptr<Graph> graph;
  bool graph_is_callers = false;  ///< cuStreamBeginCaptureToGraph
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  std::thread::id thread;
  Stream* origin = nullptr;
  bool invalid = false;
  bool ended = false;
  std::vector<std::shared_ptr<Stream>> members;
  std::vector<CUgraphNode> reported;  ///< what cuStreamGetCaptureInfo last pointed to
  std::vector<CUgraphEdgeData> reported_edges;
};

/// Adds work to a capturing stream's graph. Call without the graph mutex.
CUresult capture_work(Stream& stream, Work work, GraphNode** added = nullptr);
/// Error of a call that is not allowed while captures of some kind go on (cuMemAlloc, synchronisation):
/// invalidates them. CUDA_SUCCESS when it is allowed.
CUresult refuse_in_capture();
/// The same for a call on a stream that must not be capturing (cuStreamSynchronize).
CUresult refuse_capturing(Stream& stream);
/// Work on the legacy stream while a blocking stream of its context is captured: an error, and invalidates.
CUresult refuse_implicit(Stream& stream);

/// Puts work into a stream, or into the graph that it is captured into. `operation` (optional) gets the
/// operation, null when captured.
CUresult enqueue(Stream& stream, Work work, OperationRef* operation = nullptr);

/// Starts a capture; `graph` null: into a new one.
CUresult begin_capture(Stream& stream, CUstreamCaptureMode mode, std::shared_ptr<Graph> graph,
                       std::vector<GraphNode*> after);
/// Ends the capture of its origin; the graph, registered for the program, or an error. Not `wanted`: only a
/// graph that the program has already may end so.
CUresult end_capture(Stream& stream, std::shared_ptr<Graph>& graph, bool wanted);
/// Before a stream is destroyed: the capture that it began ends without a graph; one that it only takes part
/// in is invalid.
void abandon_capture(Stream& stream);
/// Before a context's streams are destroyed: the captures that any of them takes part in end without a graph.
void abandon_captures(const Context& context);
/// What capturing adds to cuEventRecord and cuStreamWaitEvent; true when it dealt with the call.
bool capture_event_record(Stream& stream, const std::shared_ptr<Event>& event, bool external,
                          CUresult& result);
bool capture_event_wait(Stream& stream, const std::shared_ptr<Event>& event, bool external, CUresult& result);
/// CUDA_ERROR_CAPTURED_EVENT for an event whose latest record is in a capture.
CUresult refuse_captured(const Event& event);

/// Keeps the calling thread's interaction mode; returns the earlier one.
CUstreamCaptureMode exchange_capture_mode(CUstreamCaptureMode mode);

}  // namespace softgpu
