// vgpud-link: in a guest what vgpud-worker is on a host. Carries one client's calls over VGPU-STUB to a
// worker on the host. Started by vgpud before the client comes, with a session of the host's behind it; ends
// with the client.
#include <cuda.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "daemon/stub/guest/link_session.hpp"
#include "daemon/stub/guest/pci_function.hpp"
#include "daemon/stub/guest/slot.hpp"
#include "protocol/handshake.hpp"
#include "protocol/message_socket.hpp"

namespace {

using namespace vgpu;
using namespace vgpu::stub_guest;

constexpr int kAlivePatienceMs = 1000;  // a host beats every 25 ms; vgpud says within 100 ms if there is none
constexpr int kIdleLookMs = 100;

struct Options {
  std::string function;
  int socket = -1;
  int gate = -1;
  int attention = -1;
};

// Its options are those of vgpud-worker: the function's folder stands where the driver would.
bool parse(int argc, char** argv, Options& options) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--driver") {
      options.function = argv[i + 1];
      continue;
    }
    if (name == "--device") continue;
    int* const number = name == "--socket"      ? &options.socket
                        : name == "--gate"      ? &options.gate
                        : name == "--attention" ? &options.attention
                                                : nullptr;
    if (number == nullptr) return false;
    *number = std::atoi(argv[i + 1]);
  }
  return argc % 2 == 1 && !options.function.empty() && options.socket >= 0 && options.gate >= 0;
}

void log(const std::string& text) {
  std::fprintf(stderr, "vgpud-link[%d]: %s\n", getpid(), text.c_str());
}

int fail(int socket, const std::string& text) {
  log(text);
  WorkerFailed failed;
  set_text(failed.text, text);
  static_cast<void>(send_message(socket, failed));
  return 1;
}

// The host's device as it is through the link: what a guest's memory cannot do, it must not promise.
DeviceReport report_through_link(const DeviceReport& host, const PciFunction& function) {
  DeviceReport report = host;
  report.name[sizeof report.name - 1] = '\0';
  const std::string address = function.folder().filename().string();
  set_text(report.pci_bus_id, address);
  unsigned domain = 0, bus = 0, device = 0;
  if (std::sscanf(address.c_str(), "%x:%x:%x", &domain, &bus, &device) == 3) {
    report.pci_domain = static_cast<std::int32_t>(domain);
    report.pci_bus = static_cast<std::int32_t>(bus);
    report.pci_device = static_cast<std::int32_t>(device);
  }
  const auto set = [&](CUdevice_attribute which, std::int32_t value) {
    const auto index = static_cast<std::size_t>(which);
    report.attributes[index] = value;
    report.attributes_valid[index / 64] |= std::uint64_t{1} << index % 64;
  };
  set(CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, 0);
  set(CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS, 0);
  set(CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES, 0);
  set(CU_DEVICE_ATTRIBUTE_HOST_NATIVE_ATOMIC_SUPPORTED, 0);
  set(CU_DEVICE_ATTRIBUTE_DIRECT_MANAGED_MEM_ACCESS_FROM_HOST, 0);
  set(CU_DEVICE_ATTRIBUTE_MEMPOOL_SUPPORTED_HANDLE_TYPES, 0);
  set(CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID, report.pci_domain);
  set(CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, report.pci_bus);
  set(CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID, report.pci_device);
  return report;
}

int serve(const Options& options) {
  auto gate = GateMapping::attach(options.gate);
  if (!gate) return fail(options.socket, gate.error());
  auto function = PciFunction::open(options.function);
  if (!function) return fail(options.socket, function.error());
  if (!(*function)->host_alive(kAlivePatienceMs)) {
    return fail(options.socket, "the host's vgpud does not answer: its heartbeat stands still");
  }
  auto slot = Slot::open(**function, [&] { return !peer_hung_up(options.socket); });
  if (!slot) return fail(options.socket, slot.error());
  auto remote = Channel::attach_at((*function)->memory(), (*slot)->offset(), (*slot)->arena_bytes());
  if (!remote) return fail(options.socket, remote.error());
  const DeviceReport report = report_through_link((*slot)->control().host.device, **function);
  if (const auto sent = send_message(options.socket, report); !sent) {
    log(sent.error());
    return 1;
  }

  // Idle here until a client is given to this link, or the host has gone.
  tl::expected<Message, std::string> message;
  do {
    if (const std::string why = (*slot)->problem(); !why.empty()) {
      log("gives up before a client came: " + why);
      return 1;
    }
    message = receive_message(options.socket, kIdleLookMs);
    if (!message) return fail(options.socket, message.error());
  } while (message->none);
  if (message->closed) return 0;
  const auto* const attach = message->as<Attach>();
  if (attach == nullptr || message->fds.size() != 2)
    return fail(options.socket, "vgpud sent something else than a client");
  auto local = Channel::attach(message->fds[0].get());
  if (!local) return fail(options.socket, local.error());
  const UniqueFd direct = std::move(message->fds[1]);
  if ((*local)->arena().size() > (*slot)->arena_bytes()) {
    return fail(options.socket, "the client's arena is larger than the slot's");
  }
  (*slot)->name(attach->pid, attach->uid, attach->program);

  LinkSession session({**function, **slot, **local, **remote, (*gate)->page(), direct.get(), options.socket,
                       options.attention});
  const LinkEnd end = session.run();
  if (end == LinkEnd::host_gone) log("a client's session ends: " + session.host_problem());
  if (end == LinkEnd::corrupt_ring)
    log("the client wrote a record that no client of ours writes; its session ends");
  close_channel(**local);
  if (end != LinkEnd::client_gone && end != LinkEnd::broker_gone) return 3;
  (*gate)->page().left_in_order.store(1, std::memory_order_release);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, options)) {
    std::fputs(
        "usage: vgpud-link --driver PCI_FUNCTION_FOLDER --device 0 --socket FD --gate FD [--attention FD]\n"
        "vgpud starts this program in a guest; it is of no use by hand.\n",
        stderr);
    return 2;
  }
  std::signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_NAME, "vgpud-link");
  prctl(PR_SET_TIMERSLACK, 1000UL);  // it polls: pauses of 20 us are to be of 20 us
  return serve(options);
}
