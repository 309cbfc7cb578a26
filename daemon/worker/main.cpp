// vgpud-worker: holds one device for one client. Started by vgpud before the client comes, when it hears of
// further devices that the client has; ends with the client.
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "daemon/worker/console.hpp"
#include "daemon/worker/driver_library.hpp"
#include "daemon/worker/session.hpp"
#include "daemon/worker_pool/started_worker.hpp"
#include "protocol/handshake.hpp"
#include "protocol/message_socket.hpp"
#include "protocol/reply_slots.hpp"
#include "protocol/stub_layout.hpp"

namespace {

using namespace vgpu;

const char* describe(worker::SessionEnd end) {
  switch (end) {
    case worker::SessionEnd::client_gone:
      return "the client has gone";
    case worker::SessionEnd::broker_gone:
      return "vgpud has gone";
    case worker::SessionEnd::corrupt_ring:
      return "the client wrote a record that no client of ours writes; its session ends";
    case worker::SessionEnd::stopped:
      return "stopped";
    case worker::SessionEnd::orphaned:
      return "the client waits for an event of a client that has ended before it happened; its session ends";
  }
  return "";
}

}  // namespace

int main(int argc, char** argv) {
  daemon::StartedWorker started{"vgpud-worker"};
  if (!started.parse(argc, argv)) {
    std::fputs(
        "usage: vgpud-worker --driver LIBCUDA --device N --socket FD --gate FD [--attention FD]\n"
        "vgpud starts this program; it is of no use by hand.\n",
        stderr);
    return 2;
  }
  std::signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_NAME, "vgpud-worker");

  auto gate = GateMapping::attach(started.gate);
  if (!gate) return started.fail(gate.error());
  auto console = worker::Console::take_over_stdout();
  if (!console) return started.fail(console.error());
  auto driver = worker::DriverLibrary::open(started.driver, started.device);
  if (!driver) return started.fail(driver.error());
  worker::HostRegions regions((*driver)->table());
  if (const auto reserved = regions.reserve(); !reserved) return started.fail(reserved.error());
  if (const auto sent = send_message(started.socket, (*driver)->report()); !sent) {
    started.log(sent.error());
    return 1;
  }

  // Idle here until a client is given to this worker.
  auto message = receive_message(started.socket, -1);
  if (!message) return started.fail(message.error());
  if (message->closed) return 0;
  const auto* const attach = message->as<Attach>();
  // Of a process in a VM: a part of the VM's memory, which vgpud made and divided.
  const bool in_vm = attach != nullptr && attach->arena_bytes != 0;
  if (attach == nullptr || message->fds.size() != (in_vm ? 3 : 2))
    return started.fail("vgpud sent something else than a client");
  const UniqueFd memory = std::move(message->fds[0]);
  auto channel = in_vm ? Channel::attach_at(memory.get(), attach->slot_offset, attach->arena_bytes)
                       : Channel::attach(memory.get());
  if (!channel) return started.fail(channel.error());
  stub::SlotControl* slot = nullptr;
  std::unique_ptr<MemoryAccount> vms_account;
  if (in_vm) {
    auto account = MemoryAccount::attach(message->fds[2].get());
    if (!account) return started.fail(account.error());
    vms_account = std::move(*account);
    void* const page = mmap(nullptr, sizeof(stub::SlotControl), PROT_READ | PROT_WRITE, MAP_SHARED,
                            memory.get(), static_cast<off_t>(attach->control_offset));
    if (page == MAP_FAILED) return started.fail("the slot of the VM's memory cannot be mapped");
    slot = static_cast<stub::SlotControl*>(page);
    (*console)->forward_to(*slot);
  }
  const UniqueFd direct = std::move(message->fds[1]);
  for (std::size_t i = 0; i < std::min(attach->further_count, most_client_devices - 1); ++i) {
    const auto added = (*driver)->add(static_cast<int>(attach->further[i]));
    if (added) continue;
    started.log("a further device of the client's cannot serve: " + added.error());
    close_channel(**channel);
    return 3;
  }
  // Accounts do not move.
  std::deque<worker::Accounting> accounts;
  std::vector<worker::ClientDevice> further;
  for (std::size_t i = 0; i < (*driver)->devices().size(); ++i) {
    GatePage& page = (*gate)->page(i);
    page.memory_quota.store(attach->memory_quota);
    worker::Accounting& account = accounts.emplace_back(page, driver->get(), started.attention, i);
    if (vms_account != nullptr) account.share_quota(*vms_account, attach->account_place);
    const worker::RetainedDevice& device = (*driver)->devices()[i];
    if (i != 0) further.push_back({device.device, device.context, &account});
  }
  worker::Accounting& accounting = accounts.front();
  if (slot != nullptr) accounting.tell(*slot);
  worker::SessionEnd end{};
  {
    worker::Session session({(*driver)->table(), driver->get(), (*driver)->device(), (*driver)->context(),
                             **channel, accounting, regions, console->get(), direct.get(), started.socket,
                             in_vm ? memory.get() : -1, attach->slot_offset + channel_offset::arena,
                             std::move(further)});
    end = session.run();
    close_channel(**channel);
    const bool in_order = end != worker::SessionEnd::corrupt_ring && end != worker::SessionEnd::orphaned;
    if (!in_order) {
      started.log(describe(end));
    } else {
      (*gate)->page().left_in_order.store(1, std::memory_order_release);
    }
    (*console)->settle_log();
    // The driver may be in the middle of work that nobody wants any more: leave all of it to the kernel.
    _exit(in_order ? 0 : 3);
  }
}
