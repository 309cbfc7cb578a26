#include "metrics/exposition.hpp"

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>

namespace vgpu::metrics {
namespace {

using nlohmann::json;
using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

constexpr double kNanosecond = 1e-9;

// One figure of an answer: its key there, its name and unit here.
struct Figure {
  const char* key;
  const char* name;
  MetricType type;
  double scale;
  const char* help;
};

constexpr MetricType kCounter = MetricType::Counter;
constexpr MetricType kGauge = MetricType::Gauge;

constexpr std::array<Figure, 11> kBroker{{
    {"clients_admitted", "vgpud_clients_admitted_total", kCounter, 1, "Clients that were given a worker."},
    {"clients_refused", "vgpud_clients_refused_total", kCounter, 1,
     "Clients that were refused, for any reason."},
    {"refused_limits", "vgpud_clients_refused_by_limits_total", kCounter, 1, "Clients refused by a limit."},
    {"refused_quarantined", "vgpud_clients_refused_quarantined_total", kCounter, 1,
     "Clients refused because their user's program is in quarantine."},
    {"worker_failures", "vgpud_worker_failures_total", kCounter, 1,
     "Workers that ended by themselves while serving."},
    {"faults", "vgpud_faults_total", kCounter, 1, "Clients that ended with a fault."},
    {"watchdog_kills", "vgpud_watchdog_kills_total", kCounter, 1,
     "Commands that ran longer than their class allows."},
    {"quarantines", "vgpud_quarantines_total", kCounter, 1, "Quarantines imposed."},
    {"handshakes_over_limit", "vgpud_handshakes_over_limit_total", kCounter, 1,
     "Connections closed for being too many."},
    {"handshakes_timed_out", "vgpud_handshakes_timed_out_total", kCounter, 1,
     "Connections that said no hello in time."},
    {"handshakes_malformed", "vgpud_handshakes_malformed_total", kCounter, 1,
     "Connections that said something else."},
}};

constexpr std::array<Figure, 12> kDevice{{
    {"busy", "vgpud_device_busy_ratio", kGauge, 1, "Part of the last second in which the device was busy."},
    {"memory", "vgpud_device_memory_bytes", kGauge, 1, "Memory of the device."},
    {"workers_ready", "vgpud_device_workers_ready", kGauge, 1, "Workers that wait for a client."},
    {"workers_starting", "vgpud_device_workers_starting", kGauge, 1, "Workers that start."},
    {"workers_attached", "vgpud_device_workers_attached", kGauge, 1, "Workers that serve a client."},
    {"workers_crashed", "vgpud_device_workers_crashed_total", kCounter, 1,
     "Workers that ended by themselves while serving."},
    {"switches", "vgpud_device_switches_total", kCounter, 1, "Turns given to clients that had had to wait."},
    {"clients_admitted", "vgpud_device_clients_admitted_total", kCounter, 1,
     "Clients that were given a worker of the device."},
    {"clients_refused", "vgpud_device_clients_refused_total", kCounter, 1,
     "Clients refused that were or would have been placed on the device, for any reason."},
    {"faults", "vgpud_device_faults_total", kCounter, 1,
     "Clients that ended with a fault of the device or of their worker."},
    {"queue_depth", "vgpud_device_queue_depth", kGauge, 1, "Ring units that its workers have not taken yet."},
    {"device_ns", "vgpud_device_gpu_seconds_total", kCounter, kNanosecond,
     "Device time used by its clients, those that have ended included."},
}};

// Of a device whose clients may hold more memory than it has, and of such a client; behind its prefix.
constexpr std::array<Figure, 7> kMoves{{
    {"moves_out", "_moves_out_total", kCounter, 1, "Times that a client's memory was moved out."},
    {"moves_in", "_moves_in_total", kCounter, 1, "Times that a client's memory came back."},
    {"bytes_moved_out", "_moved_out_bytes_total", kCounter, 1, "Bytes moved out."},
    {"bytes_moved_in", "_moved_in_bytes_total", kCounter, 1, "Bytes that came back."},
    {"move_out_ns", "_move_out_seconds_total", kCounter, kNanosecond, "Time that moving out took."},
    {"move_in_ns", "_move_in_seconds_total", kCounter, kNanosecond, "Time that coming back took."},
    {"memory_wait_ns", "_memory_wait_seconds_total", kCounter, kNanosecond,
     "Time that calls waited for room on the device."},
}};

constexpr std::array<Figure, 29> kClient{{
    {"device_ns", "vgpud_client_gpu_seconds_total", kCounter, kNanosecond, "Device time used."},
    {"kernel_ns", "vgpud_client_kernel_seconds_total", kCounter, kNanosecond, "Device time in kernels."},
    {"share", "vgpud_client_share_ratio", kGauge, 1,
     "Share of the device time that clients used in the last second."},
    {"weight", "vgpud_client_weight", kGauge, 1, "Weight among busy clients."},
    {"memory_used", "vgpud_client_memory_used_bytes", kGauge, 1, "Device memory held."},
    {"memory_peak", "vgpud_client_memory_peak_bytes", kGauge, 1, "Most device memory held so far."},
    {"memory_quota", "vgpud_client_memory_quota_bytes", kGauge, 1,
     "Most device memory it may hold; 0: no limit."},
    {"memory_on_device", "vgpud_client_memory_on_device_bytes", kGauge, 1,
     "Of the memory held, where it can be moved: what lies on the device."},
    {"memory_in_host", "vgpud_client_memory_in_host_bytes", kGauge, 1, "The same: what was moved out."},
    {"launches", "vgpud_client_launches_total", kCounter, 1, "Kernels launched."},
    {"graph_launches", "vgpud_client_graph_launches_total", kCounter, 1, "Graphs launched."},
    {"queue_depth", "vgpud_client_queue_depth", kGauge, 1, "Ring units that its worker has not taken yet."},
    {"in_flight", "vgpud_client_in_flight_commands", kGauge, 1,
     "Commands submitted and not finished, while others compete."},
    {"predicted_ns", "vgpud_client_predicted_gpu_seconds", kGauge, kNanosecond,
     "Predicted device time of unfinished commands."},
    {"gate_wait_ns", "vgpud_client_gate_wait_seconds_total", kCounter, kNanosecond,
     "Time that commands waited for their turn."},
    {"throttled_ns", "vgpud_client_throttled_seconds_total", kCounter, kNanosecond,
     "Time that commands were delayed by a rate limit."},
    {"turns", "vgpud_client_turns_total", kCounter, 1,
     "Times it was given the device after it had had to wait."},
    {"bytes_to_device", "vgpud_client_to_device_bytes_total", kCounter, 1, "Bytes copied to the device."},
    {"bytes_from_device", "vgpud_client_from_device_bytes_total", kCounter, 1,
     "Bytes copied from the device."},
    {"bytes_on_device", "vgpud_client_on_device_bytes_total", kCounter, 1, "Bytes copied on the device."},
    {"records", "vgpud_client_calls_total", kCounter, 1, "Calls sent to the worker."},
    {"waited_calls", "vgpud_client_waited_calls_total", kCounter, 1, "Calls whose answer was waited for."},
    {"doorbells", "vgpud_client_doorbells_total", kCounter, 1, "Times the client had to wake its worker."},
    {"preempted", "vgpud_client_worker_preemptions_total", kCounter, 1,
     "Times its worker's thread lost its CPU to another."},
    {"modules", "vgpud_client_modules_total", kCounter, 1, "Modules and libraries loaded."},
    {"allocations", "vgpud_client_allocations_total", kCounter, 1, "Allocations of device memory."},
    {"errors", "vgpud_client_errors_total", kCounter, 1, "Calls that failed."},
    {"unsupported", "vgpud_client_unsupported_calls_total", kCounter, 1, "Calls that are not supported."},
    {"faults", "vgpud_client_faults_total", kCounter, 1,
     "1: it ended with a fault of the device or of its worker."},
}};

// Collects samples by metric, in the order in which metrics first come.
class Families {
 public:
  void add(const std::string& name, MetricType type, const char* help, Labels labels, double value) {
    ClientMetric metric;
    metric.label = std::move(labels);
    if (type == MetricType::Counter) {
      metric.counter.value = value;
    } else {
      metric.gauge.value = value;
    }
    family(name, type, help).metric.push_back(std::move(metric));
  }

  template <std::size_t N>
  void add_all(const std::array<Figure, N>& figures, const json& object, const Labels& labels,
               const std::string& prefix = {}) {
    for (const Figure& figure : figures) {
      const auto found = object.find(figure.key);
      if (found == object.end() || !found->is_number()) continue;
      add(prefix + figure.name, figure.type, figure.help, labels, found->get<double>() * figure.scale);
    }
  }

  MetricFamily& family(const std::string& name, MetricType type, const char* help) {
    const auto [entry, fresh] = index_.try_emplace(name, families_.size());
    if (fresh) families_.push_back({name, help, type, {}});
    return families_[entry->second];
  }

  std::vector<MetricFamily> take() { return std::move(families_); }

 private:
  std::vector<MetricFamily> families_;
  std::map<std::string, std::size_t> index_;
};

std::string text(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end()) return {};
  return found->is_string() ? found->get<std::string>() : found->dump();
}

std::uint64_t number(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number() ? found->get<std::uint64_t>() : 0;
}

// A histogram of {"sum_ns":N,"buckets":[[end_ns,count],...]}. vgpud's buckets end at quarters of powers of
// two, so every bound below is one of theirs: no count is split.
void add_histogram(Families& families, const std::string& name, const char* help, const json& client,
                   const char* key, const Labels& labels) {
  const auto found = client.find(key);
  if (found == client.end() || !found->is_object()) return;
  constexpr unsigned kFirst = 10;  // 2^10 ns = 1.024 us
  constexpr unsigned kLast = 34;   // 2^34 ns = 17.2 s
  ClientMetric metric;
  metric.label = labels;
  auto& histogram = metric.histogram;
  for (unsigned power = kFirst; power <= kLast; power += 2) {
    std::uint64_t below = 0;
    for (const json& bucket : found->value("buckets", json::array())) {
      if (bucket.at(0).get<std::uint64_t>() <= std::uint64_t{1} << power)
        below += bucket.at(1).get<std::uint64_t>();
    }
    histogram.bucket.push_back({below, static_cast<double>(std::uint64_t{1} << power) * kNanosecond});
  }
  for (const json& bucket : found->value("buckets", json::array())) {
    histogram.sample_count += bucket.at(1).get<std::uint64_t>();
  }
  histogram.sample_sum = static_cast<double>(number(*found, "sum_ns")) * kNanosecond;
  families.family(name, MetricType::Histogram, help).metric.push_back(std::move(metric));
}

// Those of a device or a client, `prefix` "vgpud_device" or "vgpud_client".
void add_histograms(Families& families, const std::string& prefix, const json& object, const Labels& labels) {
  add_histogram(families, prefix + "_call_latency_seconds",
                "Time from taking a waited-for call to its answer.", object, "latency", labels);
  add_histogram(families, prefix + "_wait_seconds",
                "Time that a command waited for its turn, of those sent while others wanted the device.",
                object, "wait", labels);
}

void add_client(Families& families, const json& client) {
  const Labels labels{{"session", text(client, "session")}, {"pid", text(client, "pid")},
                      {"uid", text(client, "uid")},         {"program", text(client, "program")},
                      {"class", text(client, "class")},     {"device", text(client, "device")}};
  families.add_all(kClient, client, labels);
  families.add_all(kMoves, client, labels, "vgpud_client");
  Labels state = labels;
  state.push_back({"state", text(client, "state")});
  families.add("vgpud_client_state", kGauge, "1 for the state that the client is in.", std::move(state), 1);
  add_histograms(families, "vgpud_client", client, labels);
}

void add_device(Families& families, const json& device) {
  const Labels labels{{"device", text(device, "name")}};
  families.add_all(kDevice, device, labels);
  families.add_all(kMoves, device.value("oversubscribe", json::object()), labels, "vgpud_device");
  add_histograms(families, "vgpud_device", device, labels);
  families.add("vgpud_device_up", kGauge, "1 while the device can serve.", labels,
               text(device, "problem").empty() ? 1 : 0);
  Labels info = labels;
  for (const char* key : {"kind", "model", "driver", "pci", "policy", "pool"})
    info.push_back({key, text(device, key)});
  families.add("vgpud_device_info", kGauge, "What the device is.", std::move(info), 1);
}

}  // namespace

std::vector<MetricFamily> metrics_of(const json& answer, double now) {
  Families families;
  families.add("vgpud_up", kGauge, "1 while vgpud answers.", {}, 1);
  const json broker = answer.value("broker", json::object());
  families.add("vgpud_build_info", kGauge, "The version that runs.", {{"version", text(broker, "version")}},
               1);
  families.add("vgpud_start_time_seconds", kGauge, "When vgpud started, in Unix time.", {},
               now - static_cast<double>(number(broker, "uptime_ns")) * kNanosecond);
  const json clients = answer.value("clients", json::array());
  families.add("vgpud_clients", kGauge, "Clients that are connected.", {},
               static_cast<double>(clients.size()));
  families.add_all(kBroker, broker, {});
  for (const json& rejection : answer.value("rejections", json::array())) {
    families.add("vgpud_rejections_total", kCounter, "Clients refused, by user, class and reason.",
                 {{"uid", text(rejection, "uid")},
                  {"class", text(rejection, "class")},
                  {"reason", text(rejection, "reason")}},
                 static_cast<double>(number(rejection, "count")));
  }
  for (const json& device : answer.value("devices", json::array())) add_device(families, device);
  for (const json& client : clients) add_client(families, client);
  return families.take();
}

std::vector<MetricFamily> metrics_of_silence() {
  Families families;
  families.add("vgpud_up", kGauge, "1 while vgpud answers.", {}, 0);
  return families.take();
}

std::string to_text(const std::vector<MetricFamily>& families) {
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace vgpu::metrics
