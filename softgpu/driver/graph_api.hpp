// How the exported graph functions find what they work on; they hold the graph mutex.
#pragma once

#include "softgpu/driver/api.hpp"
#include "softgpu/driver/graph.hpp"

namespace softgpu {

template <class Body>
CUresult on_graph(CUgraph handle, Body&& body) noexcept {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto graph = driver.graphs.find(handle);
    if (graph == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const std::unique_lock lock(driver.graph_mutex);
    return body(driver, *graph);
  });
}

template <class Body>
CUresult on_node(CUgraphNode handle, Body&& body) noexcept {
  return with_driver([&](Driver& driver) -> CUresult {
    const std::unique_lock lock(driver.graph_mutex);
    GraphNode* const node = find_node(handle);
    if (node == nullptr) return CUDA_ERROR_INVALID_VALUE;
    return body(driver, *node);
  });
}

template <class Body>
CUresult on_exec(CUgraphExec handle, Body&& body) noexcept {
  return with_driver([&](Driver& driver) -> CUresult {
    const auto exec = driver.graph_execs.find(handle);
    if (exec == nullptr) return CUDA_ERROR_INVALID_VALUE;
    const std::unique_lock lock(driver.graph_mutex);
    return body(driver, *exec);
  });
}

}  // namespace softgpu
