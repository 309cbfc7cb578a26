#include <chrono>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/asking.hpp"
#include "cli/commands.hpp"
#include "cli/format.hpp"
#include "cli/stats_view.hpp"

namespace vgpu::cli {
namespace {

using nlohmann::json;

void print_json(const json& value) {
  print(value.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
}

}  // namespace

int show_stats(const StatsOptions& options) {
  const json request = {{"request", "stats"}, {"calls", options.calls}};
  while (true) {
    const Outcome outcome = ask(options.control, request);
    if (outcome.status != kGood) return outcome.status;
    if (options.watch_seconds > 0 && !options.json) print("\033[H\033[2J");
    if (options.json) {
      print_json(outcome.answer);
    } else {
      print(stats_table(outcome.answer, options.ended));
    }
    if (!flush_output()) return kFailed;
    if (options.watch_seconds <= 0) return kGood;
    std::this_thread::sleep_for(std::chrono::duration<double>(options.watch_seconds));
  }
}

int show_processes(const std::string& control, bool as_json) {
  const Outcome outcome = ask(control, {{"request", "stats"}});
  if (outcome.status != kGood) return outcome.status;
  if (as_json) {
    print_json(outcome.answer.at("clients"));
  } else {
    print(process_table(outcome.answer));
  }
  return kGood;
}

int show_devices(const std::string& control, bool as_json) {
  const Outcome outcome = ask(control, {{"request", "devices"}});
  if (outcome.status != kGood) return outcome.status;
  if (as_json) {
    print_json(outcome.answer.at("devices"));
  } else {
    print(device_table(outcome.answer));
  }
  return kGood;
}

int list_vms(const std::string& control, bool as_json) {
  const Outcome outcome = ask(control, {{"request", "vms"}});
  if (outcome.status != kGood) return outcome.status;
  if (as_json) {
    print_json(outcome.answer.at("vms"));
  } else {
    print(vm_table(outcome.answer));
  }
  return kGood;
}

int add_vm(const VmOptions& options) {
  // Of the caller's folder, which vgpud does not know.
  const std::string wanted = options.socket.empty()
                                 ? std::string()
                                 : std::filesystem::absolute(options.socket).lexically_normal().string();
  json request = {{"request", "vm_add"},
                  {"name", options.name},
                  {"class", options.class_name},
                  {"device", options.device},
                  {"socket", wanted}};
  if (options.bytes != 0) request["bytes"] = options.bytes;
  if (options.slots != 0) request["slots"] = options.slots;
  const Outcome outcome = ask(options.control, request);
  if (outcome.status != kGood) return outcome.status;
  const std::string socket = outcome.answer.at("vm").value("at", "");
  print("VM " + options.name + " is served. For QEMU:\n  -chardev socket,path=" + socket +
        ",id=vgpu -device ivshmem-doorbell,chardev=vgpu,vectors=2,addr=05.0\n");
  return kGood;
}

int remove_vm(const VmOptions& options) {
  return ask(options.control, {{"request", "vm_remove"}, {"name", options.name}}).status;
}

}  // namespace vgpu::cli
