#include "daemon/control/vm_requests.hpp"

#include <nlohmann/json.hpp>
#include <utility>

#include "daemon/control/failure.hpp"
#include "daemon/control/whole_number.hpp"

namespace vgpu::daemon {
namespace {

using nlohmann::json;

json vm_json(const stub_host::VmStats& vm) {
  return {{"name", vm.name},
          {"class", vm.class_name},
          {"at", vm.socket},
          {"guest", vm.guest},
          {"bytes", vm.bytes},
          {"slots", vm.slots},
          {"slots_open", vm.slots_open},
          {"connected", vm.connected},
          {"attached", vm.attached},
          {"doorbells", vm.doorbells},
          {"sessions", vm.sessions},
          {"refused", vm.refused},
          {"guests_lost", vm.lost},
          {"memory_used", vm.memory_used},
          {"memory_quota", vm.memory_quota},
          {"weight", vm.weight}};
}

json add(const BrokerState& state, const json& request) {
  VmConfig vm;
  vm.name = request.value("name", std::string());
  vm.bytes = whole_number(request, "bytes", vm.bytes);
  vm.slots = whole_number(request, "slots", vm.slots);
  vm.class_name = request.value("class", std::string());
  vm.device = request.value("device", std::string());
  vm.socket = request.value("socket", std::string());
  const std::string name = vm.name;
  if (auto added = state.vms.add(std::move(vm)); !added) return failure(added.error());
  for (const stub_host::VmStats& served : state.vms.stats()) {
    if (served.name == name) return {{"ok", true}, {"vm", vm_json(served)}};
  }
  return failure("the VM is gone again");
}

}  // namespace

json vms_json(const BrokerState& state, const Requester& who) {
  json list = json::array();
  if (!sees_all(who, state.config())) return list;
  for (const stub_host::VmStats& vm : state.vms.stats()) list.push_back(vm_json(vm));
  return list;
}

std::optional<json> answer_vm_request(const BrokerState& state, const std::string& name, const json& request,
                                      const Requester& who) {
  if (name == "vms") return json{{"ok", true}, {"vms", vms_json(state, who)}};
  if (name != "vm_add" && name != "vm_remove") return std::nullopt;
  if (!is_administrator(who, state.config())) {
    return failure("only an administrator may change which VMs are served");
  }
  if (name == "vm_add") return add(state, request);
  const std::string vm = request.value("name", std::string());
  return state.vms.remove(vm) ? json{{"ok", true}} : failure("there is no VM '" + vm + "'");
}

}  // namespace vgpu::daemon
