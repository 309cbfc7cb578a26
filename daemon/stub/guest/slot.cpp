#include "daemon/stub/guest/slot.hpp"

#include <cstring>
#include <ctime>

#include "protocol/futex.hpp"

namespace vgpu::stub_guest {
namespace {

constexpr std::uint64_t kRingAgainNs = 20'000'000;
constexpr std::uint64_t kSilenceNs = 2'000'000'000;  // of a host that beats every 25 ms

void short_pause() {
  const timespec pause{0, 100'000};
  nanosleep(&pause, nullptr);
}

bool is(const stub::SlotControl& control, stub::SlotState state) {
  return control.host.state.load(std::memory_order_acquire) == static_cast<std::uint32_t>(state);
}

// The host's number of the session in it.
std::uint64_t session_of(const stub::SlotControl& control) {
  return __atomic_load_n(&control.host.session, __ATOMIC_RELAXED);
}

// Writes a request, by who holds the slot's lock; the answer is awaited by its number.
std::uint32_t request(stub::SlotControl& control, bool open) {
  const std::uint32_t next = stub::next_request(control.guest.request.load(std::memory_order_relaxed), open);
  control.guest.request.store(next, std::memory_order_release);
  return next;
}

}  // namespace

Slot::Slot(const PciFunction& function, std::uint32_t index)
    : function_(function),
      index_(index),
      generation_(function.host().generation.load(std::memory_order_relaxed)) {}

bool Slot::ask(const std::function<bool()>& go_on) {
  const stub::SlotControl& slot = control();
  const std::uint32_t wanted = request(control(), true);
  std::uint64_t rang = 0;
  while (slot.host.answered.load(std::memory_order_acquire) != wanted) {
    if (const std::uint64_t now = now_ns(); now - rang > kRingAgainNs) {
      rang = now;
      if (!go_on() || !host_problem().empty()) return false;
      function_.ring(stub::vector_request);
    }
    short_pause();
  }
  return true;
}

tl::expected<std::unique_ptr<Slot>, std::string> Slot::open(const PciFunction& function,
                                                            const std::function<bool()>& go_on) {
  const std::uint32_t count = function.division().slot_count;
  // Those that the host knows to be free first; then those whose owners have died without closing them.
  for (const bool only_free : {true, false}) {
    for (std::uint32_t index = 0; index < count; ++index) {
      if (only_free && !is(function.slot(index), stub::SlotState::free)) continue;
      if (!function.lock(index)) continue;
      std::unique_ptr<Slot> slot(new Slot(function, index));
      if (!slot->ask(go_on)) {
        const std::string why = slot->host_problem();
        return tl::unexpected("the host does not answer the request for a session" +
                              (why.empty() ? why : ": " + why));
      }
      stub::SlotControl& control = slot->control();
      if (is(control, stub::SlotState::open)) {
        slot->session_ = session_of(control);
        return slot;
      }
      char text[sizeof control.host.reason];
      std::memcpy(text, control.host.reason, sizeof text);
      return tl::unexpected("the host refuses: " + std::string(text, strnlen(text, sizeof text)));
    }
  }
  return tl::unexpected("all " + std::to_string(count) + " slots of the device are in use");
}

Slot::~Slot() {
  // The host frees it when it comes to it; nobody waits for that but who wants the slot next.
  request(control(), false);
  function_.ring(stub::vector_request);
}

void Slot::name(std::int32_t pid, std::uint32_t uid, const char* program) const {
  stub::SlotGuest& guest = control().guest;
  guest.pid = pid;
  guest.uid = uid;
  std::strncpy(guest.program, program, sizeof guest.program - 1);
  guest.identity.store(guest.identity.load(std::memory_order_relaxed) + 1, std::memory_order_release);
}

std::string Slot::problem() {
  if (is(control(), stub::SlotState::ended)) return "the host ended the session";
  if (std::string why = host_problem(); !why.empty()) return why;
  // Its channel is cleared with it: nothing there would ever say so.
  if (!is(control(), stub::SlotState::open) || session_of(control()) != session_) {
    return "slot " + std::to_string(index_) + " does not hold this session any more";
  }
  return {};
}

std::string Slot::host_problem() {
  if (std::string why = function_.problem(); !why.empty()) return why;
  if (function_.host().generation.load(std::memory_order_relaxed) != generation_) {
    return "the host's vgpud was started anew";
  }
  const std::uint64_t heartbeat = function_.host().heartbeat.load(std::memory_order_relaxed);
  const std::uint64_t now = now_ns();
  if (heartbeat != heartbeat_ || heard_ns_ == 0) {
    heartbeat_ = heartbeat;
    heard_ns_ = now;
  }
  return now - heard_ns_ > kSilenceNs ? "the host's vgpud has fallen silent" : std::string();
}

void Slot::close_orphans(const PciFunction& function) {
  for (std::uint32_t index = 0; index < function.division().slot_count; ++index) {
    stub::SlotControl& slot = function.slot(index);
    const auto opened = [&] { return stub::wants_open(slot.guest.request.load(std::memory_order_relaxed)); };
    if (!opened() || !function.lock(index)) continue;
    if (!opened()) {
      function.unlock(index);
      continue;
    }
    request(slot, false);
    function.unlock(index);
    function.ring(stub::vector_request);
  }
}

}  // namespace vgpu::stub_guest
