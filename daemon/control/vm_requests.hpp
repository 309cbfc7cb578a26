// The requests of the control protocol about the VMs that vgpud serves: vms, vm_add, vm_remove. Decides who
// may; what a VM is belongs to daemon/stub/host.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "daemon/control/requests.hpp"

namespace vgpu::daemon {

// The VMs that are served, to who may see every client; else an empty list.
[[nodiscard]] nlohmann::json vms_json(const BrokerState& state, const Requester& who);

// The answer to request `name`; none: it is not about VMs. Throws nlohmann::json::exception where a value has
// the wrong type.
[[nodiscard]] std::optional<nlohmann::json> answer_vm_request(const BrokerState& state,
                                                              const std::string& name,
                                                              const nlohmann::json& request,
                                                              const Requester& who);

}  // namespace vgpu::daemon
