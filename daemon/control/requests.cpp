#include "daemon/control/requests.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <nlohmann/json.hpp>

#include "daemon/control/changes.hpp"
#include "daemon/control/failure.hpp"
#include "daemon/control/vm_requests.hpp"
#include "daemon/policy/placing.hpp"
#include "protocol/handshake.hpp"

namespace vgpu::daemon {
namespace {

using nlohmann::json;

// Paths and program names may hold any bytes; JSON holds UTF-8.
std::string dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

void put_percentiles(json& result, const std::string& of, const Percentiles& values) {
  result[of + "_p50_ns"] = values.p50_ns;
  result[of + "_p95_ns"] = values.p95_ns;
  result[of + "_p99_ns"] = values.p99_ns;
}

void put_histogram(json& result, const char* of, const std::optional<Histogram>& histogram) {
  if (histogram) result[of] = {{"sum_ns", histogram->sum_ns}, {"buckets", histogram->buckets}};
}

json to_json(const ClientStats& stats) {
  json calls = json::object();
  for (const auto& [name, count] : stats.calls) calls[name] = count;
  json result = {
      {"session", stats.session},
      {"pid", stats.pid},
      {"vm", stats.vm},
      {"guest_pid", stats.guest_pid},
      {"uid", stats.uid},
      {"worker_pid", stats.worker_pid},
      {"program", stats.program},
      {"executable", stats.executable},
      {"unit", stats.unit},
      {"class", stats.class_name},
      {"device", stats.device},
      {"state", stats.state},
      {"ended", stats.state == "ended"},
      {"ending", stats.ending},
      {"age_ns", stats.age_ns},
      {"memory_used", stats.memory_used},
      {"memory_peak", stats.memory_peak},
      {"memory_quota", stats.memory_quota},
      {"launches", stats.launches},
      {"graph_launches", stats.graph_launches},
      {"kernel_ns", stats.kernel_ns},
      {"device_ns", stats.device_ns},
      {"share", stats.share},
      {"bytes_to_device", stats.bytes_to_device},
      {"bytes_from_device", stats.bytes_from_device},
      {"bytes_on_device", stats.bytes_on_device},
      {"queue_depth", stats.queue_depth},
      {"in_flight", stats.in_flight},
      {"priority", stats.priority},
      {"weight", stats.weight},
      {"turns", stats.turns},
      {"gate_wait_ns", stats.gate_wait_ns},
      {"throttled_ns", stats.throttled_ns},
      {"predicted_ns", stats.predicted_ns},
      {"records", stats.records},
      {"waited_calls", stats.waited_calls},
      {"doorbells", stats.doorbells},
      {"preempted", stats.preempted},
      {"modules", stats.modules},
      {"allocations", stats.allocations},
      {"errors", stats.errors},
      {"unsupported", stats.unsupported},
      {"sticky_error", stats.sticky_error},
      {"link_doorbells", stats.link_doorbells},
      {"link_records", stats.link_records},
      {"link_bytes_out", stats.link_bytes_out},
      {"link_bytes_in", stats.link_bytes_in},
      {"faults", stats.faults},
  };
  if (stats.movable) {
    result.update({{"memory_on_device", stats.memory_on_device},
                   {"memory_in_host", stats.memory_in_host},
                   {"moves_out", stats.moves_out},
                   {"moves_in", stats.moves_in},
                   {"bytes_moved_out", stats.bytes_moved_out},
                   {"bytes_moved_in", stats.bytes_moved_in},
                   {"move_out_ns", stats.move_out_ns},
                   {"move_in_ns", stats.move_in_ns},
                   {"last_move_out_ns", stats.last_move_out_ns},
                   {"last_move_in_ns", stats.last_move_in_ns},
                   {"memory_wait_ns", stats.memory_wait_ns}});
  }
  for (const ClientDeviceStats& part : stats.devices) {
    result["devices"].push_back({{"device", part.device},
                                 {"memory_used", part.memory_used},
                                 {"memory_peak", part.memory_peak},
                                 {"launches", part.launches},
                                 {"graph_launches", part.graph_launches},
                                 {"device_ns", part.device_ns},
                                 {"share", part.share},
                                 {"turns", part.turns},
                                 {"gate_wait_ns", part.gate_wait_ns}});
  }
  put_percentiles(result, "latency", stats.latency);
  put_percentiles(result, "wait", stats.wait);
  put_histogram(result, "latency", stats.latency_histogram);
  put_histogram(result, "wait", stats.wait_histogram);
  if (!stats.calls.empty()) result["calls"] = std::move(calls);
  return result;
}

// Its number among the devices of its pool: what CUDA_VISIBLE_DEVICES counts.
std::ptrdiff_t pool_index(const BrokerState& state, const Device& device) {
  const auto self = std::find_if(state.devices.begin(), state.devices.end(),
                                 [&](const auto& other) { return other.get() == &device; });
  return std::count_if(state.devices.begin(), self,
                       [&](const auto& other) { return other->config().pool == device.config().pool; });
}

json device_json(const BrokerState& state, const Device& device, bool histograms = false) {
  const DeviceFigures figures = state.sessions.figures(device);
  json result = {
      {"name", device.config().name},
      {"kind", device.driver() ? to_string(device.driver()->kind) : to_string(device.config().kind)},
      {"driver", device.driver() ? device.driver()->path : ""},
      {"chosen_because", device.driver() ? device.driver()->why : ""},
      {"ordinal", device.config().ordinal},
      {"sharing", device.under_mps() ? "mps" : "isolated"},
      {"policy", to_string(device.policy())},
      {"pool", device.config().pool},
      {"pool_index", pool_index(state, device)},
      {"switches", device.gates().switches()},
      {"device_ns", figures.device_ns},
      {"charged_ns", device.gates().charged_ns()},
      {"clients_admitted", figures.admitted},
      {"clients_refused", figures.refused},
      {"faults", figures.faults},
      {"queue_depth", figures.queue_depth},
      {"problem", device.problem()},
      {"busy", state.sessions.utilisation(device)}};
  put_percentiles(result, "latency", percentiles(figures.latency));
  put_percentiles(result, "wait", percentiles(figures.wait));
  if (histograms) {
    put_histogram(result, "latency", histogram(figures.latency, figures.latency_sum_ns));
    put_histogram(result, "wait", histogram(figures.wait, figures.wait_sum_ns));
  }
  if (const auto& report = device.report()) {
    result["model"] = std::string(report->name);
    result["memory"] = report->total_memory;
    result["driver_version"] = report->driver_version;
    result["compute_capability"] =
        std::to_string(report->compute_major) + "." + std::to_string(report->compute_minor);
    result["pci"] = std::string(report->pci_bus_id);
    std::array<std::uint8_t, 16> uuid{};
    std::copy(std::begin(report->uuid), std::end(report->uuid), uuid.begin());
    result["uuid"] = uuid_text(uuid);
  }
  if (const ResidenceKeeper& residence = device.residence(); residence.enabled()) {
    result["oversubscribe"] = {{"host_limit", device.config().oversubscribe.host_limit.value_or(0)},
                               {"capacity", residence.capacity()},
                               {"moves", residence.moves()},
                               {"moves_out", figures.moves_out},
                               {"moves_in", figures.moves_in},
                               {"bytes_moved_out", figures.bytes_moved_out},
                               {"bytes_moved_in", figures.bytes_moved_in},
                               {"move_out_ns", figures.move_out_ns},
                               {"move_in_ns", figures.move_in_ns},
                               {"memory_wait_ns", figures.memory_wait_ns}};
  }
  if (const GuestLink* link = device.link()) {
    const LinkStats stats = link->stats();
    result["link"] = {{"function", stats.function},
                      {"memory", stats.memory},
                      {"bytes", stats.bytes},
                      {"slots", stats.slots},
                      {"connected", stats.connected},
                      {"host_doorbells", stats.host_doorbells},
                      {"host_starts", stats.host_starts}};
  }
  if (const WorkerPool* pool = device.pool()) {
    result["workers_ready"] = pool->count(WorkerState::ready);
    result["workers_starting"] = pool->count(WorkerState::starting);
    result["workers_attached"] = pool->count(WorkerState::attached);
    result["workers_crashed"] = pool->crashes();
  }
  return result;
}

json devices_json(const BrokerState& state, bool histograms = false) {
  json list = json::array();
  for (const auto& device : state.devices) list.push_back(device_json(state, *device, histograms));
  return list;
}

json reserve_json(const ReserveProcess& reserve) {
  return {{"wanted", reserve.wanted()},
          {"held", reserve.held()},
          {"busy", reserve.busy()},
          {"first_ns", reserve.first_took().count()}};
}

json broker_json(const BrokerState& state) {
  const SessionCounters& sessions = state.sessions.counters();
  const Greeter::Counters& greeter = state.greeter.counters();
  json result = {{"pid", getpid()},
                 {"version", VGPU_VERSION},
                 {"config", state.config_file},
                 {"uptime_ns", std::chrono::nanoseconds(EventLoop::Clock::now() - state.since).count()},
                 {"clients_admitted", sessions.admitted},
                 {"clients_refused", sessions.refused},
                 {"ended_forgotten", state.sessions.ended().forgotten()},
                 {"worker_failures", sessions.worker_failures},
                 {"faults", sessions.faults},
                 {"watchdog_kills", sessions.watchdog_kills},
                 {"quarantines", sessions.quarantines},
                 {"refused_quarantined", sessions.refused_quarantined},
                 {"refused_limits", sessions.refused_limits},
                 {"handshakes_pending", state.greeter.pending()},
                 {"handshakes_over_limit", greeter.over_limit},
                 {"handshakes_timed_out", greeter.timed_out},
                 {"handshakes_malformed", greeter.malformed},
                 {"handshakes_mismatched", greeter.mismatched}};
  if (state.reserve != nullptr) result["reserve"] = reserve_json(*state.reserve);
  return result;
}

json rejections_json(const BrokerState& state, const Requester& who, bool all) {
  json list = json::array();
  const auto now = EventLoop::Clock::now();
  for (const Rejection& rejection : state.sessions.rejections()) {
    if (!all && !is_owner(who, rejection.uid)) continue;
    list.push_back({{"uid", rejection.uid},
                    {"class", rejection.client_class},
                    {"reason", to_string(rejection.reason)},
                    {"count", rejection.count},
                    {"program", rejection.program},
                    {"sentence", rejection.sentence},
                    {"age_ns", std::chrono::nanoseconds(now - rejection.last).count()}});
  }
  return list;
}

// Whether a client, present, ended or refused, is the process `pid` or a descendant of it.
template <class Client>
bool descends_from(const Client& client, pid_t pid) {
  return client.pid == pid ||
         std::find(client.ancestors.begin(), client.ancestors.end(), pid) != client.ancestors.end();
}

json refused_json(const BrokerState& state, const Requester& who, bool all) {
  json list = json::array();
  for (const RefusedClient& refused : state.sessions.recently_refused()) {
    if ((all || is_owner(who, refused.uid)) && descends_from(refused, who.pid))
      list.push_back({{"number", refused.number}, {"pid", refused.pid}, {"sentence", refused.sentence}});
  }
  return list;
}

json stats_json(const BrokerState& state, const json& request, const Requester& who) {
  const bool mine = request.value("mine", false);
  const StatsDetail detail{request.value("calls", false), request.value("histograms", false)};
  const bool all = sees_all(who, state.config());
  json clients = json::array();
  for (const ClientStats& stats : state.sessions.stats(detail)) {
    if ((all || is_owner(who, stats.uid)) && (!mine || descends_from(stats, who.pid)))
      clients.push_back(to_json(stats));
  }
  json ended = json::array();
  for (ClientStats stats : state.sessions.ended().all()) {
    if (!(all || is_owner(who, stats.uid))) continue;
    if (!detail.calls) stats.calls.clear();
    if (!mine || descends_from(stats, who.pid)) ended.push_back(to_json(stats));
  }
  json result = {{"ok", true},
                 {"clients", std::move(clients)},
                 {"ended", std::move(ended)},
                 {"devices", devices_json(state, detail.histograms)},
                 {"vms", vms_json(state, who)},
                 {"rejections", rejections_json(state, who, all)},
                 {"broker", broker_json(state)}};
  if (mine) result["refused"] = refused_json(state, who, all);
  return result;
}

json answer(const BrokerState& state, const std::string& line, const Requester& who) {
  const json request = json::parse(line, nullptr, false);
  if (!request.is_object() || !request.contains("request") || !request["request"].is_string()) {
    return failure("a request is one line of JSON such as {\"request\":\"stats\"}");
  }
  const auto& name = request["request"].get_ref<const std::string&>();
  if (name == "stats") return stats_json(state, request, who);
  if (name == "devices") return {{"ok", true}, {"devices", devices_json(state)}};
  if (name == "version") {
    return {{"ok", true},
            {"version", VGPU_VERSION},
            {"protocol", std::to_string(protocol_hash())},
            {"pid", getpid()}};
  }
  if (const auto vm = answer_vm_request(state, name, request, who)) return *vm;
  if (const auto changed = answer_change(state, name, request, who)) return *changed;
  return failure("there is no request '" + name + "'");
}

}  // namespace

std::string client_json(const ClientStats& stats) {
  return dump(to_json(stats));
}

std::string answer_request(const BrokerState& state, const std::string& line, const Requester& who) {
  try {
    return dump(answer(state, line, who));
  } catch (const json::exception&) {  // a value of the wrong type, such as {"request":"stats","mine":7}
    return dump(failure("the request holds a value of the wrong type, or a number that is none there"));
  }
}

}  // namespace vgpu::daemon
