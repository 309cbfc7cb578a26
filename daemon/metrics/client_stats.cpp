#include "daemon/metrics/client_stats.hpp"

#include <algorithm>
#include <functional>

#include "protocol/call_table.hpp"

namespace vgpu::daemon {

Percentiles percentiles(const LatencyCounts& counts) {
  return {percentile_ns(counts, 0.50), percentile_ns(counts, 0.95), percentile_ns(counts, 0.99)};
}

Histogram histogram(const LatencyCounts& counts, std::uint64_t sum_ns) {
  Histogram result{sum_ns, {}};
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] != 0) result.buckets.emplace_back(latency_bucket_end_ns(i), counts[i]);
  }
  return result;
}

void DeviceFigures::add(const GatePage& page) {
  const auto add_counts = [](LatencyCounts& to, const LatencyCounts& more) {
    std::transform(to.begin(), to.end(), more.begin(), to.begin(), std::plus<>());
  };
  const auto get = [](const auto& counter) { return counter.load(std::memory_order_relaxed); };
  add_counts(latency, read_counts(page.latency));
  add_counts(wait, read_counts(page.gate_wait));
  device_ns += get(page.consumed_ns);
  moves_out += get(page.moves_out);
  moves_in += get(page.moves_in);
  bytes_moved_out += get(page.bytes_moved_out);
  bytes_moved_in += get(page.bytes_moved_in);
  move_out_ns += get(page.move_out_ns);
  move_in_ns += get(page.move_in_ns);
  memory_wait_ns += get(page.memory_wait_ns);
  latency_sum_ns += get(page.latency_sum_ns);
  wait_sum_ns += get(page.gate_wait_ns);
}

void read_page(const GatePage& page, ClientStats& stats) {
  const auto get = [](const auto& counter) { return counter.load(std::memory_order_relaxed); };
  stats.memory_used = get(page.memory_used);
  stats.memory_peak = get(page.memory_peak);
  stats.movable = get(page.memory_movable) != 0;
  stats.memory_on_device = std::min(get(page.memory_claim), get(page.memory_granted));
  stats.memory_in_host = get(page.memory_moved);
  stats.moves_out = get(page.moves_out);
  stats.moves_in = get(page.moves_in);
  stats.bytes_moved_out = get(page.bytes_moved_out);
  stats.bytes_moved_in = get(page.bytes_moved_in);
  stats.move_out_ns = get(page.move_out_ns);
  stats.move_in_ns = get(page.move_in_ns);
  stats.last_move_out_ns = get(page.last_move_out_ns);
  stats.last_move_in_ns = get(page.last_move_in_ns);
  stats.memory_wait_ns = get(page.memory_wait_ns);
  stats.launches = get(page.launches);
  stats.graph_launches = get(page.graph_launches);
  stats.kernel_ns = get(page.kernel_ns);
  stats.device_ns = get(page.consumed_ns);
  stats.bytes_to_device = get(page.bytes_to_device);
  stats.bytes_from_device = get(page.bytes_from_device);
  stats.bytes_on_device = get(page.bytes_on_device);
  stats.queue_depth = get(page.queue_depth);
  stats.in_flight = get(page.in_flight);
  stats.gate_wait_ns = get(page.gate_wait_ns);
  stats.throttled_ns = get(page.throttled_ns);
  stats.predicted_ns = get(page.predicted_ns);
  stats.records = get(page.records);
  stats.waited_calls = get(page.waited_calls);
  stats.doorbells = get(page.doorbells);
  stats.preempted = get(page.preempted);
  stats.modules = get(page.modules);
  stats.allocations = get(page.allocations);
  stats.latency = percentiles(read_counts(page.latency));
  stats.wait = percentiles(read_counts(page.gate_wait));
  stats.errors = get(page.errors);
  stats.unsupported = get(page.unsupported);
  stats.sticky_error = get(page.sticky_error);
  stats.link_doorbells = get(page.link_doorbells);
  stats.link_records = get(page.link_records);
  stats.link_bytes_out = get(page.link_bytes_out);
  stats.link_bytes_in = get(page.link_bytes_in);
}

void add_page(const GatePage& page, ClientStats& stats) {
  const auto get = [](const auto& counter) { return counter.load(std::memory_order_relaxed); };
  stats.memory_used += get(page.memory_used);
  stats.memory_peak += get(page.memory_peak);
  stats.launches += get(page.launches);
  stats.graph_launches += get(page.graph_launches);
  stats.kernel_ns += get(page.kernel_ns);
  stats.device_ns += get(page.consumed_ns);
  stats.bytes_to_device += get(page.bytes_to_device);
  stats.bytes_from_device += get(page.bytes_from_device);
  stats.bytes_on_device += get(page.bytes_on_device);
  stats.in_flight += get(page.in_flight);
  stats.gate_wait_ns += get(page.gate_wait_ns);
  stats.throttled_ns += get(page.throttled_ns);
  stats.predicted_ns += get(page.predicted_ns);
  stats.modules += get(page.modules);
  stats.allocations += get(page.allocations);
}

void read_part(const GatePage& page, ClientDeviceStats& part) {
  const auto get = [](const auto& counter) { return counter.load(std::memory_order_relaxed); };
  part.memory_used = get(page.memory_used);
  part.memory_peak = get(page.memory_peak);
  part.launches = get(page.launches);
  part.graph_launches = get(page.graph_launches);
  part.device_ns = get(page.consumed_ns);
  part.gate_wait_ns = get(page.gate_wait_ns);
}

void read_histograms(const GatePage& page, ClientStats& stats) {
  stats.latency_histogram =
      histogram(read_counts(page.latency), page.latency_sum_ns.load(std::memory_order_relaxed));
  stats.wait_histogram =
      histogram(read_counts(page.gate_wait), page.gate_wait_ns.load(std::memory_order_relaxed));
}

void read_calls(const GatePage& page, ClientStats& stats) {
  stats.calls.clear();
  for (std::size_t id = 0; id < gate_call_slots; ++id) {
    const std::uint64_t count = page.calls[id].load(std::memory_order_relaxed);
    const CallInfo* call = find_call(static_cast<std::uint16_t>(id));
    if (count != 0 && call != nullptr) stats.calls.emplace_back(call->name, count);
  }
  std::stable_sort(stats.calls.begin(), stats.calls.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
}

void EndedClients::set_capacity(std::size_t capacity) {
  capacity_ = capacity;
  for (; clients_.size() > capacity_; ++forgotten_) clients_.pop_back();
}

void EndedClients::add(ClientStats stats) {
  clients_.push_front(std::move(stats));
  set_capacity(capacity_);
}

}  // namespace vgpu::daemon
