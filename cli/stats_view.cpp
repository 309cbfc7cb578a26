#include "cli/stats_view.hpp"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>

#include "cli/fields.hpp"
#include "cli/format.hpp"

namespace vgpu::cli {
namespace {

using nlohmann::json;
using Row = std::vector<std::string>;

std::string text_or_dash(const json& object, const char* key) {
  std::string value = text(object, key);
  return value.empty() ? "-" : value;
}

std::string memory(const json& client) {
  const std::uint64_t quota = number(client, "memory_quota");
  return format_bytes(number(client, "memory_used")) + " / " + (quota == 0 ? "-" : format_bytes(quota));
}

Row stats_row(const json& client) {
  // Of a process in a VM: its pid there, and the VM's name.
  const std::string vm = text(client, "vm");
  return {std::to_string(number(client, vm.empty() ? "pid" : "guest_pid")),
          vm.empty() ? text_or_dash(client, "program") : vm + ":" + text(client, "program"),
          text_or_dash(client, "class"),
          text_or_dash(client, "device"),
          text_or_dash(client, "state"),
          memory(client),
          format_count(number(client, "launches") + number(client, "graph_launches")),
          format_time(number(client, "kernel_ns")),
          format_percent(client.value("share", 0.0)),
          format_bytes(number(client, "bytes_to_device")),
          format_bytes(number(client, "bytes_from_device")),
          std::to_string(number(client, "queue_depth")),
          format_count(number(client, "waited_calls")),
          format_time(number(client, "latency_p50_ns")),
          format_time(number(client, "latency_p95_ns")),
          format_time(number(client, "latency_p99_ns")),
          std::to_string(number(client, "errors"))};
}

// Of a guest's client: what has gone to the host, and how long answers took.
Row link_row(const json& client) {
  return {std::to_string(number(client, "pid")),          text_or_dash(client, "program"),
          format_count(number(client, "link_records")),   format_count(number(client, "link_doorbells")),
          format_bytes(number(client, "link_bytes_out")), format_bytes(number(client, "link_bytes_in")),
          format_time(number(client, "latency_p50_ns")),  format_time(number(client, "latency_p95_ns")),
          format_time(number(client, "latency_p99_ns"))};
}

std::string state_of_vm(const json& vm) {
  if (vm.value("attached", false)) return "attached";
  return vm.value("connected", false) ? "connected" : "waiting";
}

// A VM as a whole: its own figures, and the sums over those of its processes that are shown.
Row vm_row(const json& vm, const std::vector<const json*>& processes) {
  const auto sum = [&](const char* key) {
    std::uint64_t all = 0;
    for (const json* process : processes) all += number(*process, key);
    return all;
  };
  double share = 0;
  for (const json* process : processes) share += process->value("share", 0.0);
  return {"VM",
          text(vm, "name"),
          text_or_dash(vm, "class"),
          "-",
          state_of_vm(vm),
          memory(vm),
          format_count(sum("launches") + sum("graph_launches")),
          format_time(sum("kernel_ns")),
          format_percent(share),
          format_bytes(sum("bytes_to_device")),
          format_bytes(sum("bytes_from_device")),
          std::to_string(sum("queue_depth")),
          format_count(sum("waited_calls")),
          "-",
          "-",
          "-",
          std::to_string(sum("errors"))};
}

Row moves_row(const json& client) {
  return {std::to_string(number(client, "pid")),
          text_or_dash(client, "program"),
          format_bytes(number(client, "memory_on_device")),
          format_bytes(number(client, "memory_in_host")),
          std::to_string(number(client, "moves_out")),
          std::to_string(number(client, "moves_in")),
          format_bytes(number(client, "bytes_moved_out")),
          format_bytes(number(client, "bytes_moved_in")),
          format_time(number(client, "move_out_ns")),
          format_time(number(client, "move_in_ns")),
          format_time(number(client, "memory_wait_ns"))};
}

const json& list(const json& answer, const char* key) {
  static const json none = json::array();
  const auto found = answer.find(key);
  return found != answer.end() && found->is_array() ? *found : none;
}

}  // namespace

std::string stats_table(const json& answer, bool ended) {
  std::vector<const json*> clients;
  for (const json& client : list(answer, "clients")) clients.push_back(&client);
  if (ended) {
    for (const json& client : list(answer, "ended")) clients.push_back(&client);
  }
  std::vector<Row> rows;
  std::vector<Row> moves;
  std::vector<Row> links;
  const auto add = [&](const json& client) {
    rows.push_back(stats_row(client));
    if (client.contains("moves_out")) moves.push_back(moves_row(client));
    if (number(client, "link_records") != 0) links.push_back(link_row(client));
  };
  // This machine's processes, then each VM and those in it; at the end those of VMs that are no longer
  // served.
  const auto add_those_of = [&](const std::string& vm) {
    std::erase_if(clients, [&](const json* client) {
      if (text(*client, "vm") != vm) return false;
      add(*client);
      return true;
    });
  };
  add_those_of("");
  for (const json& vm : list(answer, "vms")) {
    const std::string name = text(vm, "name");
    std::vector<const json*> processes;
    std::copy_if(clients.begin(), clients.end(), std::back_inserter(processes),
                 [&](const json* client) { return text(*client, "vm") == name; });
    rows.push_back(vm_row(vm, processes));
    add_those_of(name);
  }
  for (const json* client : clients) add(*client);
  if (rows.empty()) return ended ? "no clients yet\n" : "no clients (--ended shows those that have left)\n";
  std::string text =
      format_table({"PID", "PROGRAM", "CLASS", "DEVICE", "STATE", "MEMORY / QUOTA", "LAUNCHES", "KERNELS",
                    "SHARE", "TO DEVICE", "FROM", "QUEUE", "WAITED", "P50", "P95", "P99", "ERRORS"},
                   rows, 5);
  // Only in a guest.
  if (!links.empty()) {
    text += "\n" + format_table({"PID", "PROGRAM", "TO HOST", "DOORBELLS", "BYTES OUT", "BYTES IN",
                                 "HOST P50", "P95", "P99"},
                                links, 2);
  }
  // Only where a device is oversubscribed.
  if (!moves.empty()) {
    text += "\n" + format_table({"PID", "PROGRAM", "ON DEVICE", "IN HOST", "OUT", "IN", "MOVED OUT",
                                 "MOVED IN", "OUT TOOK", "IN TOOK", "WAITED"},
                                moves, 2);
  }
  return text;
}

std::string process_table(const json& answer) {
  std::vector<Row> rows;
  for (const json& client : list(answer, "clients")) {
    rows.push_back({std::to_string(number(client, "pid")), std::to_string(number(client, "uid")),
                    text_or_dash(client, "class"), text_or_dash(client, "device"),
                    text_or_dash(client, "state"), std::to_string(number(client, "worker_pid")),
                    format_time(number(client, "age_ns")), text_or_dash(client, "unit"),
                    text_or_dash(client, "executable")});
  }
  if (rows.empty()) return "no clients\n";
  return format_table({"PID", "UID", "CLASS", "DEVICE", "STATE", "WORKER", "AGE", "UNIT", "EXECUTABLE"}, rows,
                      9);
}

std::string vm_table(const json& answer) {
  std::vector<Row> rows;
  for (const json& vm : list(answer, "vms")) {
    rows.push_back({text(vm, "name"), text(vm, "class"), text(vm, "guest"), state_of_vm(vm),
                    format_bytes(number(vm, "bytes")),
                    std::to_string(number(vm, "slots_open")) + " / " + std::to_string(number(vm, "slots")),
                    memory(vm), format_count(number(vm, "sessions")), format_count(number(vm, "doorbells")),
                    text(vm, "at")});
  }
  if (rows.empty()) return "no VMs\n";
  return format_table({"NAME", "CLASS", "GUEST", "STATE", "SIZE", "SLOTS", "MEMORY / QUOTA", "SESSIONS",
                       "DOORBELLS", "SOCKET"},
                      rows, 4);
}

std::string device_table(const json& answer) {
  std::vector<Row> rows;
  std::string problems;
  for (const json& device : list(answer, "devices")) {
    rows.push_back({text_or_dash(device, "name"), text_or_dash(device, "pool"),
                    std::to_string(number(device, "pool_index")), text_or_dash(device, "uuid"),
                    text_or_dash(device, "kind"), text_or_dash(device, "model"),
                    format_bytes(number(device, "memory")), format_percent(device.value("busy", 0.0)),
                    std::to_string(number(device, "workers_attached")) + " + " +
                        std::to_string(number(device, "workers_ready")) + " ready",
                    text_or_dash(device, "driver")});
    if (const std::string problem = device.value("problem", ""); !problem.empty()) {
      problems += device.value("name", "") + " cannot serve: " + problem + "\n";
    }
  }
  if (rows.empty()) return "no devices\n";
  for (const json& device : list(answer, "devices")) {
    const auto link = device.find("link");
    if (link == device.end() || !link->value("connected", false)) continue;
    problems += device.value("name", "") + " is the host's, through " + link->value("function", "") + ": " +
                format_bytes(number(*link, "bytes")) + ", " + std::to_string(number(*link, "slots")) +
                " slots; the host has received " + format_count(number(*link, "host_doorbells")) +
                " doorbells\n";
  }
  return format_table(
             {"NAME", "POOL", "INDEX", "UUID", "KIND", "MODEL", "MEMORY", "BUSY", "WORKERS", "DRIVER"}, rows,
             10) +
         problems;
}

}  // namespace vgpu::cli
