#include "cli/asking.hpp"

#include <cstdio>

#include "cli/commands.hpp"
#include "cli/control_client.hpp"

namespace vgpu::cli {

void print_error(const std::string& sentence) {
  std::fprintf(stderr, "vgpud-cli: %s\n", sentence.c_str());
}

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
