// Device memory of graphs' allocation nodes.
//
// It is reserved when the node is made, and stays while the graph or an executable of it does. A launch makes
// it live; a free (by the program, or by a node) ends that. What is live when the graph and its executables
// are gone is the program's to free, like any other pool memory.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace softgpu {

/// The memory of one graph, shared with its executables and with what they still have to run.
class GraphMemory : public std::enable_shared_from_this<GraphMemory> {
 public:
  GraphMemory() = default;
  ~GraphMemory();
  GraphMemory(const GraphMemory&) = delete;
  GraphMemory& operator=(const GraphMemory&) = delete;
  /// Takes over pool memory at `address`.
  void keep(std::uint64_t address);
  bool empty() const { return addresses_.empty(); }

 private:
  std::vector<std::uint64_t> addresses_;
};

/// Makes this memory of graphs live. False, and nothing changed, when some of it is already and may not be
/// (`again` false).
bool begin_use(std::span<const std::uint64_t> addresses, bool again);

/// What a free of pool memory means.
enum class GraphFree : std::uint8_t {
  no_graphs,  ///< it is no graph's (any more): to be released
  ended,      ///< a graph's, and was live: the graph keeps it for its next launch
  not_live,   ///< a graph's, and there is nothing to free
};
/// Ends the use of memory at `address` if it is a graph's. `keeper`, where set, must live until the free's
/// turn in its stream has come: earlier work may still use the memory.
GraphFree end_use(std::uint64_t address, std::shared_ptr<GraphMemory>& keeper);
/// True while a graph or an executable has this memory.
bool is_graph_memory(std::uint64_t address);

}  // namespace softgpu
