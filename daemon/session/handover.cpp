// The part of SessionManager that outlives the process: what of each session is kept with the service
// manager, and how the next vgpud goes on with it. The client, its channel and its worker go on by themselves
// meanwhile.
#include <algorithm>
#include <array>
#include <string_view>

#include "daemon/base/log.hpp"
#include "daemon/session/session_manager.hpp"
#include "daemon/session/session_record.hpp"
#include "protocol/channel.hpp"
#include "protocol/message_socket.hpp"

namespace vgpu::daemon {
namespace {

using std::chrono::nanoseconds;

constexpr const char* kBroker = "broker";
constexpr std::string_view kSessionPrefix = "session-";

// The parts of a session in the store.
constexpr const char* kRecord = "record";
constexpr const char* kClientSocket = "client";
constexpr const char* kClientPidfd = "client-process";
constexpr const char* kChannel = "channel";
constexpr const char* kWorkerPidfd = "worker-process";
constexpr const char* kWorkerSocket = "worker";
constexpr const char* kGate = "gate";
constexpr const char* kAttention = "attention";
constexpr const char* kLifeline = "lifeline";

UniqueFd take(KeptParts& parts, const char* part) {
  const auto found = parts.find(part);
  return found == parts.end() ? UniqueFd() : std::move(found->second);
}

}  // namespace

void SessionManager::keep(Session& session) {
  // A client whose process cannot be watched here (it is in a VM) has to be admitted anew.
  if (!store_.enabled() || !session.peer.pidfd) return;
  auto record = StateMemory::create("vgpud-session");
  if (!record) {
    log::warning("session will not outlive vgpud session={} reason={}", session.id,
                 log::quoted(record.error()));
    return;
  }
  session.record = std::move(*record);
  write_record(session);
  const WorkerDescriptors& worker = session.worker->fds;
  const std::string owner = store_owner(session.id);
  store_.keep(owner, kClientSocket, session.socket.get());
  store_.keep(owner, kClientPidfd, session.peer.pidfd.get());
  store_.keep(owner, kChannel, session.channel.get());
  store_.keep(owner, kWorkerPidfd, worker.pidfd.get());
  store_.keep(owner, kWorkerSocket, worker.socket.get());
  store_.keep(owner, kGate, worker.gate.get());
  store_.keep(owner, kAttention, worker.attention.get());
  store_.keep(owner, kLifeline, worker.lifeline.get());
  store_.keep(owner, kRecord, session.record->fd());  // last: whoever finds it finds all
  keep_broker();
}

void SessionManager::write_record(Session& session) {
  if (!session.record || session.worker == nullptr) return;
  SessionRecord record;
  record.session = session.id;
  record.device = session.device->config().name;
  for (const Device* device : session.further) record.further.push_back(device->config().name);
  record.identity = session.peer.identity;
  record.client_class = session.client_class;
  record.adjustments = session.adjustments;
  record.since_ns = nanoseconds(session.since.time_since_epoch()).count();
  record.welcomed = session.welcomed;
  record.report = session.worker->report;
  if (const auto written = session.record->write(encode(record)); !written) {
    log::warning("session's record is not up to date session={} reason={}", session.id,
                 log::quoted(written.error()));
  }
}

void SessionManager::keep_broker() {
  if (!store_.enabled()) return;
  if (!broker_record_) {
    auto record = StateMemory::create("vgpud-broker");
    if (!record) return;
    broker_record_ = std::move(*record);
    store_.keep(kBroker, kRecord, broker_record_->fd());
  }
  BrokerRecord record{next_id_, counters_, quarantined(), rejections(), {}};
  for (Device* device : devices_) {
    record.devices.push_back(
        {device->config().name, past_[device], device->gates().switches(), device->gates().charged_ns()});
  }
  auto bytes = encode(record);
  if (bytes.size() > StateMemory::max_bytes) {
    log::warning("programs in quarantine will be free again when vgpud is restarted: they are too many");
    record.quarantined.clear();
    bytes = encode(record);
  }
  if (const auto written = broker_record_->write(bytes); !written) {
    log::warning("broker's record is not up to date reason={}", log::quoted(written.error()));
  }
}

void SessionManager::adopt_broker() {
  auto kept = store_.take_all(kBroker);
  if (kept.empty()) return;
  auto memory = StateMemory::open(take(kept.begin()->second, kRecord));
  const auto bytes = memory.and_then([](const StateMemory& state) { return state.read(); });
  const auto record = bytes.and_then([](const auto& value) { return decode_broker(value); });
  if (!record) {
    log::warning("the earlier vgpud's counts are lost reason={}", log::quoted(record.error()));
    store_.drop(kBroker);
    return;
  }
  broker_record_ = std::move(*memory);
  next_id_ = record->next_session;
  counters_ = record->counters;
  for (const QuarantineEntry& entry : record->quarantined) quarantine_.restore(entry);
  for (const Rejection& rejection : record->rejections) rejections_.restore(rejection);
  for (const DeviceRecord& one : record->devices) {
    Device* const device = one.name.empty() ? nullptr : find_device(one.name);
    if (device == nullptr) continue;
    past_[device] = one.past;
    device->gates().go_on_from(one.switches, one.charged_ns);
  }
}

void SessionManager::adopt() {
  adopt_broker();
  auto kept = store_.take_all(kSessionPrefix);
  for (auto& [owner, parts] : kept) adopt_one(owner, std::move(parts));
  for (Device* device : devices_) device->residence().open();
  if (!kept.empty()) {
    log::info("sessions of an earlier vgpud go on sessions={} of={}", sessions_.size(), kept.size());
  }
  keep_broker();
}

// A session's descriptors as they were kept, checked. Takes from `parts` what it uses; what stays there
// closes, which ends a worker.
tl::expected<std::unique_ptr<Session>, std::string> SessionManager::restore(KeptParts& parts) {
  auto memory = StateMemory::open(take(parts, kRecord));
  if (!memory) return tl::unexpected(memory.error());
  const auto bytes = memory->read();
  if (!bytes) return tl::unexpected(bytes.error());
  auto record = decode_session(*bytes);
  if (!record) return tl::unexpected(record.error());
  if (!record->welcomed) {
    return tl::unexpected(std::string("its client had not heard of it yet, and asks again"));
  }

  auto session = std::make_unique<Session>();
  session->id = record->session;
  session->since = EventLoop::Clock::time_point(nanoseconds(record->since_ns));
  session->peer.identity = std::move(record->identity);
  session->client_class = std::move(record->client_class);
  session->adjustments = std::move(record->adjustments);
  session->record = std::move(*memory);
  session->welcomed = record->welcomed;
  session->socket = take(parts, kClientSocket);
  session->peer.pidfd = take(parts, kClientPidfd);
  session->channel = take(parts, kChannel);
  if (sessions_.count(session->id) != 0) return tl::unexpected(std::string("there are two of its number"));
  if (pid_of(session->peer.pidfd.get()) != session->peer.identity.pid) {
    return tl::unexpected(std::string("the client has ended"));
  }
  if (const auto channel = Channel::attach(session->channel.get()); !channel) {
    return tl::unexpected(channel.error());
  }
  session->device = record->device.empty() ? nullptr : find_device(record->device);
  if (session->device == nullptr || session->device->pool() == nullptr) {
    return tl::unexpected("there is no device '" + record->device + "' any more");
  }
  if (record->further.size() >= most_client_devices) {
    return tl::unexpected(std::string("its record is damaged: it has too many devices"));
  }
  for (const std::string& name : record->further) {
    Device* const device = name.empty() ? nullptr : find_device(name);
    if (device == nullptr || session->place_of(*device)) {
      return tl::unexpected("there is no device '" + name + "' any more");
    }
    session->further.push_back(device);
  }
  WorkerDescriptors worker{take(parts, kWorkerPidfd), take(parts, kWorkerSocket), take(parts, kGate),
                           take(parts, kAttention), take(parts, kLifeline)};
  if (!worker.pidfd || !worker.socket || !worker.attention || !worker.lifeline || !session->socket) {
    return tl::unexpected(std::string("a descriptor was not kept"));
  }
  auto adopted = adopt_worker(std::move(worker), record->report);
  if (!adopted) return tl::unexpected(adopted.error());
  session->gate = (*adopted)->gate;
  session->worker = session->device->adopt(std::move(*adopted));
  session->state = SessionState::running;
  return session;
}

void SessionManager::adopt_one(const std::string& owner, KeptParts parts) {
  auto restored = restore(parts);
  if (!restored) {
    log::warning("session of an earlier vgpud ends session={} reason={}", owner,
                 log::quoted(restored.error()));
    store_.drop(owner);
    return;
  }
  Session& session = **restored;
  const std::uint64_t id = session.id;
  next_id_ = std::max(next_id_, id + 1);
  session.worker->on_end = [this, id](const std::string& how, bool orderly) {
    worker_ended(id, how, orderly);
  };
  listen_to(*session.worker, id);
  adopted_ = EventLoop::Clock::now();
  if (!send_message(session.worker->fds.socket.get(), IpcAgain{})) {
    log::warning("what a session shares is not known any more session={}", id);
  }
  for (std::size_t i = 0; i < session.device_count(); ++i) {
    session.sampled_ns[i] = session.gate->page(i).consumed_ns.load(std::memory_order_relaxed);
  }
  session.quarantined = quarantine_.find(subject_of(session), EventLoop::Clock::now()) != nullptr;
  watch_gates(session);
  watch_residence(session);
  sessions_.emplace(id, std::move(*restored));
  refresh(session);
  watch(session);
  const Identity& who = session.peer.identity;
  log::info("client adopted session={} pid={} uid={} program={} class={} device={} worker_pid={}", id,
            who.pid, who.uid, log::quoted(who.program), session.client_class.name,
            session.device->config().name, session.worker->pid);
}

void SessionManager::hand_over() {
  keep_broker();
  for (Device* device : devices_) device->gates().open_all();
  std::vector<std::uint64_t> others;
  for (auto entry = sessions_.begin(); entry != sessions_.end();) {
    Session& session = *entry->second;
    if (session.state != SessionState::running || !session.record) {
      others.push_back((entry++)->first);
      continue;
    }
    loop_.forget(session.peer.pidfd.get());
    loop_.forget(session.socket.get());
    session.device->keep_sharing();
    session.device->pool()->hand_over(session.worker);
    entry = sessions_.erase(entry);
  }
  for (const std::uint64_t id : others) end(id, "vgpud ends");
}

}  // namespace vgpu::daemon
