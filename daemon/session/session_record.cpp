#include "daemon/session/session_record.hpp"

#include <cstring>
#include <nlohmann/json.hpp>

#include "daemon/handover/fields.hpp"

namespace vgpu::daemon {
namespace {

using nlohmann::json;

constexpr unsigned kVersion = 5;

json head() {
  // The protocol's hash covers the layouts of channel, gate page and device report.
  return {{"version", kVersion}, {"protocol", protocol_hash()}};
}

// The value, if its head is ours. Throws json::exception on what is no record at all.
tl::expected<json, std::string> opened(std::span<const std::uint8_t> bytes) {
  json value = json::from_cbor(bytes);
  if (value.at("version").get<unsigned>() != kVersion ||
      value.at("protocol").get<std::uint64_t>() != protocol_hash()) {
    return tl::unexpected(std::string("it was written by another version of vgpud"));
  }
  return value;
}

template <class Field, Either<Identity> Who>
void fields(Field& field, Who& who) {
  field("pid", who.pid);
  field("uid", who.uid);
  field("gid", who.gid);
  field("groups", who.groups);
  field("executable", who.executable);
  field("program", who.program);
  field("cgroup", who.cgroup);
  field("unit", who.unit);
  field("ancestors", who.ancestors);
}

template <class Field, Either<ClassConfig> Config>
void fields(Field& field, Config& config) {
  field("name", config.name);
  field("weight", config.weight);
  field.or_zero("memory_quota", config.memory_quota);
  field("max_clients", config.max_clients);
  field("max_clients_per_user", config.max_clients_per_user);
  field.choice("priority", config.priority, Priority::low);
  field("deadline", config.deadline);
  field("launch_rate", config.launch_rate);
  field.or_zero("bandwidth", config.bandwidth);
  field("queue_depth", config.queue_depth);
  field("window", config.window);
  field("watchdog", config.watchdog);
  field("quarantine_after", config.quarantine_after);
  field("quarantine_time", config.quarantine_time);
  field("arena_bytes", config.arena_bytes);
  field("devices", config.devices);
}

template <class Field, Either<Adjustments> Changed>
void fields(Field& field, Changed& changed) {
  field("class", changed.class_name);
  field("by_administrator", changed.by_administrator);
  field("by_owner", changed.by_owner);
  field("paused_by_administrator", changed.paused_by_administrator);
  field("paused_by_owner", changed.paused_by_owner);
}

template <class Field, Either<SessionCounters> Counters>
void fields(Field& field, Counters& counters) {
  field("admitted", counters.admitted);
  field("refused", counters.refused);
  field("worker_failures", counters.worker_failures);
  field("faults", counters.faults);
  field("watchdog_kills", counters.watchdog_kills);
  field("quarantines", counters.quarantines);
  field("refused_quarantined", counters.refused_quarantined);
  field("refused_limits", counters.refused_limits);
}

template <class Field, Either<QuarantineEntry> Entry>
void fields(Field& field, Entry& entry) {
  field("uid", entry.subject.uid);
  field("executable", entry.subject.executable);
  field("why", entry.why);
  field("faults", entry.faults);
  field("since_ns", entry.since);
  field.if_any("until_ns", entry.until);
}

template <class Field, Either<Rejection> One>
void fields(Field& field, One& rejection) {
  field("uid", rejection.uid);
  field("class", rejection.client_class);
  field.choice("reason", rejection.reason, RejectionReason::internal);
  field("count", rejection.count);
  field("program", rejection.program);
  field("last_ns", rejection.last);
}

template <class Field, Either<DeviceRecord> Record>
void fields(Field& field, Record& record) {
  field("name", record.name);
  field("admitted", record.past.admitted);
  field("refused", record.past.refused);
  field("faults", record.past.faults);
  field("device_ns", record.past.device_ns);
  field("moves_out", record.past.moves_out);
  field("moves_in", record.past.moves_in);
  field("bytes_moved_out", record.past.bytes_moved_out);
  field("bytes_moved_in", record.past.bytes_moved_in);
  field("move_out_ns", record.past.move_out_ns);
  field("move_in_ns", record.past.move_in_ns);
  field("memory_wait_ns", record.past.memory_wait_ns);
  field("latency", record.past.latency);
  field("wait", record.past.wait);
  field("latency_sum_ns", record.past.latency_sum_ns);
  field("wait_sum_ns", record.past.wait_sum_ns);
  field("switches", record.switches);
  field("charged_ns", record.charged_ns);
}

constexpr auto kOfPart = [](auto& field, auto& part) { fields(field, part); };

// All but the report, which is written as its bytes.
template <class Field, Either<SessionRecord> Record>
void fields(Field& field, Record& record) {
  field("session", record.session);
  field("device", record.device);
  field("further", record.further);
  field.part("identity", record.identity, kOfPart);
  field.part("class", record.client_class, kOfPart);
  field.part("adjustments", record.adjustments, kOfPart);
  field("since_ns", record.since_ns);
  field("welcomed", record.welcomed);
}

template <class Field, Either<BrokerRecord> Record>
void fields(Field& field, Record& record) {
  field("next_session", record.next_session);
  field.part("counters", record.counters, kOfPart);
  field.parts("quarantined", record.quarantined, kOfPart);
  field.parts("rejections", record.rejections, kOfPart);
  field.parts("devices", record.devices, kOfPart);
}

json to_json(const DeviceReport& report) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(&report);
  return json::binary({bytes, bytes + sizeof report});
}

bool report_from(const json& value, DeviceReport& report) {
  if (!value.is_binary() || value.get_binary().size() != sizeof report) return false;
  std::memcpy(&report, value.get_binary().data(), sizeof report);
  report.name[sizeof report.name - 1] = '\0';
  report.pci_bus_id[sizeof report.pci_bus_id - 1] = '\0';
  return true;
}

tl::unexpected<std::string> damaged(const json::exception& error) {
  return tl::unexpected(std::string("its record is damaged: ") + error.what());
}

}  // namespace

std::vector<std::uint8_t> encode(const SessionRecord& record) {
  json value = head();
  FieldWriter field(value);
  fields(field, record);
  value["report"] = to_json(record.report);
  return json::to_cbor(value);
}

std::vector<std::uint8_t> encode(const BrokerRecord& record) {
  json value = head();
  FieldWriter field(value);
  fields(field, record);
  return json::to_cbor(value);
}

tl::expected<SessionRecord, std::string> decode_session(std::span<const std::uint8_t> bytes) {
  try {
    const auto value = opened(bytes);
    if (!value) return tl::unexpected(value.error());
    SessionRecord record;
    FieldReader field(*value);
    fields(field, record);
    if (!report_from(value->at("report"), record.report)) {
      return tl::unexpected(std::string("its record is damaged: the device report has a wrong size"));
    }
    return record;
  } catch (const json::exception& error) {
    return damaged(error);
  }
}

tl::expected<BrokerRecord, std::string> decode_broker(std::span<const std::uint8_t> bytes) {
  try {
    const auto value = opened(bytes);
    if (!value) return tl::unexpected(value.error());
    BrokerRecord record;
    FieldReader field(*value);
    fields(field, record);
    return record;
  } catch (const json::exception& error) {
    return damaged(error);
  }
}

}  // namespace vgpu::daemon
