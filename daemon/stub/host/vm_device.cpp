// What of a VM its QEMU has: the memory and the doorbells, made anew for each, and the host's page in it.
#include <sys/eventfd.h>
#include <sys/random.h>

#include "daemon/base/log.hpp"
#include "daemon/stub/host/vm.hpp"
#include "protocol/errno_text.hpp"

namespace vgpu::daemon::stub_host {
namespace {

// A folder's BAR0 is plain memory, in which 0 means that nobody rang.
constexpr std::uint32_t kFolderPeer = 1;

std::uint64_t random_generation() {
  std::uint64_t value = 0;
  if (getrandom(&value, sizeof value, 0) != static_cast<ssize_t>(sizeof value) || value == 0) value = 1;
  return value;
}

}  // namespace

// A memory and doorbells that nobody else has been given: whoever has them keeps them, and would share those
// of the next QEMU.
tl::expected<void, std::string> Vm::make_device() {
  auto memory = config_.pci_tree.empty()
                    ? VmMemory::create(config_.bytes, config_.slots)
                    : VmMemory::create_tree(config_.pci_tree, config_.bytes, config_.slots);
  if (!memory) return tl::unexpected(memory.error());
  IvshmemServer::Doorbells doorbells;
  for (UniqueFd& doorbell : doorbells) doorbell.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!doorbells.front() || !doorbells.back()) return tl::unexpected(errno_text("eventfd"));
  use_device(std::move(*memory), std::move(doorbells));
  return {};
}

void Vm::use_device(std::unique_ptr<VmMemory> memory, IvshmemServer::Doorbells doorbells) {
  rung_before_ = doorbells_received();
  doorbell_thread_.reset();
  memory_ = std::move(memory);
  doorbells_ = std::move(doorbells);
}

// Makes the memory that of a VM without sessions, and answers its doorbells from now on.
void Vm::begin_device() {
  generation_ = random_generation();
  memory_->clear_all();
  for (std::uint32_t index = 0; index < config_.slots; ++index) memory_->clear_slot(index);
  write_host_page();
  if (!doorbell_thread_) {
    doorbell_thread_ = std::make_unique<DoorbellThread>(*memory_, doorbells_, requests_.get());
  }
}

std::uint64_t Vm::doorbells_received() const {
  return rung_before_ + (doorbell_thread_ ? doorbell_thread_->received() : 0);
}

// Written anew at each beat: the guest may have scribbled over it, or been given a cleared memory.
void Vm::write_host_page() {
  constexpr auto relaxed = std::memory_order_relaxed;
  stub::HostPage& page = memory_->host();
  const stub::Division& division = memory_->division();
  page.version.store(stub::version, relaxed);
  page.slot_count.store(division.slot_count, relaxed);
  page.memory_bytes.store(division.memory_bytes, relaxed);
  page.slot_base.store(division.slot_base, relaxed);
  page.slot_stride.store(division.slot_stride, relaxed);
  page.protocol_hash.store(protocol_hash(), relaxed);
  page.generation.store(generation_, relaxed);
  page.heartbeat.store(++heartbeat_, relaxed);
  page.host_peer.store(server_ ? static_cast<std::uint32_t>(IvshmemServer::host_peer) : kFolderPeer, relaxed);
  page.vectors.store(stub::vector_count, relaxed);
  page.state.store(static_cast<std::uint32_t>(stub::HostState::serving), relaxed);
  page.doorbells.store(doorbells_received(), relaxed);
  page.magic.store(stub::magic, std::memory_order_release);
}

IvshmemServer::Device Vm::on_qemu() {
  keeper_.update(record());
  if (auto made = make_device(); !made) {
    if (lines_.allows())
      log::warning("QEMU cannot be served vm={} reason={}", config_.name, log::quoted(made.error()));
    return {};
  }
  guest_generation_ = 0;
  attached_ = false;
  for (Slot& slot : slots_) slot.answered = slot.identity = 0;
  begin_device();
  if (lines_.allows()) log::info("QEMU connected vm={}", config_.name);
  return {memory_->fd(), &doorbells_};
}

void Vm::on_qemu_gone() {
  keeper_.qemu_left();
  if (lines_.allows()) log::info("QEMU has gone vm={}", config_.name);
  close_all("its QEMU has gone");
  guest_generation_ = 0;
  attached_ = false;
  memory_->clear_all();
  // Nobody is listened to any more who may have kept what that QEMU had.
  if (auto made = make_device(); !made) {
    if (lines_.allows())
      log::warning("VM has no fresh memory vm={} reason={}", config_.name, log::quoted(made.error()));
  }
  begin_device();
}

}  // namespace vgpu::daemon::stub_host
