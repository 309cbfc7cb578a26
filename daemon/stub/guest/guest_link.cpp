#include "daemon/stub/guest/guest_link.hpp"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>

#include "daemon/base/log.hpp"
#include "daemon/stub/guest/slot.hpp"
#include "protocol/handshake.hpp"

namespace vgpu::daemon {
namespace {

constexpr std::chrono::milliseconds kBeat{25};
// A host beats every 25 ms. What silence of it means: clients that come now wait; those that wait are
// refused, as are others until it beats again; the function is opened anew.
constexpr std::chrono::milliseconds kDoubt{150};
constexpr std::chrono::milliseconds kRefuse{210};
constexpr std::chrono::milliseconds kSilence{1000};
// What one look can add: a time in which this process did not run says nothing of the host.
constexpr std::chrono::milliseconds kMostBetweenLooks{40};
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
  doubted_ = false;
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
  if (!(*opened)->host_alive(kAlivePatienceMs)) {
    const std::string why = (*opened)->problem();
    return why.empty() ? stub_guest::silent_host : why;
  }
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
  listened_ = EventLoop::Clock::now();
  silence_ = {};
  ++hosts_;
  log::info("VGPU-STUB found function={} memory={} size_mib={} slots={} doorbell_peer={}", folder->string(),
            function_->memory_kind(), function_->division().memory_bytes >> 20U,
            function_->division().slot_count, function_->host().host_peer.load(std::memory_order_relaxed));
  return {};
}

// Brings up to date for how long the host has been silent.
void GuestLink::listen() {
  const auto now = EventLoop::Clock::now();
  silence_ += std::min<EventLoop::Clock::duration>(now - listened_, kMostBetweenLooks);
  listened_ = now;
  const std::uint64_t heartbeat = function_->host().heartbeat.load(std::memory_order_relaxed);
  if (heartbeat == host_heartbeat_) return;
  host_heartbeat_ = heartbeat;
  silence_ = {};
}

bool GuestLink::in_doubt() {
  if (!function_) return false;
  listen();
  doubted_ = doubted_ || silence_ >= kDoubt;
  return silence_ >= kDoubt;
}

void GuestLink::up() {
  problem_.clear();
  doubted_ = false;
  callbacks_.on_up();
}

// The host counts the doorbells that it has received: with the first since the connection both directions
// work.
void GuestLink::hear_answer() {
  if (answered_) return;
  const std::uint64_t received = function_->host().doorbells.load(std::memory_order_relaxed);
  if (received == doorbells_before_) return;
  answered_ = true;
  const auto took = EventLoop::Clock::now() - rang_;
  log::info("the host answers: it has received the doorbell function={} doorbells={} within_ms={}", folder(),
            received, std::chrono::duration_cast<std::chrono::milliseconds>(took).count());
}

void GuestLink::beat() {
  const auto now = EventLoop::Clock::now();
  if (!function_) {
    if (now - tried_ < kRetry) return;
    tried_ = now;
    if (const std::string why = connect(); !why.empty()) return down(why);
    log::info("connected to the host's vgpud function={}", folder());
    answered_ = false;
    doorbells_before_ = function_->host().doorbells.load(std::memory_order_relaxed);
    rang_ = EventLoop::Clock::now();
    function_->ring(stub::vector_request);
    log::info("first doorbell rung function={} vector={}", folder(), stub::vector_request);
    return up();
  }
  listen();
  std::string why = function_->problem();
  if (why.empty() && function_->host().generation.load(std::memory_order_relaxed) != host_generation_) {
    why = "the host's vgpud was started anew";
  }
  const bool lost = !why.empty() || silence_ > kSilence;
  if (why.empty() && silence_ > kRefuse) why = stub_guest::silent_host;
  if (lost) {
    // Everything is looked at anew: another host may have divided the memory in another way.
    function_.reset();
    tried_ = {};
    return down(why);
  }
  if (!why.empty()) {
    down(why);
  } else if (!problem_.empty() || (doubted_ && silence_ < kDoubt)) {
    if (!problem_.empty()) log::info("the host's vgpud beats again function={}", folder());
    up();
  }
  hear_answer();
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
  stats.connected = problem_.empty();
  return stats;
}

}  // namespace vgpu::daemon
