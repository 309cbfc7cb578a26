#include "daemon/session/session_manager.hpp"

#include <fcntl.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>

#include "daemon/base/log.hpp"
#include "daemon/session/greeter.hpp"
#include "protocol/channel.hpp"
#include "protocol/message_socket.hpp"

namespace vgpu::daemon {
namespace {

constexpr std::chrono::milliseconds kSharedFaultPeriod{50};

// Tells a client whose worker has gone: every call that waits or will come fails from now on.
void close_orphaned_channel(const Session& session) {
  const GatePage& page = session.gate->page();
  const auto& guest = session.guest;
  const auto channel = guest
                           ? Channel::attach_at(session.channel.get(), guest->slot_offset, guest->arena_bytes)
                           : Channel::attach(session.channel.get());
  if (!channel) {
    log::warning("channel of an ended worker cannot be closed reason={}", log::quoted(channel.error()));
    return;
  }
  const auto sticky = static_cast<std::uint32_t>(page.sticky_error.load(std::memory_order_relaxed));
  std::uint32_t none = 0;
  if (sticky != 0) (*channel)->control().sticky_error.compare_exchange_strong(none, sticky);
  close_channel(**channel);
}

// The memory through which a client and its worker are to talk; none when there is no more.
UniqueFd make_channel(const Session& session) {
  const std::uint64_t most = session.device->most_arena_bytes();
  auto made = create_channel_memory(std::min(session.client_class.arena_bytes, most) & ~std::uint64_t{4095});
  return made ? std::move(*made) : UniqueFd();
}

}  // namespace

SessionManager::SessionManager(EventLoop& loop, std::shared_ptr<const Config> config, DescriptorStore& store)
    : loop_(loop), config_(std::move(config)), store_(store), ended_(config_->ended_clients) {
  sampler_ = loop_.every(sample_period, [this] { sample(); });
}

void SessionManager::add_device(Device& device) {
  devices_.push_back(&device);
  if (device.under_mps() && fault_watch_ == 0) {
    fault_watch_ = loop_.every(kSharedFaultPeriod, [this] { look_for_shared_faults(); });
  }
}

SessionManager::~SessionManager() {
  loop_.cancel(sampler_);
  loop_.cancel(fault_watch_);
  end_all("vgpud ends");
}

void SessionManager::count_rejection(uid_t uid, RejectionReason reason, const std::string& why) {
  rejections_.count(uid, {}, reason, {}, why, EventLoop::Clock::now());
}

void SessionManager::refuse(int socket, const Identity& who, const std::string& class_name,
                            const Refusal& refusal) {
  ++counters_.refused;
  rejections_.count(who.uid, class_name, refusal.reason, who.program, refusal.text, EventLoop::Clock::now());
  rejections_.remember({0, who.uid, who.pid, who.ancestors, refusal.text});
  if (refusals_.allows()) {
    log::info("client refused pid={} uid={} program={} reason={}", who.pid, who.uid, log::quoted(who.program),
              log::quoted(refusal.text));
  }
  send_refusal(socket, refusal.code, refusal.text);
}

void SessionManager::refuse_before_placing(int socket, const Identity& who, const Placement& placement,
                                           const DeviceWish& wish, const Refusal& refusal) {
  if (const auto found = place(placement, wish, who.pid)) ++past_[found->device].refused;
  refuse(socket, who, placement.client_class.name, refusal);
}

void SessionManager::refuse(const Session& session, const Refusal& refusal) {
  ++past_[session.device].refused;
  refuse(session.socket.get(), session.peer.identity, session.client_class.name, refusal);
}

Device* SessionManager::find_device(const std::string& name) const {
  if (name.empty()) return devices_.empty() ? nullptr : devices_.front();
  const auto found = std::find_if(devices_.begin(), devices_.end(),
                                  [&](const Device* device) { return device->config().name == name; });
  return found == devices_.end() ? nullptr : *found;
}

void SessionManager::admit(UniqueFd socket, const DeviceWish& wish) {
  auto peer = identify_peer(socket.get());
  if (!peer) {
    log::info("client left before it was admitted reason={}", log::quoted(peer.error()));
    return;
  }
  const Identity& who = peer->identity;
  const auto placement = place_client(*config_, who);
  if (!placement) {
    refuse(socket.get(), who, {}, {RefusalCode::not_allowed, RejectionReason::rule, placement.error()});
    return;
  }
  if (const std::string reason = over_limit(who, placement->client_class); !reason.empty()) {
    ++counters_.refused_limits;
    refuse_before_placing(socket.get(), who, *placement, wish,
                          {RefusalCode::busy, RejectionReason::limit, reason});
    return;
  }
  if (const QuarantineEntry* kept = quarantine_.find({who.uid, who.executable}, EventLoop::Clock::now())) {
    ++counters_.refused_quarantined;
    refuse_before_placing(socket.get(), who, *placement, wish,
                          {RefusalCode::not_allowed, RejectionReason::quarantine,
                           "this program is in quarantine: " + kept->why});
    return;
  }
  const auto found = place(*placement, wish, who.pid);
  if (!found) {
    refuse(socket.get(), who, placement->client_class.name,
           {RefusalCode::no_device, RejectionReason::device, found.error()});
    return;
  }

  promises_.drop(who.pid);
  auto session = std::make_unique<Session>();
  session->socket = std::move(socket);
  session->peer = std::move(*peer);
  session->client_class = placement->client_class;
  session->wish = wish;
  session->device = found->device;
  session->settled = found->settled;
  session->further = found->further;
  for (const std::string& why : found->left_out) {
    log::info("device left out pid={} program={} reason={}", session->peer.identity.pid,
              log::quoted(session->peer.identity.program), log::quoted(why));
  }
  start(std::move(session));
}

std::uint64_t SessionManager::start(std::unique_ptr<Session> session) {
  session->id = next_id_++;
  session->since = EventLoop::Clock::now();
  Session& admitted = *session;
  const std::uint64_t id = admitted.id;
  sessions_.emplace(id, std::move(session));
  watch(admitted);
  serve(admitted);
  return sessions_.count(id) != 0 ? id : 0;
}

std::uint64_t SessionManager::admit_guest(UniqueFd socket, GuestPlace guest, const ClassConfig& client_class,
                                          const std::string& device_name) {
  Identity who;
  who.uid = kNobody;
  who.unit = who.executable = "vm:" + guest.vm;  // a VM goes into quarantine as a whole
  const auto over = [&](const std::string& reason) {
    if (reason.empty()) return false;
    ++counters_.refused_limits;
    refuse(socket.get(), who, client_class.name, {RefusalCode::busy, RejectionReason::limit, reason});
    return true;
  };
  if (over(over_limit(who, client_class))) return 0;
  if (const QuarantineEntry* kept = quarantine_.find({who.uid, who.executable}, EventLoop::Clock::now())) {
    ++counters_.refused_quarantined;
    refuse(socket.get(), who, client_class.name,
           {RefusalCode::not_allowed, RejectionReason::quarantine, "this VM is in quarantine: " + kept->why});
    return 0;
  }
  Placement wanted;
  wanted.device = device_name;
  const auto found = place(wanted, {}, 0);
  if (!found) {
    refuse(socket.get(), who, client_class.name,
           {RefusalCode::no_device, RejectionReason::device, found.error()});
    return 0;
  }
  if (over(over_vms_share(guest.vm, *found->device))) return 0;
  auto session = std::make_unique<Session>();
  session->channel.reset(fcntl(guest.memory, F_DUPFD_CLOEXEC, 0));
  session->account.reset(fcntl(guest.account, F_DUPFD_CLOEXEC, 0));
  if (!session->channel || !session->account) {
    refuse(socket.get(), who, client_class.name,
           {RefusalCode::internal, RejectionReason::internal, "the host's vgpud is out of descriptors"});
    return 0;
  }
  session->socket = std::move(socket);
  session->peer.identity = std::move(who);
  session->guest = std::move(guest);
  session->client_class = client_class;
  session->device = found->device;
  return start(std::move(session));
}

void SessionManager::name_guest(std::uint64_t id, pid_t pid, uid_t uid, const std::string& program) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  found->second->guest_pid = pid;
  found->second->guest_uid = uid;
  found->second->peer.identity.program = program;
}

void SessionManager::share_guest(std::uint64_t id, const ClassConfig& whole, unsigned parts) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  Session& session = *found->second;
  if (session.client_class == whole && session.parts == parts) return;
  session.client_class = whole;
  session.parts = parts;
  push(session);
}

const GatePage* SessionManager::page_of(std::uint64_t id) const {
  const auto found = sessions_.find(id);
  return found != sessions_.end() && found->second->gate ? &found->second->gate->page() : nullptr;
}

void SessionManager::watch(Session& session) {
  const std::uint64_t id = session.id;
  if (session.guest) {
    if (!loop_.watch(session.socket.get(), EPOLLIN | EPOLLRDHUP,
                     [this, id](std::uint32_t) { on_client_socket(id); })) {
      log::error("client cannot be watched session={}", id);
    }
    return;
  }
  // Either can come first or alone: a forked child keeps the socket open, a program may close it and live on.
  const bool watched = loop_.watch(session.peer.pidfd.get(), EPOLLIN, [this, id](std::uint32_t) {
    end(id, "the process ended");
  }) && loop_.watch(session.socket.get(), EPOLLIN | EPOLLRDHUP, [this, id](std::uint32_t) {
    on_client_socket(id);
  });
  if (!watched) log::error("client cannot be watched session={}", id);
}

void SessionManager::on_client_socket(std::uint64_t id) {
  const Session& session = *sessions_.at(id);
  const auto message = receive_message(session.socket.get(), 0);
  if (message && message->none) return;
  end(id, message && !message->closed ? "it sent a message that has no place after the hello"
                                      : "it closed its connection");
}

// Gives a waiting session a worker, or leaves it waiting.
void SessionManager::serve(Session& session) {
  Worker* worker = session.settled && !session.device->in_doubt() ? session.device->pool()->take() : nullptr;
  if (worker != nullptr) {
    loop_.cancel(session.wait_timer);
    if (!attach(session, *worker)) end(session.id, "it could not be attached to its worker");
    return;
  }
  // One that starts, or will when one that ends has gone, is worth waiting for; one that serves another is
  // not.
  const unsigned most = session.device->pool()->options().max_workers;
  if (session.device->pool()->count(WorkerState::attached) + waiting(*session.device, session.id) >= most) {
    refuse(session,
           {RefusalCode::busy, RejectionReason::worker,
            fmt::format("device '{}' is limited to {} workers", session.device->config().name, most)});
    end(session.id, "refused");
    return;
  }
  if (session.wait_timer == 0) {
    const std::uint64_t id = session.id;
    session.wait_timer = loop_.after(config_->limits.worker_wait, [this, id] {
      const Session& late = *sessions_.at(id);
      refuse(late, {RefusalCode::no_device, RejectionReason::worker, "no worker was ready in time"});
      end(id, "refused");
    });
  }
  count_waiting(*session.device);
}

void SessionManager::count_waiting(Device& device) {
  if (device.pool() == nullptr) return;
  device.pool()->set_waiting(waiting(device, UINT64_MAX));
}

unsigned SessionManager::waiting(const Device& device, std::uint64_t before) const {
  return static_cast<unsigned>(std::count_if(sessions_.begin(), sessions_.end(), [&](const auto& entry) {
    return entry.second->device == &device && entry.second->state == SessionState::waiting &&
           entry.first < before;
  }));
}

bool SessionManager::attach(Session& session, Worker& worker) {
  session.worker = &worker;
  session.gate = worker.gate;
  const std::uint64_t id = session.id;
  worker.on_end = [this, id](const std::string& how, bool orderly) { worker_ended(id, how, orderly); };
  listen_to(worker, id);

  const std::uint64_t quota = session.client_class.memory_quota.value_or(0);
  if (session.guest) {
    worker.guest_socket.reset(fcntl(session.socket.get(), F_DUPFD_CLOEXEC, 0));
  } else {
    session.channel = make_channel(session);
  }
  auto direct = message_socket_pair();
  if (!session.channel || !direct || (session.guest && !worker.guest_socket)) {
    refuse(session,
           {RefusalCode::internal, RejectionReason::internal, "vgpud is out of memory or descriptors"});
    return false;
  }
  push(session);
  // Before the client can allocate anything; it holds for the session's life.
  if (session.device->residence().enabled()) session.gate->page().memory_movable.store(1);
  watch_residence(session);

  Attach attach_message;
  attach_message.session = id;
  attach_message.memory_quota = quota;
  attach_message.further_count = static_cast<std::uint32_t>(session.further.size());
  for (std::size_t i = 0; i < session.further.size(); ++i) {
    attach_message.further[i] = session.further[i]->config().ordinal;
  }
  attach_message.pid = session.peer.identity.pid;
  attach_message.uid = session.peer.identity.uid;
  set_text(attach_message.program, session.peer.identity.program);
  if (session.guest) {
    attach_message.slot_offset = session.guest->slot_offset;
    attach_message.arena_bytes = session.guest->arena_bytes;
    attach_message.control_offset = session.guest->control_offset;
    attach_message.account_place = session.guest->account_place;
  }
  std::vector<int> worker_fds{session.channel.get(), direct->second.get()};
  if (session.guest) worker_fds.push_back(session.account.get());
  Welcome welcome;
  welcome.session = id;
  welcome.device_count = static_cast<std::uint32_t>(session.device_count());
  welcome.memory_quota = quota;
  welcome.device = session.device->report().value_or(worker.report);
  const std::array<int, 2> client_fds{session.channel.get(), direct->first.get()};
  if (const auto sent = send_message(worker.fds.socket.get(), attach_message, worker_fds); !sent) {
    refuse(session, {RefusalCode::internal, RejectionReason::internal, "its worker does not answer"});
    return false;
  }
  // Before the client hears of it: if vgpud is killed in between, the next one finds a session whose client
  // has not been welcomed, lets it go, and the client says hello again.
  ++counters_.admitted;
  for (std::size_t i = 0; i < session.device_count(); ++i) ++past_[&session.device_at(i)].admitted;
  keep(session);
  if (const auto sent = send_message(session.socket.get(), welcome, client_fds); !sent) return false;
  for (const Device* device : session.further) {
    if (!device->report() || !send_message(session.socket.get(), *device->report())) return false;
  }

  session.welcomed = true;
  write_record(session);

  session.state = SessionState::running;
  watch_gates(session);
  const Identity& who = session.peer.identity;
  log::info("client admitted session={} pid={} uid={} program={} unit={} class={} device={} worker_pid={}",
            id, who.pid, who.uid, log::quoted(who.program), log::quoted(who.unit), session.client_class.name,
            session.device_names(), worker.pid);
  return true;
}

void SessionManager::release_worker(Session& session) {
  session.device->residence().remove(session.id);
  for (std::size_t i = 0; i < session.device_count(); ++i) session.device_at(i).gates().remove(session.id);
  store_.drop(store_owner(session.id));
  ipc_.forget_session(session.id);
  session.record.reset();
  if (session.worker != nullptr) session.device->pool()->end(session.worker);
  session.worker = nullptr;
}

void SessionManager::worker_ended(std::uint64_t id, const std::string& how, bool orderly) {
  Session& session = *sessions_.at(id);
  session.worker = nullptr;  // the pool's, and gone
  if (orderly) {
    end(id, "the client left");
    return;
  }
  ++counters_.worker_failures;
  fail(session, how);
}

void SessionManager::fail(Session& session, const std::string& how) {
  release_worker(session);
  session.state = SessionState::failed;
  session.failure = how;
  log::warning("worker of a client ended session={} pid={} program={} how={} device_error={}", session.id,
               session.peer.identity.pid, log::quoted(session.peer.identity.program), log::quoted(how),
               session.gate->page().sticky_error.load(std::memory_order_relaxed));
  if (session.channel) close_orphaned_channel(session);
  count_fault(session, how);
}

void SessionManager::end(std::uint64_t id, const std::string& why) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  const std::unique_ptr<Session> session = std::move(found->second);
  sessions_.erase(found);
  if (session->peer.pidfd) loop_.forget(session->peer.pidfd.get());
  loop_.forget(session->socket.get());
  loop_.cancel(session->wait_timer);
  const bool served = session->state != SessionState::waiting;
  release_worker(*session);
  // A client that survives its session (a dropped connection) must not wait for a worker that is gone.
  if (session->channel && session->state == SessionState::running) {
    close_orphaned_channel(*session);
  }
  if (served) {
    if (const auto error = session->gate->page().sticky_error.load(std::memory_order_relaxed); error != 0) {
      count_fault(*session, fmt::format("CUDA error {}", error));
    }
    for (std::size_t i = 0; i < session->device_count(); ++i) {
      past_[&session->device_at(i)].add(session->gate->page(i));
    }
    ClientStats last = describe(*session, {.calls = true});
    last.state = "ended";
    last.ending = session->failure.empty() ? why : why + "; its worker had ended with " + session->failure;
    log::info("client ended session={} pid={} program={} launches={} device_ms={} errors={} why={}", id,
              last.pid, log::quoted(last.program), last.launches, last.device_ns / 1'000'000, last.errors,
              log::quoted(last.ending));
    ended_.add(std::move(last));
    keep_broker();  // a killed broker must not lose what is no more to be read of the client's page
  }
  count_waiting(*session->device);
}

void SessionManager::end_all(const std::string& why) {
  while (!sessions_.empty()) end(sessions_.begin()->first, why);
}

std::vector<std::uint64_t> SessionManager::waiting_on(const Device& device) const {
  std::vector<std::uint64_t> ids;
  for (const auto& [id, session] : sessions_) {
    if (session->device == &device && session->state == SessionState::waiting) ids.push_back(id);
  }
  return ids;
}

void SessionManager::worker_ready(Device& device) {
  for (const std::uint64_t id : waiting_on(device)) {
    if (const auto found = sessions_.find(id); found != sessions_.end() && !found->second->settled) {
      settle(*found->second);
    }
  }
  for (auto& [id, session] : sessions_) {
    if (session->device != &device || session->state != SessionState::waiting || !session->settled) continue;
    serve(*session);  // may end this session: nothing of the map is used afterwards
    count_waiting(device);
    return;
  }
}

void SessionManager::device_problem(Device& device, const std::string& why) {
  for (const std::uint64_t id : waiting_on(device)) {
    const auto found = sessions_.find(id);
    if (found == sessions_.end()) continue;
    Session& session = *found->second;
    if (!session.settled) {
      settle(session);
      continue;
    }
    refuse(session, {RefusalCode::no_device, RejectionReason::device, "the device cannot serve: " + why});
    end(id, "refused");
  }
}

void SessionManager::apply(std::shared_ptr<const Config> config) {
  config_ = std::move(config);
  ended_.set_capacity(config_->ended_clients);
  for (auto& [id, session] : sessions_) {
    if (!session->guest) refresh(*session);  // a VM sees to its own
  }
}

void SessionManager::look_for_shared_faults() {
  for (Device* device : devices_) {
    if (!device->under_mps()) continue;
    for (const auto& [id, session] : sessions_) {
      if (session->device != device || session->state != SessionState::running) continue;
      const std::uint64_t error = session->gate->page().sticky_error.load(std::memory_order_relaxed);
      if (error == 0) continue;
      share_fault(*device, error);
      break;
    }
  }
}

// Under NVIDIA MPS one client's fault ends every context of the device, and the server takes nobody new
// before all of them have gone: so they go, ready workers included, and each client is told by the error that
// its calls return.
void SessionManager::share_fault(Device& device, std::uint64_t error) {
  log::warning("a fault under NVIDIA MPS ends all contexts of the device device={} device_error={}",
               device.config().name, error);
  for (const auto& [id, session] : sessions_) {
    if (session->device != &device || session->state != SessionState::running) continue;
    std::uint64_t none = 0;
    // Only whose work it was is to blame.
    if (session->gate->page().sticky_error.load(std::memory_order_relaxed) == 0)
      session->fault_counted = true;
    session->gate->page().sticky_error.compare_exchange_strong(none, error);
    release_worker(*session);
    session->state = SessionState::failed;
    session->failure = "a fault on a device shared through NVIDIA MPS";
    if (session->channel) close_orphaned_channel(*session);
  }
  device.pool()->renew();
}

}  // namespace vgpu::daemon
