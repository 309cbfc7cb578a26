// What a client may know of its devices without a session, for libnvidia-ml.
#include <algorithm>

#include "daemon/base/log.hpp"
#include "daemon/session/greeter.hpp"
#include "daemon/session/session_manager.hpp"
#include "protocol/message_socket.hpp"

namespace vgpu::daemon {
namespace {

Refused refusal(RefusalCode code, const std::string& text) {
  Refused refused;
  refused.code = code;
  set_text(refused.text, text);
  return refused;
}

}  // namespace

const Session* SessionManager::session_of(pid_t pid) const {
  const auto found = std::find_if(sessions_.begin(), sessions_.end(),
                                  [&](const auto& entry) { return entry.second->peer.identity.pid == pid; });
  return found == sessions_.end() ? nullptr : found->second.get();
}

tl::expected<std::vector<const Device*>, Refused> SessionManager::listed_for(
    pid_t pid, const Session* session, const tl::expected<Placement, std::string>& placement,
    const DeviceWish& wish) {
  const auto all = placing_devices();
  std::vector<std::size_t> usable;
  if (placement) usable = usable_devices(all, placement->device, placement->pool).value_or(usable);
  std::vector<std::size_t> own;
  if (session != nullptr) {
    for (std::size_t i = 0; i < session->device_count(); ++i) {
      own.push_back(static_cast<std::size_t>(
          std::find(devices_.begin(), devices_.end(), &session->device_at(i)) - devices_.begin()));
    }
  } else if (!placement) {
    return tl::unexpected(refusal(RefusalCode::not_allowed, placement.error()));
  } else if (usable.empty()) {
    return tl::unexpected(refusal(RefusalCode::no_device, "there is no device for this client"));
  } else {
    // As natively, what hides all devices from CUDA hides none from NVML.
    const unsigned most = placement->client_class.devices;
    auto wished = choose(all, usable, wish, most, pid);
    if (!wished) wished = choose(all, usable, {}, most, pid);
    own.push_back(wished->device);
    own.insert(own.end(), wished->further.begin(), wished->further.end());
    if (wish.kind == WishKind::any) {
      promises_.note(pid, own.front(), placement->client_class.weight, EventLoop::Clock::now());
    }
  }
  std::vector<const Device*> listed;
  for (const std::size_t i : listed_devices(usable, wish, own)) {
    if (!devices_[i]->report() || (session == nullptr && i == own.front() && !all[i].serves)) {
      return tl::unexpected(refusal(RefusalCode::no_device, "the device is not ready"));
    }
    listed.push_back(devices_[i]);
  }
  return listed;
}

void SessionManager::answer_status(UniqueFd socket, const StatusQuery& query) {
  const auto peer = identify_peer(socket.get());
  if (!peer) return;
  const Identity& who = peer->identity;
  const Session* const asker = session_of(who.pid);
  const auto placement = place_client(*config_, who);
  const auto listed = listed_for(who.pid, asker, placement, query.wish);
  if (!listed || query.index >= listed->size()) {
    const Refused refused =
        listed ? refusal(RefusalCode::no_device, "there is no such device") : listed.error();
    send_refusal(socket.get(), refused.code, refused.text);
    return;
  }
  const Device* const device = (*listed)[query.index];
  DeviceStatus status;
  status.device_count = static_cast<std::uint32_t>(listed->size());
  status.device = *device->report();
  const auto& quota =
      asker != nullptr ? asker->client_class.memory_quota : placement->client_class.memory_quota;
  status.memory_quota = quota.value_or(0);
  status.gpu_busy_percent = static_cast<std::uint32_t>(utilisation(*device) * 100);
  for (const auto& [id, session] : sessions_) {
    const auto place = session->place_of(*device);
    if (!place || !session->gate) continue;
    ClientStats figures;
    read_page(session->gate->page(*place), figures);
    const std::uint64_t memory = figures.memory_used;
    // What was moved out is held by the client, and not by the device.
    status.device_memory_used += figures.movable ? figures.memory_on_device : memory;
    const bool own = session->peer.identity.uid == who.uid;
    if (session->peer.identity.pid == who.pid) status.memory_used += memory;
    if ((own || who.uid == 0) && status.process_count < std::size(status.processes)) {
      ProcessUsage& entry = status.processes[status.process_count++];
      entry.pid = session->peer.identity.pid;
      entry.memory_used = memory;
    }
  }
  if (const auto sent = send_message(socket.get(), status); !sent) {
    log::debug("status not delivered reason={}", log::quoted(sent.error()));
  }
}

}  // namespace vgpu::daemon
