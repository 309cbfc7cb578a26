// What holds for a client while it runs, where it is placed, and what happens to it when it goes too far: the
// session manager's part of limits.
#include <algorithm>
#include <cmath>

#include "daemon/session/session_manager.hpp"

namespace vgpu::daemon {
namespace {

constexpr std::uint64_t kLaunchTimeout = 702;   // CUDA_ERROR_LAUNCH_TIMEOUT, cuda.h
constexpr std::uint64_t kExternalDevice = 911;  // CUDA_ERROR_EXTERNAL_DEVICE

std::uint64_t ns(std::chrono::nanoseconds time) {
  return static_cast<std::uint64_t>(time.count());
}

// Of a limit, where 0 is none.
std::uint64_t part_of(std::uint64_t limit, unsigned parts) {
  return limit == 0 ? 0 : std::max<std::uint64_t>(1, limit / parts);
}

bool same_owner(const Identity& one, const Identity& other) {
  return one.uid == other.uid && (one.uid != kNobody || one.unit == other.unit);
}

}  // namespace

std::string SessionManager::over_limit(const Identity& who, const ClassConfig& client_class) const {
  const LimitsConfig& limits = config_->limits;
  if (sessions_.size() >= limits.clients)
    return fmt::format("vgpud serves at most {} clients", limits.clients);
  const auto count = [&](auto&& condition) {
    return static_cast<unsigned>(std::count_if(sessions_.begin(), sessions_.end(),
                                               [&](const auto& entry) { return condition(*entry.second); }));
  };
  const auto of_owner = [&](const Session& other) { return same_owner(other.peer.identity, who); };
  const auto of_class = [&](const Session& other) { return other.client_class.name == client_class.name; };
  const char* const owner = who.uid == kNobody ? "VM" : "user";
  if (count(of_owner) >= limits.clients_per_user) {
    return fmt::format("vgpud serves at most {} clients of one {}", limits.clients_per_user, owner);
  }
  if (client_class.max_clients_per_user != 0 && count([&](const Session& other) {
                                                  return of_class(other) && of_owner(other);
                                                }) >= client_class.max_clients_per_user) {
    return fmt::format("class '{}' is limited to {} clients of one {}", client_class.name,
                       client_class.max_clients_per_user, owner);
  }
  if (client_class.max_clients != 0 && count(of_class) >= client_class.max_clients) {
    return fmt::format("class '{}' is limited to {} clients", client_class.name, client_class.max_clients);
  }
  return {};
}

std::string SessionManager::over_vms_share(const std::string& vm, const Device& device) const {
  const unsigned workers = device.pool()->options().max_workers;
  const unsigned most = std::max(1U, std::min(config_->limits.clients, workers) / 2);
  const auto has = std::count_if(sessions_.begin(), sessions_.end(), [&](const auto& entry) {
    const Session& other = *entry.second;
    return other.guest && other.guest->vm == vm && other.device == &device &&
           other.state != SessionState::failed;
  });
  if (static_cast<unsigned>(has) < most) return {};
  return fmt::format("one VM has at most {} of the {} workers of device '{}'", most, workers,
                     device.config().name);
}

std::vector<PlacingDevice> SessionManager::placing_devices() const {
  std::vector<PlacingDevice> all;
  all.reserve(devices_.size());
  for (const Device* device : devices_) {
    PlacingDevice seen;
    seen.name = device->config().name;
    seen.pool = device->config().pool;
    seen.serves = device->pool() != nullptr && device->problem().empty();
    if (const auto& report = device->report()) {
      std::copy(std::begin(report->uuid), std::end(report->uuid), seen.uuid.begin());
      seen.uuid_known = true;
    }
    for (const auto& [id, session] : sessions_) {
      if (session->place_of(*device)) seen.load += static_cast<std::uint64_t>(std::ceil(session->weight()));
    }
    if (const auto& driver = device->driver()) {
      seen.driver = std::string(to_string(driver->kind)) + " " + driver->path;
    }
    seen.ordinal = device->config().ordinal;
    seen.alone = device->why_alone();
    seen.load += promises_.load(all.size(), EventLoop::Clock::now());
    all.push_back(std::move(seen));
  }
  return all;
}

tl::expected<Choice, std::string> SessionManager::choose(const std::vector<PlacingDevice>& all,
                                                         const std::vector<std::size_t>& usable,
                                                         const DeviceWish& wish, unsigned most,
                                                         pid_t pid) const {
  if (const auto told = promises_.find(pid, EventLoop::Clock::now());
      told && wish.kind == WishKind::any && all[*told].serves &&
      std::find(usable.begin(), usable.end(), *told) != usable.end()) {
    return Choice{*told, true, {}, {}};
  }
  return choose_devices(all, usable, wish, most);
}

tl::expected<SessionManager::Place, std::string> SessionManager::place(const Placement& placement,
                                                                       const DeviceWish& wish,
                                                                       pid_t pid) const {
  const auto all = placing_devices();
  const auto usable = usable_devices(all, placement.device, placement.pool);
  if (!usable) return tl::unexpected(usable.error());
  auto choice = choose(all, *usable, wish, placement.client_class.devices, pid);
  if (!choice) return tl::unexpected(choice.error());
  Device* const device = devices_[choice->device];
  if (!all[choice->device].serves) return tl::unexpected("the device cannot serve: " + device->problem());
  Place found{device, choice->settled, {}, std::move(choice->left_out)};
  for (const std::size_t i : choice->further) found.further.push_back(devices_[i]);
  return found;
}

bool SessionManager::settle(Session& session) {
  const auto placement = place_client(*config_, session.peer.identity);
  const auto found = placement ? place(*placement, session.wish, session.peer.identity.pid)
                               : tl::expected<Place, std::string>(tl::unexpected(placement.error()));
  if (!found) {
    refuse(session, placement ? Refusal{RefusalCode::no_device, RejectionReason::device, found.error()}
                              : Refusal{RefusalCode::not_allowed, RejectionReason::rule, found.error()});
    end(session.id, "refused");
    return false;
  }
  session.settled = found->settled;
  session.further = found->further;
  if (found->device == session.device) return session.settled;
  Device& before = *std::exchange(session.device, found->device);
  count_waiting(before);
  serve(session);
  return false;
}

GateTerms SessionManager::gate_terms(const Session& session) const {
  const ClassConfig& from = session.client_class;
  GateTerms terms;
  terms.terms.weight = session.weight();
  terms.terms.level = static_cast<unsigned>(from.priority);
  terms.terms.deadline_ns = ns(from.deadline);
  terms.brief_ns = ns(config_->scheduler.brief_window);
  terms.window_ns = ns(from.window.count() != 0 ? from.window : config_->scheduler.window);
  terms.watchdog_ns = ns(from.watchdog);
  return terms;
}

void SessionManager::push(Session& session) {
  if (!session.gate) return;
  const ClassConfig& holds = session.client_class;
  for (std::size_t i = 0; i < session.device_count(); ++i) {
    GatePage& page = session.gate->page(i);
    page.memory_quota.store(holds.memory_quota.value_or(0));
    page.level.store(static_cast<std::uint32_t>(holds.priority), std::memory_order_relaxed);
    page.watchdog_ns.store(ns(holds.watchdog), std::memory_order_relaxed);
    page.launch_rate_micro.store(part_of(std::uint64_t{holds.launch_rate} * 1'000'000, session.parts),
                                 std::memory_order_relaxed);
    page.byte_rate.store(part_of(holds.bandwidth.value_or(0), session.parts), std::memory_order_relaxed);
    page.queue_limit.store(holds.queue_depth, std::memory_order_relaxed);
    if (session.state != SessionState::running) continue;
    session.device_at(i).gates().set_terms(session.id, gate_terms(session));
  }
  if (session.state == SessionState::running) {
    session.device->residence().set_level(session.id, static_cast<unsigned>(holds.priority));
  }
}

void SessionManager::watch_gates(Session& session) {
  const int attention = session.worker->fds.attention.get();
  for (std::size_t i = 0; i < session.device_count(); ++i) {
    session.device_at(i).gates().add(session.id, gate_terms(session), GateMapping::page_of(session.gate, i),
                                     i == 0 ? attention : -1, held(session));
  }
  if (session.further.empty()) return;
  // One descriptor tells of the worker's work on any of its devices.
  session.device->gates().on_attention(session.id, [further = session.further] {
    for (Device* device : further) device->gates().tick();
  });
}

void SessionManager::watch_residence(const Session& session) {
  ResidenceKeeper& keeper = session.device->residence();
  if (!keeper.enabled() && session.gate->page().memory_movable.load() == 0) return;
  keeper.add(session.id, static_cast<unsigned>(session.client_class.priority), session.gate);
}

bool SessionManager::held(const Session& session) {
  return session.adjustments.paused() || session.quarantined;
}

void SessionManager::hold_if_needed(Session& session) {
  if (session.state != SessionState::running) return;
  for (std::size_t i = 0; i < session.device_count(); ++i) {
    session.device_at(i).gates().hold(session.id, held(session));
  }
}

void SessionManager::command_too_long(std::uint64_t id) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end() || found->second->state != SessionState::running) return;
  Session& session = *found->second;
  ++counters_.watchdog_kills;
  std::uint64_t none = 0;
  session.gate->page().sticky_error.compare_exchange_strong(none, kLaunchTimeout);
  fail(session,
       fmt::format(
           "a command that took longer than {} ms, the watchdog of class '{}'",
           std::chrono::duration_cast<std::chrono::milliseconds>(session.client_class.watchdog).count(),
           session.client_class.name));
}

void SessionManager::count_fault(Session& session, const std::string& how) {
  // Who waited for another client's event that never came is not to blame.
  if (session.gate->page().sticky_error.load(std::memory_order_relaxed) == kExternalDevice) return;
  if (std::exchange(session.fault_counted, true)) return;
  ++counters_.faults;
  ++past_[session.device].faults;
  const ClassConfig& holds = session.client_class;
  const Subject subject = subject_of(session);
  const std::string why = fmt::format("{} faults, the last: {}", holds.quarantine_after, how);
  if (!quarantine_.fault(subject, holds.quarantine_after, holds.quarantine_time, why,
                         EventLoop::Clock::now())) {
    return;
  }
  ++counters_.quarantines;
  log::warning("program quarantined uid={} executable={} why={}", subject.uid,
               log::quoted(subject.executable), log::quoted(why));
  look_at_quarantine();
}

void SessionManager::quarantine(const Subject& subject, std::chrono::microseconds how_long,
                                const std::string& why) {
  ++counters_.quarantines;
  quarantine_.put(subject, how_long, why, EventLoop::Clock::now());
  log::warning("program quarantined uid={} executable={} why={}", subject.uid,
               log::quoted(subject.executable), log::quoted(why));
  look_at_quarantine();
  keep_broker();
}

bool SessionManager::release(const Subject& subject) {
  const bool was = quarantine_.release(subject, EventLoop::Clock::now());
  look_at_quarantine();
  keep_broker();
  return was;
}

std::vector<QuarantineEntry> SessionManager::quarantined() {
  return quarantine_.all(EventLoop::Clock::now());
}

void SessionManager::look_at_quarantine() {
  const auto now = EventLoop::Clock::now();
  for (const auto& [id, session] : sessions_) {
    const bool kept = quarantine_.find(subject_of(*session), now) != nullptr;
    if (kept == session->quarantined) continue;
    session->quarantined = kept;
    hold_if_needed(*session);
  }
}

}  // namespace vgpu::daemon
