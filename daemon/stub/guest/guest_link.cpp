#include "daemon/stub/guest/guest_link.hpp"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>

#include "daemon/base/log.hpp"
#include "daemon/stub/guest/slot.hpp"
#include "protocol/handshake.hpp"

namespace vgpu::daemon {
namespace {

constexpr std::chrono::milliseconds kBeat{50};
constexpr std::chrono::milliseconds kSilence{1000};
constexpr std::chrono::milliseconds kRetry{500};
constexpr int kAlivePatienceMs = 60;

}  // namespace

GuestLink::GuestLink(EventLoop& loop, std::string sysfs_root, std::string address,
                     std::vector<std::string> ids, Callbacks callbacks)
    : loop_(loop),
      sysfs_root_(std::move(sysfs_root)),
      address_(std::move(address)),
      ids_(std::move(ids)),
      callbacks_(std::move(callbacks)) {
  if (getrandom(&generation_, sizeof generation_, 0) != static_cast<ssize_t>(sizeof generation_) ||
      generation_ == 0) {
    generation_ = static_cast<std::uint64_t>(getpid());
  }
}

GuestLink::~GuestLink() {
  loop_.cancel(timer_);
}

void GuestLink::start() {
  timer_ = loop_.every(kBeat, [this] { beat(); });
  beat();
}

std::string GuestLink::folder() const {
  return function_ ? function_->folder().string() : std::string();
}

std::uint64_t GuestLink::most_arena_bytes() const {
  // Half of a slot's arena mirrors the client's; the rest is for host memory and large images.
  constexpr std::uint64_t rounded = 65536;
  return function_ ? function_->division().arena_bytes() / 2 / rounded * rounded : rounded;
}

void GuestLink::down(const std::string& why) {
  if (why == problem_) return;
  problem_ = why;
  log::warning("no way to the host device={} reason={}", address_.empty() ? "VGPU-STUB" : address_,
               log::quoted(why));
  callbacks_.on_down(why);
}

// Finds and opens the function; the reason why not, or an empty string.
std::string GuestLink::connect() {
  const auto folder = stub_guest::find_function(sysfs_root_, address_, ids_);
  if (!folder) return folder.error();
  auto opened = stub_guest::PciFunction::open(*folder);
  if (!opened) return opened.error();
  if (!(*opened)->lock(stub_guest::PciFunction::owner_lock)) {
    return folder->string() + " belongs to another vgpud already";
  }
  if (!(*opened)->host_alive(kAlivePatienceMs))
    return "the host's vgpud does not answer: its heartbeat stands still";
  function_ = std::move(*opened);
  stub::GuestPage& page = function_->guest();
  char name[sizeof page.name] = {};
  if (gethostname(name, sizeof name - 1) == 0) set_text(page.name, name);
  page.version.store(stub::version, std::memory_order_relaxed);
  page.protocol_hash.store(protocol_hash(), std::memory_order_relaxed);
  page.heartbeat.store(++heartbeat_, std::memory_order_relaxed);
  page.generation.store(generation_, std::memory_order_release);
  host_generation_ = function_->host().generation.load(std::memory_order_relaxed);
  host_heartbeat_ = function_->host().heartbeat.load(std::memory_order_relaxed);
  host_seen_ = EventLoop::Clock::now();
  ++hosts_;
  log::info("VGPU-STUB found function={} memory={} size_mib={} slots={} doorbell_peer={}", folder->string(),
            function_->memory_kind(), function_->division().memory_bytes >> 20U,
            function_->division().slot_count, function_->host().host_peer.load(std::memory_order_relaxed));
  return {};
}

void GuestLink::beat() {
  const auto now = EventLoop::Clock::now();
  if (!function_) {
    if (now - tried_ < kRetry) return;
    tried_ = now;
    if (const std::string why = connect(); !why.empty()) return down(why);
    function_->ring(stub::vector_request);
    log::info("connected to the host's vgpud function={}", folder());
    problem_.clear();
    callbacks_.on_up();
    return;
  }
  const stub::HostPage& host = function_->host();
  std::string why = function_->problem();
  const std::uint64_t heartbeat = host.heartbeat.load(std::memory_order_relaxed);
  if (heartbeat != host_heartbeat_) {
    host_heartbeat_ = heartbeat;
    host_seen_ = now;
  }
  if (why.empty() && now - host_seen_ > kSilence) why = "the host's vgpud has fallen silent";
  if (why.empty() && host.generation.load(std::memory_order_relaxed) != host_generation_) {
    why = "the host's vgpud was started anew";
  }
  if (!why.empty()) {
    // Everything is looked at anew: another host may have divided the memory in another way.
    function_.reset();
    tried_ = {};
    return down(why);
  }
  function_->guest().heartbeat.store(++heartbeat_, std::memory_order_relaxed);
  function_->guest().generation.store(generation_, std::memory_order_release);
  stub_guest::Slot::close_orphans(*function_);
}

LinkStats GuestLink::stats() const {
  LinkStats stats;
  stats.host_starts = hosts_;
  if (!function_) return stats;
  stats.function = folder();
  stats.memory = function_->memory_kind();
  stats.bytes = function_->division().memory_bytes;
  stats.slots = function_->division().slot_count;
  stats.host_doorbells = function_->host().doorbells.load(std::memory_order_relaxed);
  stats.connected = true;
  return stats;
}

}  // namespace vgpu::daemon
