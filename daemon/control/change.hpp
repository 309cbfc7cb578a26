// One request of the control protocol that changes something, and who made it. For the files of this folder
// that answer such requests.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "daemon/control/requests.hpp"

namespace vgpu::daemon {

struct Change {
  const BrokerState& state;
  const nlohmann::json& request;
  const Requester& who;
  bool administrator;
};

// The answer, or a sentence that says why there is none.
using Outcome = tl::expected<nlohmann::json, std::string>;

// The sentence for who is no administrator and wants to do `what`.
[[nodiscard]] std::string for_administrators(const Change& change, const char* what);

// The sessions that a request means by "pid" or "session", as far as the asking user may change them.
[[nodiscard]] tl::expected<std::vector<std::uint64_t>, std::string> sessions_of(const Change& change);

// What the request says to set; none said is an error.
[[nodiscard]] tl::expected<Settings, std::string> settings_of(const Change& change);

// {"request":"set","target":"client"}: all that it says is done to all sessions that it means, or nothing.
[[nodiscard]] Outcome set_client(const Change& change);

}  // namespace vgpu::daemon
