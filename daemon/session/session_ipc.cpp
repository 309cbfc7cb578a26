// The part of SessionManager between two workers whose clients share memory or events: a token is good for
// clients of the user whose client it is, which have the device on which it lies, while that client lives.
// Processes in a VM are users of that VM: they share with those of the same VM, as whom it says that they
// are.
#include <fcntl.h>

#include <span>

#include "daemon/session/session_manager.hpp"
#include "protocol/message_socket.hpp"

namespace vgpu::daemon {
namespace {

// For how long after a restart workers may not have said yet what they offer.
constexpr std::chrono::milliseconds kOffersCome{500};

enum class SameUser : std::uint8_t { yes, no, not_known_yet };

SameUser same_user(const Session& one, const Session& other) {
  if (one.guest.has_value() != other.guest.has_value()) return SameUser::no;
  if (!one.guest) return one.peer.identity.uid == other.peer.identity.uid ? SameUser::yes : SameUser::no;
  if (one.guest->vm != other.guest->vm) return SameUser::no;
  if (!one.guest_uid || !other.guest_uid) return SameUser::not_known_yet;
  return one.guest_uid == other.guest_uid ? SameUser::yes : SameUser::no;
}

}  // namespace

void SessionManager::listen_to(Worker& worker, std::uint64_t id) {
  worker.on_message = [this, id](const Message& message) {
    const auto* const request = message.as<IpcRequest>();
    if (request == nullptr || message.fds.size() > 1 || !is_ipc_kind(request->kind)) return;
    on_ipc(id, *request, message.fds.empty() ? -1 : message.fds.front().get());
  };
}

void SessionManager::on_ipc(std::uint64_t id, const IpcRequest& request, int fd) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end() || found->second->worker == nullptr) return;
  const Session& session = *found->second;
  if (request.action == IpcAction::withdraw) {
    ipc_.remove(request.token, id);
    return;
  }
  IpcAnswer answer;
  int shown = -1;
  if (request.action == IpcAction::offer) {
    IpcRegistry::Entry entry;
    entry.session = id;
    entry.kind = request.kind;
    entry.device = request.device;
    entry.native = request.native;
    const bool wants_fd = has_descriptor(request.kind);
    if (wants_fd && fd >= 0) entry.fd.reset(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    const bool whole = wants_fd == static_cast<bool>(entry.fd) && request.device < session.device_count();
    answer.result = whole && ipc_.add(request.token, std::move(entry)) ? IpcResult::done : IpcResult::full;
  } else if (request.action == IpcAction::resolve) {
    answer = resolve_ipc(session, request, shown);
    if (answer.result == IpcResult::done && request.kind == IpcKind::event) ipc_.opened(answer.maker, id);
  } else if (request.action == IpcAction::orphaned) {
    const auto maker = sessions_.find(request.maker);
    const bool ended = maker == sessions_.end() || maker->second->worker == nullptr;
    if (ended && ipc_.opened_alone(request.maker, id)) answer.result = IpcResult::done;
  }
  answer.number = request.number;
  // The worker waits for this: if it does not take it, it is its own client that waits.
  static_cast<void>(send_message(session.worker->fds.socket.get(), answer,
                                 shown >= 0 ? std::span(&shown, 1) : std::span<const int>()));
}

IpcAnswer SessionManager::resolve_ipc(const Session& asker, const IpcRequest& request, int& fd) const {
  IpcAnswer answer;
  const IpcRegistry::Entry* const entry = ipc_.find(request.token, request.kind);
  const auto owner = entry != nullptr ? sessions_.find(entry->session) : sessions_.end();
  if (entry == nullptr || owner == sessions_.end()) {
    const bool new_here =
        adopted_ != EventLoop::Clock::time_point{} && EventLoop::Clock::now() - adopted_ < kOffersCome;
    answer.result = new_here ? IpcResult::later : IpcResult::unknown;
    return answer;
  }
  const Session& from = *owner->second;
  const SameUser same = same_user(asker, from);
  if (same == SameUser::not_known_yet) answer.result = IpcResult::later;
  if (same != SameUser::yes) return answer;
  if (!asker.place_of(from.device_at(entry->device))) {
    answer.result = IpcResult::other_device;
    return answer;
  }
  answer.result = IpcResult::done;
  answer.maker = owner->first;
  answer.native = entry->native;
  fd = entry->fd.get();
  return answer;
}

}  // namespace vgpu::daemon
