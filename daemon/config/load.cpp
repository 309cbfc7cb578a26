#include "daemon/config/load.hpp"

#include <grp.h>
#include <pwd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>

#include "daemon/config/yaml_reader.hpp"

namespace vgpu::daemon {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr std::uint64_t kMiB = 1ULL << 20U;
constexpr std::size_t kMaxFile = std::size_t{1} << 20U;

template <class Value, std::size_t N>
void read_word(MapReader& map, const std::string& key, Value& out,
               const std::array<std::pair<const char*, Value>, N>& words, ErrorSink& errors) {
  const YAML::Node node = map.child(key);
  if (!node.IsDefined()) return;
  std::string known;
  for (const auto& [word, value] : words) {
    if (node.IsScalar() && node.Scalar() == word) {
      out = value;
      return;
    }
    known += (known.empty() ? "" : ", ") + std::string(word);
  }
  errors.add(node.Mark(), "'" + key + "' must be one of: " + known);
}

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
  map.duration("quantum", out.quantum, microseconds{100});
  map.duration("idle_after", out.idle_after, microseconds{0});
  map.finish();
}

// The name of a list's or mapping's entry: letters, digits and "-_." only, since it is printed and looked up.
bool good_name(const std::string& name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
  });
}

void read_devices(const YAML::Node& node, Config& config, ErrorSink& errors) {
  if (!node.IsDefined()) return;
  if (!node.IsSequence() || node.size() == 0) {
    errors.add(node.Mark(), "'devices' must be a list with at least one device");
    return;
  }
  config.devices.clear();
  std::set<std::string> names;
  for (const YAML::Node& item : node) {
    DeviceConfig device;
    device.name = "gpu" + std::to_string(config.devices.size());
    MapReader map(item, "a device", errors);
    map.text("name", device.name);
    read_word<Sharing, 2>(map, "sharing", device.sharing,
                          {{{"isolated", Sharing::isolated}, {"mps", Sharing::mps}}}, errors);
    read_word<DeviceKind, 4>(map, "kind", device.kind,
                             {{{"auto", DeviceKind::automatic},
                               {"software", DeviceKind::software},
                               {"cuda", DeviceKind::cuda},
                               {"stub", DeviceKind::stub}}},
                             errors);
    map.text("function", device.function);
    if (const auto ids = map.scalars("ids"); !ids.empty()) {
      device.ids.clear();
      for (const YAML::Node& id : ids) device.ids.push_back(id.Scalar());
    }
    map.integer("ordinal", device.ordinal, 0, 255);
    map.path("driver", device.driver);
    map.integer("prestart", device.prestart, 0, 64);
    map.integer("max_workers", device.max_workers, 1, 1024);
    map.finish();
    if (!good_name(device.name))
      errors.add(item.Mark(), "a device's name may hold letters, digits, '-', '_' and '.'");
    if (!names.insert(device.name).second)
      errors.add(item.Mark(), "two devices are named '" + device.name + "'");
    config.devices.push_back(std::move(device));
  }
}

void read_classes(const YAML::Node& node, Config& config, ErrorSink& errors) {
  if (!node.IsDefined()) return;
  if (!node.IsMap() || node.size() == 0) {
    errors.add(node.Mark(), "'classes' must be a mapping with at least one class");
    return;
  }
  config.classes.clear();
  for (const auto& entry : node) {
    if (!entry.first.IsScalar() || !good_name(entry.first.Scalar())) {
      errors.add(entry.first.Mark(), "a class's name may hold letters, digits, '-', '_' and '.'");
      continue;
    }
    ClassConfig value;
    value.name = entry.first.Scalar();
    MapReader map(entry.second, "class '" + value.name + "'", errors);
    unsigned weight = value.weight;
    map.integer("weight", weight, 1, 10'000);
    value.weight = weight;
    std::uint64_t quota = 0;
    map.size("memory_quota", quota, kMiB, 1ULL << 50U);
    if (quota != 0) value.memory_quota = quota;
    map.integer("max_clients", value.max_clients, 0, 4096);
    map.size("arena", value.arena_bytes, kMiB, 1024 * kMiB);
    map.finish();
    if (!config.classes.emplace(value.name, value).second) {
      errors.add(entry.first.Mark(), "class '" + value.name + "' stands twice");
    }
  }
}

void read_vms(const YAML::Node& node, Config& config, ErrorSink& errors) {
  if (!node.IsDefined() || node.IsNull()) return;
  if (!node.IsSequence()) {
    errors.add(node.Mark(), "'vms' must be a list");
    return;
  }
  std::set<std::string> names;
  for (const YAML::Node& item : node) {
    VmConfig vm;
    MapReader map(item, "a VM", errors);
    map.text("name", vm.name);
    map.size("size", vm.bytes, 16 * kMiB, 1ULL << 40U);
    map.integer("slots", vm.slots, 1, 64);
    const YAML::Node class_node = map.child("class");
    map.text("class", vm.class_name);
    const YAML::Node device_node = map.child("device");
    map.text("device", vm.device);
    map.path("socket", vm.socket);
    map.path("pci_tree", vm.pci_tree);
    map.duration("guest_timeout", vm.guest_timeout, milliseconds(1000));
    map.finish();
    if (!good_name(vm.name)) {
      errors.add(item.Mark(), "a VM needs a name of letters, digits, '-', '_' and '.'");
    } else if (!names.insert(vm.name).second) {
      errors.add(item.Mark(), "two VMs are named '" + vm.name + "'");
    }
    if (!std::has_single_bit(vm.bytes))
      errors.add(item.Mark(), "the size of a VM's memory must be a power of two");
    if (!vm.class_name.empty() && config.classes.count(vm.class_name) == 0) {
      errors.add(class_node.Mark(), "there is no class '" + vm.class_name + "'");
    }
    const auto is_named = [&](const DeviceConfig& device) { return device.name == vm.device; };
    if (!vm.device.empty() && std::none_of(config.devices.begin(), config.devices.end(), is_named)) {
      errors.add(device_node.Mark(), "there is no device '" + vm.device + "'");
    }
    config.vms.push_back(std::move(vm));
  }
}

template <class Id>
std::optional<Id> number_of(const std::string& text) {
  Id id{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return id;
}

void read_match(const YAML::Node& node, RuleConfig& rule, ErrorSink& errors) {
  MapReader map(node, "'match'", errors);
  for (const YAML::Node& item : map.scalars("uid")) {
    const std::string& text = item.Scalar();
    if (const auto id = number_of<uid_t>(text)) {
      rule.uids.push_back(*id);
    } else if (const passwd* user = getpwnam(text.c_str())) {
      rule.uids.push_back(user->pw_uid);
    } else {
      errors.add(item.Mark(), "there is no user '" + text + "' on this system");
    }
  }
  for (const YAML::Node& item : map.scalars("gid")) {
    const std::string& text = item.Scalar();
    if (const auto id = number_of<gid_t>(text)) {
      rule.gids.push_back(*id);
    } else if (const group* entry = getgrnam(text.c_str())) {
      rule.gids.push_back(entry->gr_gid);
    } else {
      errors.add(item.Mark(), "there is no group '" + text + "' on this system");
    }
  }
  for (const YAML::Node& item : map.scalars("executable")) {
    const std::string& text = item.Scalar();
    if (text.empty() || (text.front() != '/' && text.front() != '*')) {
      errors.add(item.Mark(),
                 "'executable' is matched with the full path: '" + text + "' must begin with / or *");
    }
    rule.executables.push_back(text);
  }
  for (const YAML::Node& item : map.scalars("unit")) rule.units.push_back(item.Scalar());
  for (const YAML::Node& item : map.scalars("cgroup")) rule.cgroups.push_back(item.Scalar());
  map.finish();
}

void read_rules(const YAML::Node& node, Config& config, ErrorSink& errors) {
  if (!node.IsDefined() || node.IsNull()) return;
  if (!node.IsSequence()) {
    errors.add(node.Mark(), "'rules' must be a list");
    return;
  }
  for (const YAML::Node& item : node) {
    RuleConfig rule;
    rule.line = item.Mark().line + 1;
    MapReader map(item, "a rule", errors);
    read_match(map.child("match"), rule, errors);
    const YAML::Node class_node = map.child("class");
    map.text("class", rule.class_name);
    const YAML::Node device_node = map.child("device");
    map.text("device", rule.device);
    map.flag("reject", rule.reject);
    map.finish();
    if (rule.reject == !rule.class_name.empty()) {
      errors.add(item.Mark(), "a rule must say either 'class: NAME' or 'reject: true'");
    }
    if (!rule.class_name.empty() && config.classes.count(rule.class_name) == 0) {
      errors.add(class_node.Mark(), "there is no class '" + rule.class_name + "'");
    }
    const auto is_named = [&](const DeviceConfig& device) { return device.name == rule.device; };
    if (!rule.device.empty() && std::none_of(config.devices.begin(), config.devices.end(), is_named)) {
      errors.add(device_node.Mark(), "there is no device '" + rule.device + "'");
    }
    config.rules.push_back(std::move(rule));
  }
}

void read_document(const YAML::Node& root, Config& config, ErrorSink& errors) {
  MapReader map(root, "the configuration", errors);
  map.path("socket", config.socket);
  map.path("control", config.control);
  map.text("group", config.group);
  map.path("worker", config.worker);
  map.integer("ended_clients", config.ended_clients, 0, 10'000);
  read_log(map.child("log"), config.log, errors);
  read_limits(map.child("limits"), config.limits, errors);
  read_scheduler(map.child("scheduler"), config.scheduler, errors);
  read_devices(map.child("devices"), config, errors);
  read_classes(map.child("classes"), config, errors);
  const YAML::Node default_class = map.child("default_class");
  map.text("default_class", config.default_class);
  if (config.classes.count(config.default_class) == 0) {
    errors.add(default_class.IsDefined() ? default_class.Mark() : root.Mark(),
               "there is no class '" + config.default_class + "', which clients get that no rule matches");
  }
  read_rules(map.child("rules"), config, errors);
  map.path("sysfs_root", config.sysfs_root);
  read_vms(map.child("vms"), config, errors);
  map.finish();
}

}  // namespace

std::string ConfigError::text() const {
  std::string place = file;
  if (line > 0) place += ":" + std::to_string(line) + ":" + std::to_string(column);
  return place + ": " + message;
}

tl::expected<Config, ConfigErrors> parse_config(std::string_view text, const std::string& file) {
  ErrorSink errors(file);
  Config config = default_config();
  config.file = file;
  try {
    read_document(YAML::Load(std::string(text)), config, errors);
  } catch (const YAML::Exception& error) {
    errors.add(error.mark, error.msg);
  }
  if (!errors.empty()) return tl::unexpected(errors.take());
  return config;
}

tl::expected<Config, ConfigErrors> load_config(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  std::string text;
  if (stream) {
    text.resize(kMaxFile + 1);
    stream.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<std::size_t>(stream.gcount()));
  }
  if (!stream.eof() || stream.bad()) {
    const char* reason = text.size() > kMaxFile ? "the file is larger than 1 MiB" : std::strerror(errno);
    return tl::unexpected(
        ConfigErrors{{file, 0, 0, std::string("cannot read the configuration: ") + reason}});
  }
  return parse_config(text, file);
}

}  // namespace vgpu::daemon
