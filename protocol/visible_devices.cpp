#include "protocol/visible_devices.hpp"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

namespace vgpu {
namespace {

constexpr std::string_view kUuidPrefix = "GPU-";
constexpr std::string_view kBlanks = " \t\n\v\f\r";

// No machine has more devices; what follows could only hide what it repeats.
constexpr std::size_t kMostEntries = 1024;

bool is_uuid_character(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || c == '-';
}

// The number that the entry begins with; none: no device can have it.
std::optional<std::uint32_t> leading_number(std::string_view entry) {
  entry.remove_prefix(std::min(entry.find_first_not_of(kBlanks), entry.size()));
  if (!entry.empty() && entry.front() == '+') entry.remove_prefix(1);
  std::uint32_t number = 0;
  const auto [end, error] = std::from_chars(entry.data(), entry.data() + entry.size(), number);
  return error == std::errc{} ? std::optional(number) : std::nullopt;
}

std::optional<std::string_view> uuid_entry(std::string_view entry) {
  return entry.starts_with(kUuidPrefix) ? std::optional(entry) : std::nullopt;
}

// The entries up to the first that `read` refuses; none at all where one of them comes twice.
template <class Read>
auto read_list(std::string_view list, Read read) {
  std::vector<typename decltype(read(list))::value_type> entries;
  while (entries.size() < kMostEntries) {
    const std::size_t comma = list.find(',');
    const auto entry = read(list.substr(0, comma));
    if (!entry) break;
    if (std::find(entries.begin(), entries.end(), *entry) != entries.end()) {
      entries.clear();
      break;
    }
    entries.push_back(*entry);
    if (comma == std::string_view::npos) break;
    list.remove_prefix(comma + 1);
  }
  return entries;
}

}  // namespace

DeviceWish wish_of(const char* variable) {
  DeviceWish wish;
  if (variable == nullptr) return wish;
  wish.kind = WishKind::nothing;
  const std::string_view list(variable);
  if (uuid_entry(list)) {
    for (const std::string_view uuid : read_list(list, uuid_entry)) {
      // What is longer than a UUID names none, and ends the list as such an entry does.
      if (wish.count == most_client_devices || uuid.size() >= sizeof wish.uuid[0]) break;
      wish.kind = WishKind::uuid;
      set_text(wish.uuid[wish.count++], std::string(uuid));
    }
    return wish;
  }
  for (const std::uint32_t number : read_list(list, leading_number)) {
    if (wish.count == most_client_devices) break;
    wish.kind = WishKind::index;
    wish.index[wish.count++] = number;
  }
  return wish;
}

DeviceWish wish_of_environment() {
  return wish_of(std::getenv("CUDA_VISIBLE_DEVICES"));
}

std::string_view wished_uuid(const DeviceWish& wish, std::size_t entry) {
  const std::string_view text(wish.uuid[entry], strnlen(wish.uuid[entry], sizeof wish.uuid[entry]));
  if (!text.starts_with(kUuidPrefix)) return {};
  const std::string_view digits = text.substr(kUuidPrefix.size());
  return !digits.empty() && std::all_of(digits.begin(), digits.end(), is_uuid_character) ? text
                                                                                         : std::string_view();
}

std::size_t wished_count(const DeviceWish& wish) {
  const bool lists = wish.kind == WishKind::index || wish.kind == WishKind::uuid;
  return lists ? std::min(wish.count, most_client_devices) : 0;
}

bool same_wish(const DeviceWish& a, const DeviceWish& b) {
  if (a.kind != b.kind || a.count != b.count) return false;
  for (std::size_t i = 0; i < wished_count(a); ++i) {
    if (a.index[i] != b.index[i] || wished_uuid(a, i) != wished_uuid(b, i)) return false;
  }
  return true;
}

}  // namespace vgpu
