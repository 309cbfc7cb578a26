#include "daemon/stub/host/vm.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "daemon/base/log.hpp"
#include "daemon/stub/host/printable.hpp"
#include "protocol/errno_text.hpp"
#include "protocol/message_socket.hpp"

namespace vgpu::daemon::stub_host {
namespace {

constexpr std::chrono::milliseconds kBeat{25};
constexpr unsigned kOpensAtOnce = 64;
// What a guest or who connects as its QEMU can cause over and over.
constexpr unsigned kLinesAtOnce = 20;
constexpr std::chrono::seconds kLinesPeriod{10};

}  // namespace

Vm::Vm(EventLoop& loop, SessionManager& sessions, DescriptorStore& store, VmConfig config, bool configured,
       ClassOf class_of)
    : loop_(loop),
      sessions_(sessions),
      config_(std::move(config)),
      configured_(configured),
      class_of_(std::move(class_of)),
      keeper_(store, config_.name),
      lines_(kLinesAtOnce, kLinesPeriod, "vm=" + config_.name) {}

Vm::~Vm() {
  loop_.cancel(timer_);
  if (requests_) loop_.forget(requests_.get());
  if (!memory_) return;
  stub::HostPage& page = memory_->host();
  set_text(page.reason, "the host's vgpud has ended or no longer serves this VM");
  page.state.store(static_cast<std::uint32_t>(stub::HostState::not_serving), std::memory_order_release);
  close_all("the VM is no longer served");
  for (std::uint32_t index = 0; index < slots_.size(); ++index) close(index);
}

VmRecord Vm::record() const {
  return {config_, configured_, server_->next_peer()};
}

tl::expected<void, std::string> Vm::start(const std::string& group, std::optional<KeptVm> kept) {
  if (config_.pci_tree.empty() && !DoorbellThread::possible()) {
    return tl::unexpected(std::string("this kernel cannot serve VMs, Linux 5.8 or newer can"));
  }
  if (kept && (!config_.pci_tree.empty() || kept->record.config.bytes != config_.bytes ||
               kept->record.config.slots != config_.slots)) {
    log::warning("VM is configured otherwise than before, its QEMU loses it vm={}", config_.name);
    kept.reset();
  }
  if (!kept) keeper_.forget();
  if (kept && kept->qemu) {
    auto memory = VmMemory::adopt(std::move(kept->qemu->memory), config_.slots);
    if (!memory) return tl::unexpected(memory.error());
    use_device(std::move(*memory), std::move(kept->qemu->doorbells));
  } else if (auto made = make_device(); !made) {
    return made;
  }
  auto account = MemoryAccount::create(account_fd_);
  if (!account) return tl::unexpected(account.error());
  account_ = std::move(*account);
  requests_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!requests_) return tl::unexpected(errno_text("eventfd"));
  slots_.resize(config_.slots);
  loop_.watch(requests_.get(), EPOLLIN, [this](std::uint32_t) { on_request(); });
  if (config_.pci_tree.empty()) {
    IvshmemServer::Callbacks callbacks;
    callbacks.on_connect = [this] { return on_qemu(); };
    callbacks.on_served = [this](int socket) { keeper_.qemu_came(memory_->fd(), doorbells_, socket); };
    callbacks.on_disconnect = [this] { on_qemu_gone(); };
    server_ = std::make_unique<IvshmemServer>(loop_, std::move(callbacks));
    if (auto listening = server_->listen(config_.socket, group); !listening) return listening;
    std::optional<StateMemory> state;
    if (kept) {
      state = std::move(kept->state);
      server_->adopt(kept->qemu ? std::move(kept->qemu->connection) : UniqueFd(), kept->record.next_peer);
    }
    keeper_.begin(record(), std::move(state));
  }
  begin_device();
  timer_ = loop_.every(kBeat, [this] { beat(); });
  log::info("VM served vm={} size_mib={} slots={} at={} qemu={}", config_.name, config_.bytes >> 20U,
            config_.slots, config_.pci_tree.empty() ? config_.socket : config_.pci_tree,
            server_ && server_->connected() ? "of the vgpud before" : "none yet");
  return {};
}

void Vm::on_request() {
  std::uint64_t count = 0;
  if (read(requests_.get(), &count, sizeof count) != static_cast<ssize_t>(sizeof count)) return;
  if (!first_doorbell_logged_) {
    first_doorbell_logged_ = true;
    log::info("first doorbell of a VM vm={}", config_.name);
  }
  scan();
}

void Vm::beat() {
  write_host_page();
  may_open_ = std::min(may_open_ + 1, kOpensAtOnce);  // 40 a second
  watch_heartbeat();
  scan();
  share_out();
  lines_.look();
}

// Whatever the guest's generation says: who does not beat holds nothing.
void Vm::watch_heartbeat() {
  const bool attached = guest_is_attached();
  const std::uint64_t heartbeat = memory_->guest().heartbeat.load(std::memory_order_relaxed);
  const auto now = EventLoop::Clock::now();
  if (heartbeat != guest_heartbeat_) {
    guest_heartbeat_ = heartbeat;
    guest_seen_ = now;
    if (attached || guest_generation_ == 0) return;
    attached_ = true;
    if (lines_.allows()) log::info("guest is back vm={}", config_.name);
  } else if (attached && now - guest_seen_ > config_.guest_timeout) {
    attached_ = false;
    close_all("its guest has not shown a heartbeat in time");
    if (lines_.allows()) log::warning("guest is silent vm={}", config_.name);
  }
}

// False while no guest's vgpud is attached or the one that was is silent. With another generation, be it
// none, all ends that the guest had open.
bool Vm::guest_is_attached() {
  const std::uint64_t generation = memory_->guest().generation.load(std::memory_order_acquire);
  if (generation == guest_generation_) return attached_;
  if (guest_generation_ != 0) {
    close_all(generation == 0 ? "its guest's vgpud has left" : "its guest's vgpud was started anew");
  }
  guest_generation_ = generation;
  guest_seen_ = EventLoop::Clock::now();
  attached_ = generation != 0;
  if (attached_ && lines_.allows()) {
    log::info("guest attached vm={} guest={}", config_.name, log::quoted(printable(memory_->guest().name)));
  }
  return attached_;
}

void Vm::scan() {
  if (!guest_is_attached()) return;
  for (std::uint32_t index = 0; index < slots_.size(); ++index) look_at(index);
}

void Vm::look_at(std::uint32_t index) {
  Slot& slot = slots_[index];
  const stub::SlotGuest& words = memory_->slot(index).guest;
  const std::uint32_t request = words.request.load(std::memory_order_acquire);
  if (request == slot.answered) {
    if (slot.state == stub::SlotState::open) read_identity(index);
    return;
  }
  const bool open_wanted = stub::wants_open(request);
  // Each session costs a worker: a guest that asks for them without end waits for the next beats.
  if (open_wanted && may_open_ == 0) return;
  if (slot.socket) {
    leave(index);  // looked at again when that session's worker has gone
    return;
  }
  slot.answered = request;
  if (open_wanted) {
    --may_open_;
    open(index);
  } else {
    memory_->clear_slot(index);  // gives its pages back
    publish(index, stub::SlotState::free, "", RefusalCode::internal);
  }
}

void Vm::open(std::uint32_t index) {
  Slot& slot = slots_[index];
  memory_->clear_slot(index);
  auto pair = message_socket_pair();
  const ClassConfig* const client_class = class_of_(config_.class_name);
  if (!pair || client_class == nullptr) {
    publish(index, stub::SlotState::refused,
            pair ? "the VM's class is not configured any more" : pair.error(), RefusalCode::internal);
    return;
  }
  const stub::Division& division = memory_->division();
  GuestPlace place;
  place.vm = config_.name;
  place.memory = memory_->fd();
  place.slot_offset = division.memory(index);
  place.arena_bytes = division.arena_bytes();
  place.control_offset = division.control(index);
  place.account = account_fd_.get();
  place.account_place = index;
  slot.state = stub::SlotState::opening;
  slot.socket = std::move(pair->first);
  // What the words say now is of the slot's last process: of this session they speak once they change.
  slot.identity = memory_->slot(index).guest.identity.load(std::memory_order_acquire);
  loop_.watch(slot.socket.get(), EPOLLIN | EPOLLRDHUP, [this, index](std::uint32_t) { on_session(index); });
  slot.session =
      sessions_.admit_guest(std::move(pair->second), std::move(place), *client_class, config_.device);
}

// What the session manager tells a client: here the answer to the guest's request, later only the end.
void Vm::on_session(std::uint32_t index) {
  Slot& slot = slots_[index];
  auto message = receive_message(slot.socket.get(), 0);
  if (message && message->none) return;
  const bool gone = !message || message->closed;
  if (slot.leaving) {
    if (!gone) return;
    close(index);
    look_at(index);
    return;
  }
  if (!gone && slot.state == stub::SlotState::opening) {
    if (const auto* welcome = message->as<Welcome>(); welcome != nullptr && message->fds.size() == 2) {
      slot.direct = std::move(message->fds[1]);
      slot.session = welcome->session;
      stub::SlotHost& words = memory_->slot(index).host;
      words.session = welcome->session;
      words.memory_quota = welcome->memory_quota;
      words.device = welcome->device;
      ++opened_;
      publish(index, stub::SlotState::open, "", RefusalCode::internal);
      return;
    }
    if (const auto* refused = message->as<Refused>()) {
      const std::string reason(refused->text, strnlen(refused->text, sizeof refused->text));
      const RefusalCode code = refused->code;
      close(index);
      ++refused_;
      publish(index, stub::SlotState::refused, reason, code);
      return;
    }
  }
  close(index);
  publish(index, stub::SlotState::ended, "the host ended the session", RefusalCode::internal);
}

// Ends a slot's session. Its worker maps the slot's memory until it is gone, which on_session() hears of.
void Vm::leave(std::uint32_t index) {
  Slot& slot = slots_[index];
  if (slot.leaving) return;
  slot.leaving = true;
  slot.session = 0;
  slot.state = stub::SlotState::free;
  shutdown(slot.socket.get(), SHUT_WR);
}

void Vm::close(std::uint32_t index) {
  Slot& slot = slots_[index];
  if (slot.socket) {
    loop_.forget(slot.socket.get());
    slot.socket.reset();
    slot.direct.reset();
  }
  account_->clear(index);
  slot.leaving = false;
  slot.session = 0;
  slot.state = stub::SlotState::free;
}

void Vm::close_all(const std::string& why) {
  unsigned open = 0;
  for (std::uint32_t index = 0; index < slots_.size(); ++index) {
    if (slots_[index].socket) {
      ++open;
      leave(index);
    }
    memory_->slot(index).host.state.store(static_cast<std::uint32_t>(stub::SlotState::ended),
                                          std::memory_order_release);
  }
  if (open != 0) {
    ++lost_;
    if (lines_.allows()) {
      log::info("sessions of a VM ended vm={} sessions={} why={}", config_.name, open, log::quoted(why));
    }
  }
}

void Vm::publish(std::uint32_t index, stub::SlotState state, const std::string& reason, RefusalCode code) {
  Slot& slot = slots_[index];
  slot.state = state;
  stub::SlotHost& words = memory_->slot(index).host;
  set_text(words.reason, reason);
  words.code = static_cast<std::uint32_t>(code);
  words.state.store(static_cast<std::uint32_t>(state), std::memory_order_release);
  words.answered.store(slot.answered, std::memory_order_release);
  if (state == stub::SlotState::refused && lines_.allows()) {
    log::info("guest process refused vm={} slot={} reason={}", config_.name, index, log::quoted(reason));
  }
}

void Vm::read_identity(std::uint32_t index) {
  Slot& slot = slots_[index];
  const stub::SlotGuest& words = memory_->slot(index).guest;
  const std::uint32_t identity = words.identity.load(std::memory_order_acquire);
  if (identity == slot.identity) return;
  slot.identity = identity;
  sessions_.name_guest(slot.session, words.pid, words.uid, printable(words.program));
}

}  // namespace vgpu::daemon::stub_host
