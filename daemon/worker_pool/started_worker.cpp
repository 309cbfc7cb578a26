#include "daemon/worker_pool/started_worker.hpp"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "protocol/handshake.hpp"
#include "protocol/message_socket.hpp"

namespace vgpu::daemon {

bool StartedWorker::parse(int argc, char** argv) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--driver") {
      driver = argv[i + 1];
      continue;
    }
    int* const number = name == "--device"      ? &device
                        : name == "--socket"    ? &socket
                        : name == "--gate"      ? &gate
                        : name == "--attention" ? &attention
                                                : nullptr;
    if (number == nullptr) return false;
    *number = std::atoi(argv[i + 1]);
  }
  return argc % 2 == 1 && !driver.empty() && socket >= 0 && gate >= 0;
}

void StartedWorker::log(const std::string& text) const {
  std::fprintf(stderr, "%s[%d]: %s\n", program, getpid(), text.c_str());
}

int StartedWorker::fail(const std::string& text) const {
  log(text);
  WorkerFailed failed;
  set_text(failed.text, text);
  static_cast<void>(send_message(socket, failed));
  return 1;
}

}  // namespace vgpu::daemon
