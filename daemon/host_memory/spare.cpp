#include "daemon/host_memory/spare.hpp"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>

namespace vgpu::host_memory {
namespace {

constexpr std::uint64_t kept_part = 16;

// The number behind a word of a file, such as "MemTotal:" or "inactive_file".
std::optional<std::uint64_t> number_behind(const std::string& path, const std::string& wanted) {
  std::ifstream file(path);
  std::string word;
  std::uint64_t number = 0;
  while (file >> word) {
    if (word == wanted && file >> number) return number;
  }
  return std::nullopt;
}

// None where the file holds no number: "max" is no limit.
std::optional<std::uint64_t> number_in(const std::string& path) {
  std::ifstream file(path);
  std::uint64_t number = 0;
  return file >> number ? std::optional(number) : std::nullopt;
}

std::uint64_t less(std::uint64_t from, std::uint64_t what) {
  return from > what ? from - what : 0;
}

// What a cgroup's limits leave. Files that were read only are its to give back.
std::uint64_t spare_in(const std::string& group) {
  std::uint64_t limit = std::numeric_limits<std::uint64_t>::max();
  for (const char* name : {"/memory.max", "/memory.high"}) {
    if (const auto found = number_in(group + name)) limit = std::min(limit, *found);
  }
  const auto used = number_in(group + "/memory.current");
  if (limit == std::numeric_limits<std::uint64_t>::max() || !used) return limit;
  const std::uint64_t files = number_behind(group + "/memory.stat", "inactive_file").value_or(0);
  return less(limit - limit / kept_part, less(*used, files));
}

// The path of this process's cgroup below the mount, "" for its root (cgroups(7), "0::/path").
std::string own_group(const std::string& root) {
  std::ifstream file(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {
    if (line.starts_with("0::/")) return line.size() > 4 ? line.substr(3) : "";
  }
  return "";
}

}  // namespace

std::uint64_t spare_bytes(const std::string& root) {
  const std::string info = root + "/proc/meminfo";
  const auto total = number_behind(info, "MemTotal:");
  const auto available = number_behind(info, "MemAvailable:");
  if (!total || !available) return 0;
  std::uint64_t spare = less(*available, *total / kept_part) * 1024;
  const std::string mount = root + "/sys/fs/cgroup";
  for (std::string group = mount + own_group(root);; group.resize(group.rfind('/'))) {
    spare = std::min(spare, spare_in(group));
    if (group.size() <= mount.size()) return spare;
  }
}

}  // namespace vgpu::host_memory
