#include "daemon/config/load.hpp"

#include <fnmatch.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <set>

#include "daemon/config/sections.hpp"

namespace vgpu::daemon {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

void read_log(const YAML::Node& node, LogConfig& out, ErrorSink& errors) {
  MapReader map(node, "'log'", errors);
  read_word<LogLevel, 4>(map, "level", out.level,
                         {{{"debug", LogLevel::debug},
                           {"info", LogLevel::info},
                           {"warning", LogLevel::warning},
                           {"error", LogLevel::error}}},
                         errors);
  read_word<LogTarget, 3>(map, "target", out.target,
                          {{{"auto", LogTarget::automatic},
                            {"journal", LogTarget::journal},
                            {"stderr", LogTarget::stderr_stream}}},
                          errors);
  map.finish();
}

void read_limits(const YAML::Node& node, LimitsConfig& out, ErrorSink& errors) {
  MapReader map(node, "'limits'", errors);
  map.integer("clients", out.clients, 1, 4096);
  map.integer("clients_per_user", out.clients_per_user, 1, 4096);
  map.integer("handshakes", out.handshakes, 1, 4096);
  map.integer("handshakes_per_user", out.handshakes_per_user, 1, 4096);
  map.duration("handshake_timeout", out.handshake_timeout, milliseconds{10});
  map.duration("worker_wait", out.worker_wait, milliseconds{10});
  map.integer("control_connections", out.control_connections, 1, 1024);
  map.finish();
}

void read_scheduler(const YAML::Node& node, SchedulerConfig& out, ErrorSink& errors) {
  MapReader map(node, "'scheduler'", errors);
  map.duration("quantum", out.policy.quantum, microseconds{100});
  map.duration("idle_after", out.policy.idle_after, microseconds{0});
  map.duration("linger", out.policy.linger, microseconds{0});
  map.duration("aging", out.policy.aging, microseconds{0});
  map.flag("anticipate", out.policy.anticipate);
  map.duration("slice", out.policy.slice, microseconds{100});
  map.duration("turn", out.policy.turn, microseconds{100});
  map.duration("lead", out.policy.lead, microseconds{0});
  map.duration("window", out.window, microseconds{50});
  map.duration("brief_window", out.brief_window, microseconds{0});
  map.finish();
}

void read_oversubscribe(const YAML::Node& node, OversubscribeConfig& out, ErrorSink& errors) {
  if (!node.IsDefined()) return;
  MapReader map(node, "'oversubscribe'", errors);
  map.optional_size("host_limit", out.host_limit, mebibyte, 1ULL << 50U);
  map.duration("minimum_residence", out.minimum_residence, microseconds{0});
  map.duration("idle_after", out.idle_after, microseconds{0});
  map.optional_size("context_memory", out.context_memory, mebibyte, 1ULL << 40U);
  map.optional_size("reserve", out.reserve, mebibyte, 1ULL << 50U);
  if (out.reserve.value_or(0) > out.host_limit.value_or(0)) {
    errors.add(node.Mark(), "'reserve' of 'oversubscribe' must not be more than its 'host_limit'");
  }
  map.finish();
}

// sysfs, with which they are compared, has small letters.
std::string in_small_letters(std::string text) {
  for (char& letter : text) letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  return text;
}

bool fits(const std::string& text, const std::string& pattern) {
  return fnmatch(pattern.c_str(), text.c_str(), 0) == 0;
}

// Which PCI functions a guest's device may be.
void read_function(MapReader& map, DeviceConfig& device, ErrorSink& errors) {
  const std::string digit = "[0-9a-f]";
  const std::string four = digit + digit + digit + digit;
  // A domain has four digits, or five where a host bridge makes its own.
  const std::string place = four + ":" + digit + digit + ":[01]" + digit + ".[0-7]";
  map.text("function", device.function);
  device.function = in_small_letters(device.function);
  if (!device.function.empty() && !fits(device.function, place) && !fits(device.function, digit + place)) {
    errors.add(map.child("function").Mark(),
               "'function' must be the address of a PCI function, such as 0000:00:05.0");
  }
  const auto ids = map.scalars("ids");
  if (!ids.empty()) device.ids.clear();
  for (const YAML::Node& id : ids) {
    device.ids.push_back(in_small_letters(id.Scalar()));
    if (!fits(device.ids.back(), four + ":" + four)) {
      errors.add(id.Mark(), "'ids' holds vendor:device, each of four hexadecimal digits, such as 1af4:1110");
    }
  }
}

void read_device(const YAML::Node& item, DeviceConfig& device, ErrorSink& errors) {
  MapReader map(item, "a device", errors);
  map.text("name", device.name);
  read_word<DeviceKind, 4>(map, "kind", device.kind,
                           {{{"auto", DeviceKind::automatic},
                             {"software", DeviceKind::software},
                             {"cuda", DeviceKind::cuda},
                             {"stub", DeviceKind::stub}}},
                           errors);
  read_function(map, device, errors);
  read_word<Sharing, 2>(map, "sharing", device.sharing,
                        {{{"isolated", Sharing::isolated}, {"mps", Sharing::mps}}}, errors);
  map.integer("ordinal", device.ordinal, 0, 255);
  map.path("driver", device.driver);
  map.integer("prestart", device.prestart, 0, 64);
  map.integer("max_workers", device.max_workers, 1, 1024);
  map.text("pool", device.pool);
  if (!good_name(device.pool)) {
    errors.add(item.Mark(), "a pool's name may hold letters, digits, '-', '_' and '.'");
  }
  read_oversubscribe(map.child("oversubscribe"), device.oversubscribe, errors);
  if (device.oversubscribe.host_limit && device.kind == DeviceKind::stub) {
    errors.add(item.Mark(), "memory of the host's device is moved by the host's vgpud, not in the VM");
  }
  PolicyKind policy = device.policy.value_or(PolicyKind::fair);
  read_word<PolicyKind, 5>(map, "policy", policy,
                           {{{"fair", PolicyKind::fair},
                             {"fifo", PolicyKind::fifo},
                             {"deadline", PolicyKind::deadline},
                             {"time_slice", PolicyKind::time_slice},
                             {"turns", PolicyKind::turns}}},
                           errors);
  if (item.IsMap() && item["policy"].IsDefined()) device.policy = policy;
  map.finish();
}

// `main`: the document's devices are all there are; else they add to those of earlier documents.
void read_devices(const YAML::Node& node, bool main, Config& config, ErrorSink& errors) {
  if (!node.IsDefined()) return;
  if (!node.IsSequence() || node.size() == 0) {
    errors.add(node.Mark(), "'devices' must be a list with at least one device");
    return;
  }
  if (main) config.devices.clear();
  std::set<std::string> names;
  for (const YAML::Node& item : node) {
    std::string name = name_of(item);
    if (name.empty()) name = "gpu" + std::to_string(names.size());
    if (!good_name(name))
      errors.add(item.Mark(), "a device's name may hold letters, digits, '-', '_' and '.'");
    if (!names.insert(name).second) errors.add(item.Mark(), "two devices are named '" + name + "'");
    auto device = find_named(config.devices, name);
    if (device == config.devices.end()) {
      device = config.devices.emplace(config.devices.end());
      device->name = name;
    }
    read_device(item, *device, errors);
  }
}

// `main`: the document's classes are all there are; else they add to those of earlier documents.
void read_classes(const YAML::Node& node, bool main, Config& config, ErrorSink& errors) {
  if (!node.IsDefined()) return;
  if (!node.IsMap() || node.size() == 0) {
    errors.add(node.Mark(), "'classes' must be a mapping with at least one class");
    return;
  }
  if (main) config.classes.clear();
  std::set<std::string> names;
  for (const auto& entry : node) {
    if (!entry.first.IsScalar() || !good_name(entry.first.Scalar())) {
      errors.add(entry.first.Mark(), "a class's name may hold letters, digits, '-', '_' and '.'");
      continue;
    }
    const std::string& name = entry.first.Scalar();
    ClassConfig& value = config.classes[name];
    value.name = name;
    MapReader map(entry.second, "class '" + name + "'", errors);
    read_class_settings(map, value, errors);
    map.finish();
    if (!names.insert(name).second) errors.add(entry.first.Mark(), "class '" + name + "' stands twice");
  }
}

// What names other parts of the configuration may stand in another document, so it is looked up at the end.
void check_references(const Config& config, const Place& default_class, ErrorSink& errors) {
  if (config.classes.count(config.default_class) == 0) {
    errors.add(default_class,
               "there is no class '" + config.default_class + "', which clients get that no rule matches");
  }
  for (const RuleConfig& rule : config.rules) {
    if (!rule.class_name.empty() && config.classes.count(rule.class_name) == 0) {
      errors.add(rule.class_place, "there is no class '" + rule.class_name + "'");
    }
    const auto is_named = [&](const DeviceConfig& device) { return device.name == rule.device; };
    if (!rule.device.empty() && std::none_of(config.devices.begin(), config.devices.end(), is_named)) {
      errors.add(rule.device_place, "there is no device '" + rule.device + "'");
    }
    const auto is_in_pool = [&](const DeviceConfig& device) { return device.pool == rule.pool; };
    if (!rule.pool.empty() && std::none_of(config.devices.begin(), config.devices.end(), is_in_pool)) {
      errors.add(rule.pool_place, "pool '" + rule.pool + "' has no device");
    }
    if (!rule.pool.empty() && !rule.device.empty()) {
      errors.add(rule.pool_place, "a rule may name a device or a pool, not both");
    }
  }
  check_vms(config, errors);
}

// The document's mapping. YAML text may hold several documents; what stands in a later one would not hold.
YAML::Node root_of(const ConfigDocument& document, ErrorSink& errors) {
  const std::vector<YAML::Node> all = YAML::LoadAll(document.text);
  if (all.size() > 1) errors.add(all[1].Mark(), "a second YAML document: a file holds one");
  return all.empty() ? YAML::Node() : all.front();
}

void read_socket(MapReader& map, const std::string& key, std::string& out, ErrorSink& errors) {
  map.path(key, out);
  if (const auto wrong = wrong_socket_path(out)) errors.add(map.child(key).Mark(), *wrong);
}

// Returns where `default_class` is said, or `before` where this document does not say it.
Place read_document(const ConfigDocument& document, const Place& before, Config& config, ErrorSink& errors) {
  const YAML::Node root = root_of(document, errors);
  MapReader map(root, "the configuration", errors);
  read_socket(map, "socket", config.socket, errors);
  read_socket(map, "control", config.control, errors);
  map.text("group", config.group);
  map.text("admin_group", config.admin_group);
  map.text("monitor_group", config.monitor_group);
  map.text("vm_group", config.vm_group);
  map.path("worker", config.worker);
  map.integer("ended_clients", config.ended_clients, 0, 10'000);
  read_log(map.child("log"), config.log, errors);
  read_limits(map.child("limits"), config.limits, errors);
  read_scheduler(map.child("scheduler"), config.scheduler, errors);
  read_devices(map.child("devices"), document.main, config, errors);
  read_classes(map.child("classes"), document.main, config, errors);
  const YAML::Node default_class = map.child("default_class");
  map.text("default_class", config.default_class);
  const std::string stem = document.file.substr(document.file.rfind('/') + 1);
  read_rules(map.child("rules"), document.main ? "" : stem.substr(0, stem.rfind('.')) + "-", config, errors);
  map.path("sysfs_root", config.sysfs_root);
  read_vms(map.child("vms"), document.main, config, errors);
  map.finish();
  if (default_class.IsDefined()) return errors.place(default_class.Mark());
  return document.main ? errors.place(root.Mark()) : before;
}

}  // namespace

std::string ConfigError::text() const {
  std::string place = file;
  if (line > 0) place += ":" + std::to_string(line) + ":" + std::to_string(column);
  return place + ": " + message;
}

tl::expected<Config, ConfigErrors> parse_config(std::span<const ConfigDocument> documents) {
  Config config = default_config();
  ErrorSink errors({});
  Place default_class;
  bool readable = true;
  for (const ConfigDocument& document : documents) {
    errors.set_file(document.file);
    if (document.main) config.file = document.file;
    try {
      default_class = read_document(document, default_class, config, errors);
    } catch (const YAML::Exception& error) {
      errors.add(error.mark, error.msg);
      readable = false;
    }
  }
  if (readable) check_references(config, default_class, errors);
  if (!errors.empty()) return tl::unexpected(errors.take());
  config.admin_gid = gid_of(config.admin_group);
  config.monitor_gid = gid_of(config.monitor_group);
  return config;
}

tl::expected<Config, ConfigErrors> parse_config(std::string_view text, const std::string& file) {
  const ConfigDocument document{file, std::string(text)};
  return parse_config(std::span(&document, 1));
}

tl::expected<void, std::string> apply_settings(ClassConfig& client_class, const Settings& settings) {
  YAML::Node node(YAML::NodeType::Map);
  for (const auto& [key, value] : settings) node[key] = value;
  ErrorSink errors({});
  ClassConfig changed = client_class;
  MapReader map(node, "a class", errors);
  read_class_settings(map, changed, errors);
  map.finish();
  if (errors.empty()) {
    client_class = std::move(changed);
    return {};
  }
  std::string all;
  for (const ConfigError& error : errors.take()) all += (all.empty() ? "" : "; ") + error.message;
  return tl::unexpected(std::move(all));
}

}  // namespace vgpu::daemon
