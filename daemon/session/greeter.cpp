#include "daemon/session/greeter.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>

#include "daemon/base/log.hpp"
#include "daemon/policy/peer.hpp"
#include "protocol/message_socket.hpp"

namespace vgpu::daemon {
namespace {

constexpr int kAcceptsPerTurn = 64;
constexpr std::chrono::milliseconds kPause{100};

}  // namespace

void send_refusal(int socket, RefusalCode code, const std::string& text) {
  Refused refused;
  refused.code = code;
  set_text(refused.text, text);
  if (const auto sent = send_message(socket, refused); !sent) {
    log::debug("refusal not delivered reason={}", log::quoted(sent.error()));
  }
}

Greeter::Greeter(EventLoop& loop, UniqueFd listener, const LimitsConfig& limits, Callbacks callbacks)
    : loop_(loop), listener_(std::move(listener)), limits_(limits), callbacks_(std::move(callbacks)) {
  loop_.watch(listener_.get(), EPOLLIN, [this](std::uint32_t) { accept_some(); });
}

Greeter::~Greeter() {
  loop_.forget(listener_.get());
  loop_.cancel(resume_);
  for (auto& [fd, guest] : guests_) {
    loop_.forget(fd);
    loop_.cancel(guest.timer);
  }
}

void Greeter::accept_some() {
  for (int i = 0; i < kAcceptsPerTurn; ++i) {
    UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) pause_accepting();
      return;
    }
    welcome(std::move(socket));
  }
}

void Greeter::pause_accepting() {
  if (log_limit_.allows()) log::warning("out of descriptors or memory, new connections wait");
  loop_.change(listener_.get(), 0);
  loop_.cancel(resume_);
  resume_ = loop_.after(kPause, [this] { loop_.change(listener_.get(), EPOLLIN); });
}

void Greeter::welcome(UniqueFd socket) {
  const uid_t uid = peer_uid(socket.get());
  const auto user = per_user_.find(uid);
  const unsigned of_user = user == per_user_.end() ? 0 : user->second;
  if (guests_.size() >= limits_.handshakes || of_user >= limits_.handshakes_per_user) {
    ++counters_.over_limit;
    log::debug("connection refused uid={} pending={} pending_of_user={}", uid, guests_.size(), of_user);
    refuse(socket.get(), uid, RefusalCode::busy, RejectionReason::handshake,
           "too many connections that have not said hello yet");
    return;
  }
  const int fd = socket.get();
  if (!loop_.watch(fd, EPOLLIN | EPOLLRDHUP, [this, fd](std::uint32_t) { on_message(fd); })) return;
  ++per_user_[uid];
  const auto timer = loop_.after(limits_.handshake_timeout, [this, fd] {
    ++counters_.timed_out;
    dismiss(fd);
  });
  guests_.emplace(fd, Guest{std::move(socket), uid, timer});
}

void Greeter::refuse(int socket, uid_t uid, RefusalCode code, RejectionReason reason,
                     const std::string& why) {
  callbacks_.on_refused(uid, reason, why);
  send_refusal(socket, code, why);
}

UniqueFd Greeter::dismiss(int fd) {
  const auto found = guests_.find(fd);
  if (found == guests_.end()) return {};
  loop_.forget(fd);
  loop_.cancel(found->second.timer);
  const auto user = per_user_.find(found->second.uid);
  if (--user->second == 0) per_user_.erase(user);
  UniqueFd socket = std::move(found->second.socket);
  guests_.erase(found);
  return socket;
}

void Greeter::on_message(int fd) {
  const auto message = receive_message(fd, 0);
  if (message && message->none) return;
  UniqueFd socket = dismiss(fd);
  if (!message || message->closed) return;
  const auto* const hello = message->as<Hello>();
  const std::string problem = hello != nullptr ? hello_problem(*hello) : first_words_problem(message->bytes);
  if (!problem.empty()) {
    ++counters_.mismatched;
    if (log_limit_.allows()) {
      log::warning("client refused uid={} reason={}", peer_uid(socket.get()), log::quoted(problem));
    }
    refuse(socket.get(), peer_uid(socket.get()), RefusalCode::protocol, RejectionReason::version, problem);
    return;
  }
  if (hello != nullptr) {
    callbacks_.on_hello(std::move(socket), hello->wish);
    return;
  }
  if (const auto* query = message->as<StatusQuery>();
      query != nullptr && query->magic == hello_magic && query->version == handshake_version) {
    callbacks_.on_status(std::move(socket), *query);
    return;
  }
  ++counters_.malformed;
  log::debug("connection dropped, its first message is not a hello uid={} bytes={}", peer_uid(socket.get()),
             message->bytes.size());
  send_refusal(socket.get(), RefusalCode::protocol, "this is not a hello that vgpud knows");
}

}  // namespace vgpu::daemon
