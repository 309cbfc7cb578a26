// Live control of clients: what an operator or the owner changes while they run.
#include <algorithm>

#include "daemon/config/load.hpp"
#include "daemon/policy/lowering.hpp"
#include "daemon/session/session_manager.hpp"

namespace vgpu::daemon {

const Session* SessionManager::find(std::uint64_t id) const {
  const auto found = sessions_.find(id);
  return found == sessions_.end() ? nullptr : found->second.get();
}

std::vector<std::uint64_t> SessionManager::of_process(pid_t pid) const {
  std::vector<std::uint64_t> ids;
  for (const auto& [id, session] : sessions_) {
    if (session->peer.identity.pid == pid) ids.push_back(id);
  }
  return ids;
}

namespace {

constexpr const char* kPartOfAVm = "a process in a VM has what its VM gives it: change the VM's class";

}  // namespace

ClassConfig SessionManager::granted(const Session& session) const {
  const Adjustments& changed = session.adjustments;
  ClassConfig value = session.client_class;
  if (const auto named = config_->classes.find(changed.class_name); named != config_->classes.end()) {
    value = named->second;
  } else if (const auto placement = place_client(*config_, session.peer.identity)) {
    value = placement->client_class;  // a rule that refuses it now lets a present client be
  }
  // Settings were good when they were made; a key that a reload forbids leaves the value as it is.
  if (const auto applied = apply_settings(value, changed.by_administrator); !applied) {
    log::warning("changes of a client no longer hold session={} reason={}", session.id,
                 log::quoted(applied.error()));
  }
  return value;
}

void SessionManager::refresh(Session& session) {
  const ClassConfig most = granted(session);
  session.client_class = most;
  for (const auto& setting : session.adjustments.by_owner) {
    ClassConfig wanted = session.client_class;
    if (apply_settings(wanted, {setting}) && why_not_lower(wanted, most).empty())
      session.client_class = wanted;
  }
  push(session);
  write_record(session);
}

tl::expected<void, std::string> SessionManager::try_adjust(std::uint64_t id,
                                                           const ClientChange& change) const {
  const Session& session = *sessions_.at(id);
  if (session.guest) return tl::unexpected(std::string(kPartOfAVm));
  if (change.class_name && config_->classes.count(*change.class_name) == 0) {
    return tl::unexpected("there is no class '" + *change.class_name + "'");
  }
  ClassConfig trial;
  if (auto good = apply_settings(trial, change.settings); !good) return good;
  return change.device ? try_move(session, *change.device, change.device_may_wait)
                       : tl::expected<void, std::string>{};
}

tl::expected<void, std::string> SessionManager::try_move(const Session& session, const std::string& name,
                                                         bool may_wait) const {
  const Device* device = find_device(name);
  if (device == nullptr) return tl::unexpected("there is no device '" + name + "'");
  if (device == session.device) return {};
  if (session.state != SessionState::waiting) {
    if (may_wait) return {};
    // Its worker holds a context there, and the client was told that device's properties when it came.
    return tl::unexpected("the client runs on '" + session.device->config().name +
                          "' and stays there until it ends; with --save its next start is placed on '" +
                          name + "'");
  }
  if (device->pool() == nullptr || !device->problem().empty()) {
    return tl::unexpected("the device '" + name + "' cannot serve: " + device->problem());
  }
  return {};
}

void SessionManager::adjust(std::uint64_t id, const ClientChange& change) {
  Session& session = *sessions_.at(id);
  Adjustments& changed = session.adjustments;
  if (change.class_name) changed.class_name = *change.class_name;
  changed.by_administrator = merge_settings(std::move(changed.by_administrator), change.settings);
  refresh(session);
  if (change.device && session.state == SessionState::waiting) move(session, *find_device(*change.device));
}

tl::expected<void, std::string> SessionManager::try_lower(std::uint64_t id, const Settings& settings) const {
  const Session& session = *sessions_.at(id);
  if (session.guest) return tl::unexpected(std::string(kPartOfAVm));
  // Only what he asks for now: what he asked for before may be above what he is given since, and waits.
  const ClassConfig most = granted(session);
  ClassConfig wanted = most;
  if (auto good = apply_settings(wanted, settings); !good) return good;
  if (std::string why = why_not_lower(wanted, most); !why.empty()) return tl::unexpected(std::move(why));
  return {};
}

void SessionManager::lower(std::uint64_t id, const Settings& settings) {
  Session& session = *sessions_.at(id);
  session.adjustments.by_owner = merge_settings(std::move(session.adjustments.by_owner), settings);
  refresh(session);
}

void SessionManager::move(Session& session, Device& device) {
  if (&device == session.device) return;
  Device& before = *session.device;
  session.device = &device;
  session.further.clear();
  session.settled = true;
  count_waiting(before);
  serve(session);
}

tl::expected<void, std::string> SessionManager::pause(std::uint64_t id, bool paused, bool by_administrator) {
  Session& session = *sessions_.at(id);
  Adjustments& changed = session.adjustments;
  if (by_administrator) {
    changed.paused_by_administrator = paused;
    if (!paused) changed.paused_by_owner = false;
  } else {
    if (!paused && changed.paused_by_administrator) {
      return tl::unexpected(
          std::string("an administrator paused this client, only an administrator resumes it"));
    }
    changed.paused_by_owner = paused;
  }
  hold_if_needed(session);
  write_record(session);
  return {};
}

}  // namespace vgpu::daemon
