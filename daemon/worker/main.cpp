// vgpud-worker: holds one device for one client. Started by vgpud before the client comes; ends with the
// client.
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "daemon/worker/console.hpp"
#include "daemon/worker/driver_library.hpp"
#include "daemon/worker/session.hpp"
#include "protocol/handshake.hpp"
#include "protocol/message_socket.hpp"
#include "protocol/reply_slots.hpp"
#include "protocol/stub_layout.hpp"

namespace {

using namespace vgpu;

struct Options {
  std::string driver;
  int device = 0;
  int socket = -1;
  int gate = -1;
  int attention = -1;
};

bool parse(int argc, char** argv, Options& options) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--driver") {
      options.driver = argv[i + 1];
      continue;
    }
    int* const number = name == "--device"      ? &options.device
                        : name == "--socket"    ? &options.socket
                        : name == "--gate"      ? &options.gate
                        : name == "--attention" ? &options.attention
                                                : nullptr;
    if (number == nullptr) return false;
    *number = std::atoi(argv[i + 1]);
  }
  return argc % 2 == 1 && !options.driver.empty() && options.socket >= 0 && options.gate >= 0;
}

void log(const std::string& text) {
  std::fprintf(stderr, "vgpud-worker[%d]: %s\n", getpid(), text.c_str());
}

int fail(int socket, const std::string& text) {
  log(text);
  WorkerFailed failed;
  set_text(failed.text, text);
  static_cast<void>(send_message(socket, failed));
  return 1;
}

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
  Options options;
  if (!parse(argc, argv, options)) {
    std::fputs(
        "usage: vgpud-worker --driver LIBCUDA --device N --socket FD --gate FD [--attention FD]\n"
        "vgpud starts this program; it is of no use by hand.\n",
        stderr);
    return 2;
  }
  std::signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_NAME, "vgpud-worker");

  auto gate = GateMapping::attach(options.gate);
  if (!gate) return fail(options.socket, gate.error());
  auto console = worker::Console::take_over_stdout();
  if (!console) return fail(options.socket, console.error());
  auto driver = worker::DriverLibrary::open(options.driver, options.device);
  if (!driver) return fail(options.socket, driver.error());
  worker::HostRegions regions((*driver)->table());
  if (const auto reserved = regions.reserve(); !reserved) return fail(options.socket, reserved.error());
  if (const auto sent = send_message(options.socket, (*driver)->report()); !sent) {
    log(sent.error());
    return 1;
  }

  // Idle here until a client is given to this worker.
  auto message = receive_message(options.socket, -1);
  if (!message) return fail(options.socket, message.error());
  if (message->closed) return 0;
  const auto* const attach = message->as<Attach>();
  if (attach == nullptr || message->fds.size() != 2)
    return fail(options.socket, "vgpud sent something else than a client");
  // Of a process in a VM: a part of the VM's memory, which vgpud made and divided.
  const bool in_vm = attach->arena_bytes != 0;
  const UniqueFd memory = std::move(message->fds[0]);
  auto channel = in_vm ? Channel::attach_at(memory.get(), attach->slot_offset, attach->arena_bytes)
                       : Channel::attach(memory.get());
  if (!channel) return fail(options.socket, channel.error());
  stub::SlotControl* slot = nullptr;
  if (in_vm) {
    void* const page = mmap(nullptr, sizeof(stub::SlotControl), PROT_READ | PROT_WRITE, MAP_SHARED,
                            memory.get(), static_cast<off_t>(attach->control_offset));
    if (page == MAP_FAILED) return fail(options.socket, "the slot of the VM's memory cannot be mapped");
    slot = static_cast<stub::SlotControl*>(page);
    (*console)->forward_to(*slot);
  }
  const UniqueFd direct = std::move(message->fds[1]);
  (*gate)->page().memory_quota.store(attach->memory_quota);

  worker::Accounting accounting((*gate)->page(), driver->get(), options.attention);
  if (slot != nullptr) accounting.tell(*slot);
  worker::SessionEnd end{};
  {
    worker::Session session({(*driver)->table(), driver->get(), (*driver)->device(), (*driver)->context(),
                             **channel, accounting, regions, console->get(), direct.get(), options.socket,
                             in_vm ? memory.get() : -1, attach->slot_offset + channel_offset::arena});
    end = session.run();
    close_channel(**channel);
    const bool in_order = end != worker::SessionEnd::corrupt_ring && end != worker::SessionEnd::orphaned;
    if (!in_order) {
      log(describe(end));
    } else {
      (*gate)->page().left_in_order.store(1, std::memory_order_release);
    }
    // The driver may be in the middle of work that nobody wants any more: leave all of it to the kernel.
    _exit(in_order ? 0 : 3);
  }
}
