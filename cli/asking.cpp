#include "cli/asking.hpp"

#include "cli/commands.hpp"
#include "cli/control_client.hpp"
#include "cli/format.hpp"

namespace vgpu::cli {

Outcome ask(const std::string& control, const nlohmann::json& request) {
  auto client = ControlClient::connect(control_path(control));
  if (!client) {
    print_error(client.error());
    return {{}, kNoBroker};
  }
  auto answer = client->ask(request);
  if (!answer) {
    print_error(answer.error());
    return {{}, kFailed};
  }
  return {std::move(*answer), kGood};
}

}  // namespace vgpu::cli
