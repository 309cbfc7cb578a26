// vgpud-link: in a guest what vgpud-worker is on a host. Carries one client's calls over VGPU-STUB to a
// worker on the host. Started by vgpud before the client comes, with a session of the host's behind it; ends
// with the client.
#include <cuda.h>
#include <sys/prctl.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>

#include "daemon/stub/guest/link_session.hpp"
#include "daemon/stub/guest/pci_function.hpp"
#include "daemon/stub/guest/slot.hpp"
#include "daemon/worker_pool/started_worker.hpp"
#include "protocol/handshake.hpp"
#include "protocol/message_socket.hpp"

namespace {

using namespace vgpu;
using namespace vgpu::stub_guest;

constexpr int kAlivePatienceMs = 1000;  // a host beats every 25 ms; vgpud says within 100 ms if there is none
constexpr int kIdleLookMs = 100;

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
  set(CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID, report.pci_domain);
  set(CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, report.pci_bus);
  set(CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID, report.pci_device);
  return report;
}

// Told as a worker is: the function's folder stands where the driver would, the device is the host's.
int serve(const daemon::StartedWorker& started) {
  auto gate = GateMapping::attach(started.gate);
  if (!gate) return started.fail(gate.error());
  auto function = PciFunction::open(started.driver);
  if (!function) return started.fail(function.error());
  if (!(*function)->host_alive(kAlivePatienceMs)) {
    const std::string why = (*function)->problem();
    return started.fail(why.empty() ? silent_host : why);
  }
  auto slot = Slot::open(**function, [&] { return !peer_hung_up(started.socket); });
  if (!slot) return started.fail(slot.error());
  auto remote = Channel::attach_at((*function)->memory(), (*slot)->offset(), (*slot)->arena_bytes());
  if (!remote) return started.fail(remote.error());
  const DeviceReport report = report_through_link((*slot)->control().host.device, **function);
  if (const auto sent = send_message(started.socket, report); !sent) {
    started.log(sent.error());
    return 1;
  }

  // Idle here until a client is given to this link, or the host has gone.
  tl::expected<Message, std::string> message;
  do {
    if (const std::string why = (*slot)->problem(); !why.empty()) {
      started.log("gives up before a client came: " + why);
      return 1;
    }
    message = receive_message(started.socket, kIdleLookMs);
    if (!message) return started.fail(message.error());
  } while (message->none);
  if (message->closed) return 0;
  const auto* const attach = message->as<Attach>();
  if (attach == nullptr || message->fds.size() != 2)
    return started.fail("vgpud sent something else than a client");
  auto local = Channel::attach(message->fds[0].get());
  if (!local) return started.fail(local.error());
  const UniqueFd direct = std::move(message->fds[1]);
  if ((*local)->arena().size() > (*slot)->arena_bytes()) {
    return started.fail("the client's arena is larger than the slot's");
  }
  (*slot)->name(attach->pid, attach->uid, attach->program);

  LinkSession session({**function, **slot, **local, **remote, (*gate)->page(), direct.get(), started.socket,
                       started.attention, [&](const std::string& text) { started.log(text); }});
  const LinkEnd end = session.run();
  if (end == LinkEnd::host_gone) started.log("a client's session ends: " + session.host_problem());
  if (end == LinkEnd::corrupt_ring)
    started.log("the client wrote a record that no client of ours writes; its session ends");
  close_channel(**local);
  if (end != LinkEnd::client_gone && end != LinkEnd::broker_gone) return 3;
  (*gate)->page().left_in_order.store(1, std::memory_order_release);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  daemon::StartedWorker started{"vgpud-link"};
  if (!started.parse(argc, argv)) {
    std::fputs(
        "usage: vgpud-link --driver PCI_FUNCTION_FOLDER --device 0 --socket FD --gate FD [--attention FD]\n"
        "vgpud starts this program in a guest; it is of no use by hand.\n",
        stderr);
    return 2;
  }
  std::signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_NAME, "vgpud-link");
  prctl(PR_SET_TIMERSLACK, 1000UL);  // it polls: pauses of 20 us are to be of 20 us
  return serve(started);
}
