#include "softgpu/driver/graph.hpp"

#include <algorithm>
#include <unordered_set>

#include "softgpu/driver/driver.hpp"
#include "softgpu/driver/module.hpp"

namespace softgpu {
namespace {

// All nodes of all graphs.
struct Live {
  std::mutex mutex;
  std::unordered_set<const GraphNode*> nodes;
};

Live& live() {
  static auto* const instance = new Live;
  return *instance;
}

// Nodes in an order in which each comes after those that it depends on, as near to their creation order as
// that allows; empty when there is a cycle.
std::vector<GraphNode*> ordered(const Graph& graph) {
  std::unordered_map<const GraphNode*, std::size_t> unmet;
  std::vector<GraphNode*> order;
  for (const auto& node : graph.nodes) {
    unmet[node.get()] = node->before.size();
    if (node->before.empty()) order.push_back(node.get());
  }
  for (std::size_t next = 0; next < order.size(); ++next) {
    for (GraphNode* const after : order[next]->after) {
      if (--unmet[after] == 0) order.push_back(after);
    }
  }
  if (order.size() != graph.nodes.size()) order.clear();
  return order;
}

// Work that one thread may do in a row with its neighbours.
bool plain(const Work& work) {
  const Lane lane = lane_of(work);
  return lane == Lane::device || std::holds_alternative<EmptyWork>(work) ||
         std::holds_alternative<AllocationWork>(work) || std::holds_alternative<GraphFreeWork>(work);
}

bool is_chain(const std::vector<GraphExec::Node>& nodes) {
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (!plain(*nodes[i].work)) return false;
    const bool follows =
        i == 0 ? nodes[i].before.empty() : nodes[i].before == std::vector<std::size_t>{i - 1};
    if (!follows) return false;
  }
  return !nodes.empty();
}

// Adds `graph`'s nodes to `exec`, the first ones after `before`; the indices of its last ones, false for a
// cycle.
bool flatten(const Graph& graph, const std::vector<std::size_t>& before, GraphExec& exec,
             std::vector<std::size_t>& last) {
  const std::vector<GraphNode*> order = ordered(graph);
  if (order.empty() && !graph.nodes.empty()) return false;
  for (const GraphNode* const node : order) {
    GraphExec::Node entry;
    entry.work = node->work;
    for (const GraphNode* const earlier : node->before) entry.before.push_back(exec.index.at(earlier));
    if (node->before.empty()) entry.before = before;
    if (const auto* const child = std::get_if<ChildGraphWork>(node->work.get())) {
      std::vector<std::size_t> inner;
      const std::size_t first = exec.nodes.size();
      if (!flatten(*child->graph, entry.before, exec, inner)) return false;
      entry.inner = exec.nodes.size() - first;
      if (!inner.empty()) entry.before = std::move(inner);
    }
    exec.index[node] = exec.nodes.size();
    if (node->after.empty()) last.push_back(exec.nodes.size());
    exec.nodes.push_back(std::move(entry));
  }
  return true;
}

// The graph's memory and what its free nodes free stay until its launch has ended, whatever becomes of the
// executable.
using Keepers = std::vector<std::shared_ptr<GraphMemory>>;

OperationRef submit_chain_locked(GraphExec& exec, Stream& stream, Keepers keepers) {
  std::vector<std::shared_ptr<const Work>> works;
  for (const GraphExec::Node& node : exec.nodes) {
    if (node.enabled) works.push_back(node.work);
  }
  auto operation = std::make_shared<Operation>(
      Lane::device, &stream,
      [&context = exec.context, works = std::move(works), keepers = std::move(keepers)] {
        for (const auto& work : works) perform(context, *work);
        return true;
      });
  exec.context.submit_locked(stream, operation, {exec.last});
  return operation;
}

// Finds out what launches of `exec` leave allocated, and what they free of others.
void note_memory(GraphExec& exec) {
  std::vector<std::uint64_t> freed;
  for (const GraphExec::Node& node : exec.nodes) {
    if (const auto* const allocation = std::get_if<AllocationWork>(node.work.get()))
      exec.leaves_allocated.push_back(allocation->address);
    if (const auto* const free = std::get_if<GraphFreeWork>(node.work.get())) freed.push_back(free->address);
  }
  for (const std::uint64_t address : freed) {
    if (std::erase(exec.leaves_allocated, address) == 0) exec.frees_others.push_back(address);
  }
}

OperationRef submit_nodes_locked(GraphExec& exec, Stream& stream, Keepers keepers) {
  Scheduler& scheduler = Driver::get().scheduler;
  std::vector<OperationRef> first = exec.context.predecessors_locked(stream);
  first.push_back(exec.last);
  std::vector<OperationRef> operations;
  std::vector<bool> is_last(exec.nodes.size(), true);
  for (const GraphExec::Node& node : exec.nodes) {
    static const auto nothing = std::make_shared<const Work>(EmptyWork{});
    OperationRef operation = exec.context.make_operation(&stream, node.enabled ? node.work : nothing);
    std::vector<OperationRef> after;
    for (const std::size_t earlier : node.before) {
      after.push_back(operations[earlier]);
      is_last[earlier] = false;
    }
    if (node.before.empty()) after = first;
    if (node.enabled) {
      if (const auto* const wait = std::get_if<EventWaitWork>(node.work.get()))
        after.push_back(wait->event->point);
      if (const auto* const record = std::get_if<EventRecordWork>(node.work.get())) {
        record->event->point = operation;
        record->event->capture = nullptr;  // its latest record is this one, in no capture
        record->event->capture_point.clear();
      }
    }
    scheduler.submit_locked(operation, after);
    operations.push_back(std::move(operation));
  }
  std::vector<OperationRef> ends;
  for (std::size_t i = 0; i < operations.size(); ++i) {
    if (is_last[i]) ends.push_back(operations[i]);
  }
  auto end = std::make_shared<Operation>(keepers.empty() ? Lane::none : Lane::device, &stream,
                                         [keepers = std::move(keepers)] { return !keepers.empty(); });
  exec.context.submit_locked(stream, end, std::move(ends));
  return end;
}

}  // namespace

GraphNode::~GraphNode() {
  const std::unique_lock lock(live().mutex);
  live().nodes.erase(this);
}

GraphNode* find_node(CUgraphNode handle) {
  auto* const node = reinterpret_cast<GraphNode*>(handle);
  const std::unique_lock lock(live().mutex);
  return live().nodes.contains(node) ? node : nullptr;
}

void drop_references(Driver& driver, UserObject& object, long count) {
  if (object.references.fetch_sub(count) != count) return;
  const auto kept = driver.user_objects.remove(&object);
  object.destroy(object.pointer);
}

Graph::~Graph() {
  for (const auto& [object, count] : user_objects) drop_references(Driver::get(), *object, count);
}

GraphNode* Graph::add(Work work, const std::vector<GraphNode*>& before) {
  auto node = std::make_unique<GraphNode>();
  node->graph = this;
  node->work = std::make_shared<const Work>(std::move(work));
  GraphNode* const added = node.get();
  {
    const std::unique_lock lock(live().mutex);
    live().nodes.insert(added);
  }
  nodes.push_back(std::move(node));
  for (GraphNode* const earlier : before) connect(earlier, added);
  return added;
}

void Graph::remove(GraphNode* node) {
  for (GraphNode* const earlier : node->before) std::erase(earlier->after, node);
  for (GraphNode* const later : node->after) std::erase(later->before, node);
  std::erase_if(nodes, [&](const auto& own) { return own.get() == node; });
}

bool Graph::connect(GraphNode* from, GraphNode* to) {
  if (std::find(to->before.begin(), to->before.end(), from) != to->before.end()) return false;
  to->before.push_back(from);
  from->after.push_back(to);
  return true;
}

bool Graph::disconnect(GraphNode* from, GraphNode* to) {
  std::erase(from->after, to);
  return std::erase(to->before, from) != 0;
}

std::size_t Graph::edges() const {
  std::size_t count = 0;
  for (const auto& node : nodes) count += node->before.size();
  return count;
}

bool Graph::has_memory_nodes() const {
  return std::any_of(nodes.begin(), nodes.end(), [](const auto& node) {
    return std::holds_alternative<AllocationWork>(*node->work) ||
           std::holds_alternative<GraphFreeWork>(*node->work);
  });
}

std::shared_ptr<Graph> Graph::clone() const {
  auto copy = std::make_shared<Graph>();
  copy->cloned_from = this;
  copy->memory = memory;
  std::unordered_map<const GraphNode*, GraphNode*> twin;
  for (const auto& node : nodes) {
    Work work = *node->work;
    if (auto* const child = std::get_if<ChildGraphWork>(&work)) {
      child->graph = child->graph->clone();
      child->graph->owned_by_node = true;
      Driver::get().graphs.add(child->graph);
    }
    GraphNode* const added = copy->add(std::move(work), {});
    added->cloned_from = node.get();
    added->attributes = node->attributes;
    twin[node.get()] = added;
  }
  for (const auto& node : nodes) {
    for (const GraphNode* const earlier : node->before) copy->connect(twin.at(earlier), twin.at(node.get()));
  }
  for (const auto& [object, count] : user_objects) {
    object->references.fetch_add(count);
    copy->user_objects[object] = count;
  }
  return copy;
}

CUgraphNodeType node_type(const Work& work) {
  struct Type {
    CUgraphNodeType operator()(const EmptyWork&) const { return CU_GRAPH_NODE_TYPE_EMPTY; }
    CUgraphNodeType operator()(const KernelWork&) const { return CU_GRAPH_NODE_TYPE_KERNEL; }
    CUgraphNodeType operator()(const BlasWork&) const { return CU_GRAPH_NODE_TYPE_KERNEL; }
    CUgraphNodeType operator()(const CopyWork&) const { return CU_GRAPH_NODE_TYPE_MEMCPY; }
    CUgraphNodeType operator()(const MemsetWork&) const { return CU_GRAPH_NODE_TYPE_MEMSET; }
    CUgraphNodeType operator()(const HostWork&) const { return CU_GRAPH_NODE_TYPE_HOST; }
    CUgraphNodeType operator()(const CallbackWork&) const { return CU_GRAPH_NODE_TYPE_HOST; }
    CUgraphNodeType operator()(const WaitValueWork&) const { return CU_GRAPH_NODE_TYPE_BATCH_MEM_OP; }
    CUgraphNodeType operator()(const WriteValueWork&) const { return CU_GRAPH_NODE_TYPE_BATCH_MEM_OP; }
    CUgraphNodeType operator()(const FreeWork&) const { return CU_GRAPH_NODE_TYPE_MEM_FREE; }
    CUgraphNodeType operator()(const AllocationWork&) const { return CU_GRAPH_NODE_TYPE_MEM_ALLOC; }
    CUgraphNodeType operator()(const GraphFreeWork&) const { return CU_GRAPH_NODE_TYPE_MEM_FREE; }
    CUgraphNodeType operator()(const EventRecordWork&) const { return CU_GRAPH_NODE_TYPE_EVENT_RECORD; }
    CUgraphNodeType operator()(const EventWaitWork&) const { return CU_GRAPH_NODE_TYPE_WAIT_EVENT; }
    CUgraphNodeType operator()(const ChildGraphWork&) const { return CU_GRAPH_NODE_TYPE_GRAPH; }
  };
  return std::visit(Type{}, work);
}

CUresult instantiate(Context& context, const Graph& graph, std::uint64_t flags,
                     std::shared_ptr<GraphExec>& exec) {
  exec = std::make_shared<GraphExec>(
      GraphExec{context, flags, {}, {}, graph.memory, {}, {}, nullptr, false, nullptr});
  std::vector<std::size_t> last;
  if (!flatten(graph, {}, *exec, last)) {
    exec = nullptr;
    return CUDA_ERROR_INVALID_VALUE;
  }
  exec->linear = is_chain(exec->nodes);
  note_memory(*exec);
  return CUDA_SUCCESS;
}

CUresult launch(GraphExec& exec, Stream& stream) {
  const bool again = (exec.flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH) != 0;
  if (!exec.leaves_allocated.empty() && !begin_use(exec.leaves_allocated, again))
    return CUDA_ERROR_INVALID_VALUE;
  Keepers keepers;
  if (!exec.memory->empty()) keepers.push_back(exec.memory);
  for (const std::uint64_t address : exec.frees_others) {
    std::shared_ptr<GraphMemory> keeper;
    if (end_use(address, keeper) == GraphFree::ended) keepers.push_back(std::move(keeper));
  }
  const std::unique_lock lock(Driver::get().scheduler.mutex());
  exec.last = exec.linear ? submit_chain_locked(exec, stream, std::move(keepers))
                          : submit_nodes_locked(exec, stream, std::move(keepers));
  return CUDA_SUCCESS;
}

CUresult replace_work(GraphExec& exec, const GraphNode* node, Work work) {
  const auto found = exec.index.find(node);
  if (found == exec.index.end()) return CUDA_ERROR_INVALID_VALUE;
  GraphExec::Node& entry = exec.nodes[found->second];
  if (node_type(*entry.work) != node_type(work)) return CUDA_ERROR_INVALID_VALUE;
  entry.work = std::make_shared<const Work>(std::move(work));
  return CUDA_SUCCESS;
}

CUresult update_child(GraphExec& exec, const GraphNode* node, const Graph& child) {
  const auto found = exec.index.find(node);
  if (found == exec.index.end()) return CUDA_ERROR_INVALID_VALUE;
  const GraphExec::Node& entry = exec.nodes[found->second];
  if (node_type(*entry.work) != CU_GRAPH_NODE_TYPE_GRAPH) return CUDA_ERROR_INVALID_VALUE;
  std::shared_ptr<GraphExec> wanted;
  if (instantiate(exec.context, child, exec.flags, wanted) != CUDA_SUCCESS ||
      wanted->nodes.size() != entry.inner) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const std::size_t first = found->second - entry.inner;
  for (std::size_t i = 0; i < entry.inner; ++i) {
    const GraphExec::Node& old_node = exec.nodes[first + i];
    const GraphExec::Node& new_node = wanted->nodes[i];
    // What comes first in the child follows nodes outside of it, or none.
    std::vector<std::size_t> before;
    for (const std::size_t earlier : old_node.before) {
      if (earlier >= first) before.push_back(earlier - first);
    }
    if (node_type(*old_node.work) != node_type(*new_node.work) || before != new_node.before)
      return CUDA_ERROR_INVALID_VALUE;
  }
  for (std::size_t i = 0; i < entry.inner; ++i) exec.nodes[first + i].work = wanted->nodes[i].work;
  return CUDA_SUCCESS;
}

CUresult update(GraphExec& exec, const Graph& graph, CUgraphExecUpdateResultInfo& info) {
  info = {CU_GRAPH_EXEC_UPDATE_SUCCESS, nullptr, nullptr};
  std::shared_ptr<GraphExec> wanted;
  if (instantiate(exec.context, graph, exec.flags, wanted) != CUDA_SUCCESS ||
      wanted->nodes.size() != exec.nodes.size()) {
    info.result = CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
    return CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
  }
  for (std::size_t i = 0; i < exec.nodes.size(); ++i) {
    const GraphExec::Node& old_node = exec.nodes[i];
    const GraphExec::Node& new_node = wanted->nodes[i];
    const bool same_type = node_type(*old_node.work) == node_type(*new_node.work);
    if (same_type && old_node.before == new_node.before) continue;
    info.result = same_type ? CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED
                            : CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
    for (const auto& [node, index] : wanted->index) {
      if (index == i) info.errorNode = const_cast<GraphNode*>(node)->handle();
    }
    return CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
  }
  for (std::size_t i = 0; i < exec.nodes.size(); ++i) exec.nodes[i].work = wanted->nodes[i].work;
  exec.memory = wanted->memory;
  exec.leaves_allocated = std::move(wanted->leaves_allocated);
  exec.frees_others = std::move(wanted->frees_others);
  return CUDA_SUCCESS;
}

}  // namespace softgpu
