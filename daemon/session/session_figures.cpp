// What is told of sessions and devices: shares, use and counters. Never changes a session.
#include <algorithm>
#include <cmath>
#include <map>

#include "daemon/session/session_manager.hpp"

namespace vgpu::daemon {
namespace {

using std::chrono::nanoseconds;

const char* to_string(SessionState state) {
  switch (state) {
    case SessionState::waiting:
      return "waiting";
    case SessionState::running:
      return "running";
    case SessionState::failed:
      return "failed";
  }
  return "failed";
}

}  // namespace

void SessionManager::sample() {
  look_at_quarantine();
  keep_broker();
  std::map<const Device*, std::uint64_t> used;
  for (const auto& [id, session] : sessions_) {
    if (!session->gate) continue;
    for (std::size_t i = 0; i < session->device_count(); ++i) {
      const std::uint64_t now = session->gate->page(i).consumed_ns.load(std::memory_order_relaxed);
      const std::uint64_t more = now > session->sampled_ns[i] ? now - session->sampled_ns[i] : 0;
      session->sampled_ns[i] = now;
      session->share[i] = static_cast<double>(more);
      used[&session->device_at(i)] += more;
    }
  }
  utilisation_.clear();
  for (const auto& [device, total] : used) {
    utilisation_[device] =
        std::min(1.0, static_cast<double>(total) / static_cast<double>(nanoseconds(sample_period).count()));
  }
  for (const auto& [id, session] : sessions_) {
    for (std::size_t i = 0; i < session->device_count(); ++i) {
      const auto total = static_cast<double>(used[&session->device_at(i)]);
      session->share[i] = total > 0 ? session->share[i] / total : 0;
    }
  }
}

DeviceFigures SessionManager::figures(const Device& device) const {
  const auto past = past_.find(&device);
  DeviceFigures figures = past == past_.end() ? DeviceFigures{} : past->second;
  for (const auto& [id, session] : sessions_) {
    const auto place = session->place_of(device);
    if (!place || !session->gate) continue;
    const GatePage& page = session->gate->page(*place);
    figures.add(page);
    figures.queue_depth += page.queue_depth.load(std::memory_order_relaxed);
  }
  return figures;
}

double SessionManager::utilisation(const Device& device) const {
  const auto found = utilisation_.find(&device);
  return found == utilisation_.end() ? 0 : found->second;
}

ClientStats SessionManager::describe(const Session& session, StatsDetail detail) const {
  ClientStats stats;
  const Identity& who = session.peer.identity;
  stats.session = session.id;
  stats.pid = who.pid;
  stats.guest_pid = session.guest_pid;
  if (session.guest) stats.vm = session.guest->vm;
  stats.uid = who.uid;
  stats.worker_pid = session.worker != nullptr ? session.worker->pid : 0;
  stats.program = who.program;
  stats.executable = who.executable;
  stats.unit = who.unit;
  stats.ancestors = who.ancestors;
  stats.class_name = session.client_class.name;
  stats.device = session.device_names();
  stats.state = session.state != SessionState::running ? to_string(session.state)
                : session.quarantined                  ? "quarantined"
                : session.adjustments.paused()         ? "paused"
                                                       : "running";
  stats.priority = to_string(session.client_class.priority);
  stats.weight = std::max(1U, static_cast<std::uint32_t>(std::lround(session.weight())));
  stats.ending = session.failure;
  stats.age_ns = static_cast<std::uint64_t>(nanoseconds(EventLoop::Clock::now() - session.since).count());
  stats.memory_quota = session.client_class.memory_quota.value_or(0);
  stats.faults = session.fault_counted ? 1 : 0;
  for (std::size_t i = 0; i < session.device_count(); ++i) {
    const std::uint64_t turns = session.device_at(i).gates().figures(session.id).turns;
    stats.turns += turns;
    stats.share += session.share[i];
    if (session.further.empty()) break;
    stats.devices.push_back({session.device_at(i).config().name, turns, session.share[i]});
    if (session.gate) read_part(session.gate->page(i), stats.devices.back());
  }
  if (session.gate) {
    read_page(session.gate->page(), stats);
    for (std::size_t i = 1; i < session.device_count(); ++i) add_page(session.gate->page(i), stats);
    if (detail.calls) read_calls(session.gate->page(), stats);
    if (detail.histograms) read_histograms(session.gate->page(), stats);
  }
  return stats;
}

std::vector<ClientStats> SessionManager::stats(StatsDetail detail) const {
  std::vector<ClientStats> all;
  all.reserve(sessions_.size());
  for (const auto& [id, session] : sessions_) all.push_back(describe(*session, detail));
  return all;
}

}  // namespace vgpu::daemon
