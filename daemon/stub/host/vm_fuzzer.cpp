// Fuzzes what the host makes of the words that a guest writes into the shared memory: any bytes anywhere in
// it, between any two looks of the host's. (What workers make of records is record_fuzzer's.)
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "daemon/stub/host/vm.hpp"

namespace {

using namespace vgpu;
using namespace vgpu::daemon;

struct Host {
  EventLoop loop;
  std::shared_ptr<const Config> config = std::make_shared<const Config>(default_config());
  DescriptorStore store;
  SessionManager sessions{loop, config, store};  // without devices: every session is refused
  stub_host::Vm vm{loop,  sessions,
                   store, vm_config(),
                   true,  [this](const std::string&) { return &config->classes.at("default"); }};

  static VmConfig vm_config() {
    VmConfig wanted;
    wanted.name = "fuzzed";
    wanted.bytes = 16U << 20U;
    wanted.slots = 3;
    wanted.class_name = "default";
    wanted.socket = "/tmp/vgpud-vm-fuzzer-" + std::to_string(getpid()) + ".sock";
    return wanted;
  }
  Host() {
    if (!vm.start("", std::nullopt)) std::abort();
  }
};

// Of each write of the input: where, then how long, then the bytes. Most go to the words that the host reads.
struct Write {
  std::uint8_t area;
  std::uint8_t offset;
  std::uint8_t bytes;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static auto* const host = new Host;
  const stub_host::VmMemory& memory = host->vm.memory();
  auto* const base = reinterpret_cast<std::uint8_t*>(&memory.host());
  while (size >= sizeof(Write)) {
    Write write;
    std::memcpy(&write, data, sizeof write);
    data += sizeof write;
    size -= sizeof write;
    if (write.area == 0xFF) {
      host->vm.look();
      host->loop.run_once(std::chrono::nanoseconds(0));
      continue;
    }
    const std::uint32_t slot = write.area % 4;
    const std::uint64_t at = slot == 3 ? stub::guest_page_offset : memory.division().control(slot);
    const std::size_t bytes = std::min<std::size_t>(write.bytes, size);
    std::memcpy(base + at + write.offset, data, bytes);
    data += bytes;
    size -= bytes;
  }
  host->vm.look();
  host->loop.run_once(std::chrono::nanoseconds(0));
  return 0;
}
