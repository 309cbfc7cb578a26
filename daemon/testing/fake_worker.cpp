// A worker without a device, for tests of the broker: speaks the handshake, serves nothing. How it behaves is
// said by the name of the "driver" it is given: ok, fail, dies, garbage, mute; moved: its client's memory
// lies in the host's, and it asks for it to be let back each time that another vgpud has taken over.
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "protocol/gate.hpp"
#include "protocol/handshake.hpp"
#include "protocol/ipc.hpp"
#include "protocol/message_socket.hpp"

namespace {

// The value after `name` among the arguments.
std::string argument(int count, char** values, const char* name) {
  for (int i = 1; i + 1 < count; ++i) {
    if (std::strcmp(values[i], name) == 0) return values[i + 1];
  }
  return {};
}

void pretend_to_work(int gate_fd) {
  const auto gate = vgpu::GateMapping::attach(gate_fd);
  if (!gate) std::exit(4);
  vgpu::GatePage& page = (*gate)->page();
  page.launches.store(7);
  page.kernel_ns.store(1000);
  page.memory_used.store(4096);
  page.latency[vgpu::latency_bucket(5000)].store(10);
}

constexpr std::uint64_t moved_bytes = 4096;

void pretend_to_have_moved(vgpu::GatePage& page) {
  page.memory_moved.store(moved_bytes);
  page.memory_out.store(1);
  page.memory_claim.store(0);
  page.memory_granted.store(0);
}

// Waits for the answer, as long as it takes.
void ask_to_come_back(vgpu::GatePage& page, int attention) {
  page.memory_wanted.store(moved_bytes);
  const std::uint64_t request = page.memory_request.fetch_add(1) + 1;
  const std::uint64_t one = 1;
  while (page.memory_answered.load() != request) {
    if (write(attention, &one, sizeof one) < 0) std::exit(5);
    usleep(10'000);
  }
  page.memory_wanted.store(0);
  if (page.memory_granted.load() >= moved_bytes) page.moves_in.fetch_add(1);
}

}  // namespace

int main(int count, char** values) {
  std::signal(SIGTERM, [](int) { _exit(0); });
  const std::string driver = argument(count, values, "--driver");
  const std::string behaviour = driver.substr(driver.rfind('/') + 1);
  const int socket = std::atoi(argument(count, values, "--socket").c_str());
  const int gate = std::atoi(argument(count, values, "--gate").c_str());
  const int attention = std::atoi(argument(count, values, "--attention").c_str());
  if (behaviour == "dies") return 3;
  if (behaviour == "fail") {
    vgpu::WorkerFailed failed;
    vgpu::set_text(failed.text, "the driver is broken");
    if (!vgpu::send_message(socket, failed)) return 2;
    return 1;
  }
  if (behaviour == "garbage") {
    if (send(socket, "garbage", 7, MSG_NOSIGNAL) != 7) return 2;
  } else if (behaviour != "mute") {
    vgpu::DeviceReport report;
    vgpu::set_text(report.name, "Fake GPU");
    report.total_memory = 1U << 30U;
    if (!vgpu::send_message(socket, report)) return 2;
  }
  std::vector<vgpu::UniqueFd> held;  // the channel and the direct socket
  while (true) {
    auto message = vgpu::receive_message(socket, -1);
    if (!message || message->closed) return 0;
    for (vgpu::UniqueFd& fd : message->fds) held.push_back(std::move(fd));
    if (message->as<vgpu::Attach>() != nullptr) pretend_to_work(gate);
    if (behaviour != "moved") continue;
    const auto page = vgpu::GateMapping::attach(gate);
    if (message->as<vgpu::Attach>() != nullptr) pretend_to_have_moved((*page)->page());
    if (message->as<vgpu::IpcAgain>() != nullptr) ask_to_come_back((*page)->page(), attention);
  }
}
