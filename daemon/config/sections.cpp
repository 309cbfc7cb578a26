#include "daemon/config/sections.hpp"

#include <grp.h>

#include <cctype>
#include <chrono>

namespace vgpu::daemon {

using std::chrono::microseconds;

bool good_name(const std::string& name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
  });
}

std::optional<gid_t> gid_of(const std::string& name) {
  const group* const entry = getgrnam(name.c_str());
  return entry != nullptr ? std::optional(entry->gr_gid) : std::nullopt;
}

std::string name_of(const YAML::Node& item) {
  if (!item.IsMap()) return {};
  const YAML::Node name = item["name"];
  return name.IsDefined() && name.IsScalar() ? name.Scalar() : std::string();
}

void read_class_settings(MapReader& map, ClassConfig& out, ErrorSink& errors) {
  map.integer("weight", out.weight, 1, 10'000);
  map.optional_size("memory_quota", out.memory_quota, mebibyte, 1ULL << 50U);
  read_word<Priority, 3>(map, "priority", out.priority,
                         {{{"high", Priority::high}, {"medium", Priority::medium}, {"low", Priority::low}}},
                         errors);
  map.duration("deadline", out.deadline, microseconds{100});
  map.integer("max_clients", out.max_clients, 0, 4096);
  map.integer("max_clients_per_user", out.max_clients_per_user, 0, 4096);
  map.integer("launch_rate", out.launch_rate, 0, 100'000'000);
  map.optional_size("bandwidth", out.bandwidth, 64ULL << 10U, 1ULL << 50U);
  map.integer("queue_depth", out.queue_depth, 0, 4096);
  map.duration("window", out.window, microseconds{0});
  map.duration("watchdog", out.watchdog, microseconds{0});
  map.integer("quarantine_after", out.quarantine_after, 0, 1'000'000);
  map.duration("quarantine_time", out.quarantine_time, microseconds{0});
  map.size("arena", out.arena_bytes, mebibyte, 1024 * mebibyte);
  map.integer("devices", out.devices, 1, most_client_devices);
}

}  // namespace vgpu::daemon
