#include "cli/evidence.hpp"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "cli/format.hpp"

namespace vgpu::cli {
namespace {

// Builds the report and keeps the first reason against.
class Steps {
 public:
  // A step without which the program is not verified; `reason` says what is missing.
  void require(bool good, const std::string& what, const std::string& seen, const std::string& reason) {
    line(good ? "ok" : "no", what, seen);
    if (!good && reason_.empty()) reason_ = reason;
  }
  // A step that is only reported.
  void note(const std::string& what, const std::string& seen) { line("--", what, seen); }

  [[nodiscard]] Verdict verdict() {
    if (reason_.empty())
      return {true, report_ + "VERIFIED: the program's kernels ran on the device through vgpud.\n"};
    return {false, report_ + "NOT VERIFIED: " + reason_ + ".\n"};
  }

 private:
  void line(const char* mark, std::string what, const std::string& seen) {
    constexpr std::size_t width = 22;
    what.resize(std::max(what.size(), width), ' ');
    report_ += std::string(mark) + "  " + what + " " + seen + "\n";
  }

  std::string report_;
  std::string reason_;
};

// Absence of evidence is no evidence then.
constexpr const char* forgotten_reason =
    "it cannot be told: vgpud keeps no figures of so many ended clients (ended_clients in vgpud.yaml)";

bool same_file(const std::string& a, const std::string& b) {
  std::error_code ignored;
  return a == b || std::filesystem::equivalent(a, b, ignored);
}

void judge_library(const Evidence& seen, Steps& steps) {
  std::string loaded;
  for (const std::string& path : seen.cuda_libraries) loaded += (loaded.empty() ? "" : ", ") + path;
  // A program that was admitted has our library, even where the linker's notes are missing (a static binary's
  // dlopen).
  const bool ours =
      seen.connections > 0 ||
      std::any_of(seen.cuda_libraries.begin(), seen.cuda_libraries.end(),
                  [&](const std::string& path) { return same_file(path, seen.expected_library); });
  steps.require(ours, "library loaded", loaded.empty() ? "no libcuda.so.1" : loaded,
                loaded.empty() ? "the program never loaded libcuda.so.1, so it made no CUDA call"
                               : "the program loaded another libcuda.so.1 than vgpud's: " + loaded);
}

void judge_connection(const Evidence& seen, Steps& steps) {
  std::string text = std::to_string(seen.connections) + " process(es) admitted";
  if (!seen.device.empty()) text += " to device " + seen.device;
  if (seen.refused > 0) text += ", " + std::to_string(seen.refused) + " refused";
  if (!seen.refusal.empty()) text += " (" + printable(seen.refusal) + ")";
  if (seen.forgotten > 0)
    text += "; vgpud has forgotten " + std::to_string(seen.forgotten) + " client(s) that ended meanwhile";
  std::string reason = "the program loaded the library but never used CUDA, or could not reach vgpud";
  if (seen.forgotten > 0) {
    reason = forgotten_reason;
  } else if (seen.turned_away > 0) {
    reason = "vgpud turned " + std::to_string(seen.turned_away) +
             " connection(s) away while the program ran, perhaps the program's (its log says why)";
  }
  if (seen.refused > 0) {
    reason = "vgpud refused the program" +
             (seen.refusal.empty() ? " (its log says why)" : ": " + printable(seen.refusal));
  }
  steps.require(seen.connections > 0, "connection made", text, reason);
}

}  // namespace

void Evidence::add_client(const nlohmann::json& client) {
  const auto get = [&](const char* key) { return client.value(key, std::uint64_t{0}); };
  ++connections;
  device = client.value("device", device);
  allocations += get("allocations");
  memory_peak = std::max(memory_peak, get("memory_peak"));
  modules += get("modules");
  launches += get("launches") + get("graph_launches");
  kernel_ns += get("kernel_ns");
  bytes_to_device += get("bytes_to_device");
  bytes_from_device += get("bytes_from_device");
  records += get("records");
  waited_calls += get("waited_calls");
  doorbells += get("doorbells");
  link_records += get("link_records");
  link_doorbells += get("link_doorbells");
  link_bytes_out += get("link_bytes_out");
  link_bytes_in += get("link_bytes_in");
  latency_p50_ns = std::max(latency_p50_ns, get("latency_p50_ns"));
  errors += get("errors");
  unsupported += get("unsupported");
  if (sticky_error == 0) sticky_error = get("sticky_error");
  if (client.value("ending", std::string()).find("its worker had ended") != std::string::npos)
    ++worker_failures;
}

void Evidence::add_refusal(const std::string& sentence) {
  if (++refused == 1) refusal = sentence;
}

Verdict judge(const Evidence& seen) {
  Steps steps;
  if (seen.devices_hidden) {
    steps.require(seen.connections > 0, "devices visible", "none by CUDA_VISIBLE_DEVICES",
                  "CUDA_VISIBLE_DEVICES hides every device from the program");
  }
  steps.require(seen.ending.shell_status() == 0, "program", seen.ending.text(),
                "the program " + seen.ending.text());
  judge_library(seen, steps);
  judge_connection(seen, steps);
  steps.note("memory allocated", std::to_string(seen.allocations) + " allocations, at most " +
                                     format_bytes(seen.memory_peak) + " at a time");
  steps.note("modules loaded", std::to_string(seen.modules));
  steps.require(
      seen.launches > 0, "kernels launched", std::to_string(seen.launches),
      seen.forgotten > 0
          ? forgotten_reason
          : "no kernel was launched: whatever the program computed, it did not compute on the device");
  steps.require(seen.kernel_ns > 0, "kernels executed", format_time(seen.kernel_ns) + " of device time",
                "no kernel was executed: the device spent no time on the program's launches");
  steps.note("bytes to the device", format_bytes(seen.bytes_to_device));
  steps.note("bytes from the device", format_bytes(seen.bytes_from_device));
  steps.note("calls sent", std::to_string(seen.records) + " (" + std::to_string(seen.waited_calls) +
                               " waited for), doorbells rung " + std::to_string(seen.doorbells));
  if (seen.link_records > 0) {
    steps.note("sent to the host", std::to_string(seen.link_records) + " records, " +
                                       std::to_string(seen.link_doorbells) + " doorbells rung");
    steps.note("through BAR2", format_bytes(seen.link_bytes_out) + " out, " +
                                   format_bytes(seen.link_bytes_in) + " in; the host answers in " +
                                   format_time(seen.latency_p50_ns) + " (p50)");
  }
  steps.note("errors", std::to_string(seen.errors) + " failed calls, " + std::to_string(seen.unsupported) +
                           " calls not supported");
  steps.require(seen.sticky_error == 0 && seen.worker_failures == 0, "faults",
                seen.sticky_error != 0      ? "CUDA error " + std::to_string(seen.sticky_error)
                : seen.worker_failures != 0 ? "the worker ended"
                                            : "none",
                seen.sticky_error != 0 ? "the device reported CUDA error " +
                                             std::to_string(seen.sticky_error) + ", a fault in a kernel"
                                       : "the worker that held the device for the program ended by itself");
  return steps.verdict();
}

}  // namespace vgpu::cli
