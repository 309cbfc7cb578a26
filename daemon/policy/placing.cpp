#include "daemon/policy/placing.hpp"

#include <algorithm>

#include "protocol/visible_devices.hpp"

namespace vgpu::daemon {
namespace {

constexpr const char* kHidden = "CUDA_VISIBLE_DEVICES names no device that this client may use";

std::size_t least_loaded(std::span<const PlacingDevice> devices, std::span<const std::size_t> usable) {
  return *std::min_element(usable.begin(), usable.end(), [&](std::size_t a, std::size_t b) {
    const auto rank = [&](std::size_t i) { return std::pair(!devices[i].serves, devices[i].load); };
    return rank(a) < rank(b);
  });
}

tl::expected<Choice, std::string> choose_by_uuid(std::span<const PlacingDevice> devices,
                                                 std::span<const std::size_t> usable,
                                                 std::string_view beginning) {
  if (beginning.empty()) return tl::unexpected(std::string(kHidden));
  std::vector<std::size_t> fitting;
  std::vector<std::size_t> unknown;
  for (const std::size_t i : usable) {
    if (!devices[i].uuid_known) {
      if (devices[i].serves) unknown.push_back(i);
      continue;
    }
    const std::string uuid = uuid_text(devices[i].uuid);
    if (uuid == beginning) return Choice{i};
    // Devices of one card, shared in different ways, have one UUID.
    const bool another = fitting.empty() || devices[fitting.front()].uuid != devices[i].uuid;
    if (uuid.starts_with(beginning) && another) fitting.push_back(i);
  }
  if (!unknown.empty()) return Choice{unknown.front(), false};
  if (fitting.size() == 1) return Choice{fitting.front()};
  return tl::unexpected(fitting.empty()
                            ? std::string(kHidden)
                            : "CUDA_VISIBLE_DEVICES holds the beginning of several devices' UUIDs");
}

}  // namespace

std::string uuid_text(const std::array<std::uint8_t, 16>& uuid) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text = "GPU-";
  for (std::size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += kDigits[uuid[i] >> 4U];
    text += kDigits[uuid[i] & 15U];
  }
  return text;
}

tl::expected<std::vector<std::size_t>, std::string> usable_devices(std::span<const PlacingDevice> devices,
                                                                   const std::string& device,
                                                                   const std::string& pool) {
  if (devices.empty()) return tl::unexpected(std::string("there is no device"));
  const std::string& wanted_pool = pool.empty() ? devices.front().pool : pool;
  std::vector<std::size_t> usable;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    if (device.empty() ? devices[i].pool == wanted_pool : devices[i].name == device) usable.push_back(i);
  }
  if (!usable.empty()) return usable;
  return tl::unexpected(device.empty() ? "pool '" + wanted_pool + "' has no device"
                                       : "there is no device '" + device + "'");
}

tl::expected<Choice, std::string> choose_device(std::span<const PlacingDevice> devices,
                                                std::span<const std::size_t> usable, const DeviceWish& wish) {
  switch (wish.kind) {
    case WishKind::any:
      return Choice{least_loaded(devices, usable)};
    case WishKind::index:
      if (wish.index < usable.size()) return Choice{usable[wish.index]};
      break;
    case WishKind::uuid:
      return choose_by_uuid(devices, usable, wished_uuid(wish));
    case WishKind::nothing:
      break;
  }
  return tl::unexpected(std::string(kHidden));
}

std::vector<std::size_t> listed_devices(std::span<const std::size_t> usable, const DeviceWish& wish,
                                        std::size_t own) {
  if (wish.kind != WishKind::index || wish.index >= usable.size() || wish.index >= most_listed_devices ||
      usable[wish.index] != own) {
    return {own};
  }
  return {usable.begin(), usable.begin() + wish.index + 1};
}

}  // namespace vgpu::daemon
