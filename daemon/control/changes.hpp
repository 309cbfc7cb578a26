// The requests of the control protocol that change something: clients (set, pause, resume, kill), programs
// (quarantine, release) and the policy (set, policy, check, reload). Decides who may; what a change means is
// the session manager's and LiveConfig's.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "daemon/control/requests.hpp"

namespace vgpu::daemon {

// The answer to request `name`; none: it is not one of these. Throws nlohmann::json::exception where a value
// has the wrong type.
[[nodiscard]] std::optional<nlohmann::json> answer_change(const BrokerState& state, const std::string& name,
                                                          const nlohmann::json& request,
                                                          const Requester& who);

}  // namespace vgpu::daemon
