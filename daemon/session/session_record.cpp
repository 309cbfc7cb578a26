#include "daemon/session/session_record.hpp"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

namespace vgpu::daemon {
namespace {

using nlohmann::json;

constexpr unsigned kVersion = 2;

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

json to_json(const Identity& who) {
  return {{"pid", who.pid},         {"uid", who.uid},       {"gid", who.gid},
          {"groups", who.groups},   {"unit", who.unit},     {"executable", who.executable},
          {"program", who.program}, {"cgroup", who.cgroup}, {"ancestors", who.ancestors}};
}

Identity identity_from(const json& value) {
  Identity who;
  value.at("pid").get_to(who.pid);
  value.at("uid").get_to(who.uid);
  value.at("gid").get_to(who.gid);
  value.at("groups").get_to(who.groups);
  value.at("executable").get_to(who.executable);
  value.at("program").get_to(who.program);
  value.at("cgroup").get_to(who.cgroup);
  value.at("unit").get_to(who.unit);
  value.at("ancestors").get_to(who.ancestors);
  return who;
}

json to_json(const ClassConfig& config) {
  return {{"name", config.name},
          {"weight", config.weight},
          {"memory_quota", config.memory_quota.value_or(0)},
          {"max_clients", config.max_clients},
          {"max_clients_per_user", config.max_clients_per_user},
          {"priority", static_cast<unsigned>(config.priority)},
          {"deadline", config.deadline.count()},
          {"launch_rate", config.launch_rate},
          {"bandwidth", config.bandwidth.value_or(0)},
          {"queue_depth", config.queue_depth},
          {"window", config.window.count()},
          {"watchdog", config.watchdog.count()},
          {"quarantine_after", config.quarantine_after},
          {"quarantine_time", config.quarantine_time.count()},
          {"arena_bytes", config.arena_bytes}};
}

ClassConfig class_from(const json& value) {
  ClassConfig config;
  value.at("name").get_to(config.name);
  value.at("weight").get_to(config.weight);
  if (const auto quota = value.at("memory_quota").get<std::uint64_t>(); quota != 0)
    config.memory_quota = quota;
  value.at("max_clients").get_to(config.max_clients);
  const auto duration = [&](const char* key) {
    return std::chrono::microseconds(value.at(key).get<std::int64_t>());
  };
  value.at("max_clients_per_user").get_to(config.max_clients_per_user);
  config.priority = static_cast<Priority>(std::min(value.at("priority").get<unsigned>(), kLevels - 1));
  config.deadline = duration("deadline");
  value.at("launch_rate").get_to(config.launch_rate);
  if (const auto bytes = value.at("bandwidth").get<std::uint64_t>(); bytes != 0) config.bandwidth = bytes;
  value.at("queue_depth").get_to(config.queue_depth);
  config.window = duration("window");
  config.watchdog = duration("watchdog");
  value.at("quarantine_after").get_to(config.quarantine_after);
  config.quarantine_time = duration("quarantine_time");
  value.at("arena_bytes").get_to(config.arena_bytes);
  return config;
}

json to_json(const Adjustments& changed) {
  return {{"class", changed.class_name},
          {"by_administrator", changed.by_administrator},
          {"by_owner", changed.by_owner},
          {"paused_by_administrator", changed.paused_by_administrator},
          {"paused_by_owner", changed.paused_by_owner}};
}

Adjustments adjustments_from(const json& value) {
  Adjustments changed;
  value.at("class").get_to(changed.class_name);
  value.at("by_administrator").get_to(changed.by_administrator);
  value.at("by_owner").get_to(changed.by_owner);
  value.at("paused_by_administrator").get_to(changed.paused_by_administrator);
  value.at("paused_by_owner").get_to(changed.paused_by_owner);
  return changed;
}

json to_json(const SessionCounters& counters) {
  return {{"admitted", counters.admitted},
          {"refused", counters.refused},
          {"worker_failures", counters.worker_failures},
          {"faults", counters.faults},
          {"watchdog_kills", counters.watchdog_kills},
          {"quarantines", counters.quarantines},
          {"refused_quarantined", counters.refused_quarantined},
          {"refused_limits", counters.refused_limits}};
}

SessionCounters counters_from(const json& value) {
  SessionCounters counters;
  value.at("admitted").get_to(counters.admitted);
  value.at("refused").get_to(counters.refused);
  value.at("worker_failures").get_to(counters.worker_failures);
  value.at("faults").get_to(counters.faults);
  value.at("watchdog_kills").get_to(counters.watchdog_kills);
  value.at("quarantines").get_to(counters.quarantines);
  value.at("refused_quarantined").get_to(counters.refused_quarantined);
  value.at("refused_limits").get_to(counters.refused_limits);
  return counters;
}

// Times are CLOCK_MONOTONIC's, which goes on over a restart of vgpud.
json to_json(const QuarantineEntry& entry) {
  const auto ns = [](QuarantineEntry::TimePoint time) {
    return std::chrono::nanoseconds(time.time_since_epoch()).count();
  };
  json value = {{"uid", entry.subject.uid},
                {"executable", entry.subject.executable},
                {"why", entry.why},
                {"faults", entry.faults},
                {"since_ns", ns(entry.since)}};
  if (entry.until) value["until_ns"] = ns(*entry.until);
  return value;
}

QuarantineEntry quarantined_from(const json& value) {
  const auto time = [&](const char* key) {
    return QuarantineEntry::TimePoint(std::chrono::nanoseconds(value.at(key).get<std::int64_t>()));
  };
  QuarantineEntry entry;
  value.at("uid").get_to(entry.subject.uid);
  value.at("executable").get_to(entry.subject.executable);
  value.at("why").get_to(entry.why);
  value.at("faults").get_to(entry.faults);
  entry.since = time("since_ns");
  if (value.contains("until_ns")) entry.until = time("until_ns");
  return entry;
}

json to_json(const Rejection& rejection) {
  return {{"uid", rejection.uid},
          {"class", rejection.client_class},
          {"reason", static_cast<unsigned>(rejection.reason)},
          {"count", rejection.count},
          {"program", rejection.program},
          {"last_ns", std::chrono::nanoseconds(rejection.last.time_since_epoch()).count()}};
}

Rejection rejection_from(const json& value) {
  Rejection rejection;
  value.at("uid").get_to(rejection.uid);
  value.at("class").get_to(rejection.client_class);
  rejection.reason = static_cast<RejectionReason>(value.at("reason").get<unsigned>());
  value.at("count").get_to(rejection.count);
  value.at("program").get_to(rejection.program);
  rejection.last = Rejections::TimePoint(std::chrono::nanoseconds(value.at("last_ns").get<std::int64_t>()));
  return rejection;
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
  value["session"] = record.session;
  value["device"] = record.device;
  value["identity"] = to_json(record.identity);
  value["class"] = to_json(record.client_class);
  value["adjustments"] = to_json(record.adjustments);
  value["since_ns"] = record.since_ns;
  value["report"] = to_json(record.report);
  return json::to_cbor(value);
}

std::vector<std::uint8_t> encode(const BrokerRecord& record) {
  json value = head();
  value["next_session"] = record.next_session;
  value["counters"] = to_json(record.counters);
  json& quarantined = value["quarantined"] = json::array();
  for (const QuarantineEntry& entry : record.quarantined) quarantined.push_back(to_json(entry));
  json& rejections = value["rejections"] = json::array();
  for (const Rejection& rejection : record.rejections) rejections.push_back(to_json(rejection));
  return json::to_cbor(value);
}

tl::expected<SessionRecord, std::string> decode_session(std::span<const std::uint8_t> bytes) {
  try {
    const auto value = opened(bytes);
    if (!value) return tl::unexpected(value.error());
    SessionRecord record;
    value->at("session").get_to(record.session);
    value->at("device").get_to(record.device);
    record.identity = identity_from(value->at("identity"));
    record.client_class = class_from(value->at("class"));
    record.adjustments = adjustments_from(value->at("adjustments"));
    value->at("since_ns").get_to(record.since_ns);
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
    value->at("next_session").get_to(record.next_session);
    record.counters = counters_from(value->at("counters"));
    for (const json& entry : value->at("quarantined")) record.quarantined.push_back(quarantined_from(entry));
    for (const json& entry : value->at("rejections")) record.rejections.push_back(rejection_from(entry));
    return record;
  } catch (const json::exception& error) {
    return damaged(error);
  }
}

}  // namespace vgpu::daemon
