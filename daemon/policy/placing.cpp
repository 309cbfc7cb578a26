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

// What one entry of a wish names.
struct Named {
  std::size_t device = 0;
  bool settled = true;  // see Choice
};

tl::expected<Named, std::string> find_by_uuid(std::span<const PlacingDevice> devices,
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
    if (uuid == beginning) return Named{i};
    // Devices of one card, shared in different ways, have one UUID.
    const bool another = fitting.empty() || devices[fitting.front()].uuid != devices[i].uuid;
    if (uuid.starts_with(beginning) && another) fitting.push_back(i);
  }
  if (!unknown.empty()) return Named{unknown.front(), false};
  if (fitting.size() == 1) return Named{fitting.front()};
  return tl::unexpected(fitting.empty()
                            ? std::string(kHidden)
                            : "CUDA_VISIBLE_DEVICES holds the beginning of several devices' UUIDs");
}

tl::expected<Named, std::string> find_entry(std::span<const PlacingDevice> devices,
                                            std::span<const std::size_t> usable, const DeviceWish& wish,
                                            std::size_t entry) {
  if (wish.kind == WishKind::uuid) return find_by_uuid(devices, usable, wished_uuid(wish, entry));
  if (wish.index[entry] < usable.size()) return Named{usable[wish.index[entry]]};
  return tl::unexpected(std::string(kHidden));
}

// Why a client that has `first` cannot have `other` too; empty: it can.
std::string why_not_beside(const PlacingDevice& first, const PlacingDevice& other) {
  for (const PlacingDevice* device : {&first, &other}) {
    if (!device->alone.empty()) return "device '" + device->name + "' " + device->alone;
  }
  if (!other.serves) return "device '" + other.name + "' cannot serve";
  if (other.driver != first.driver) {
    return "device '" + other.name + "' has another driver than '" + first.name + "'";
  }
  return {};
}

bool same_device(const PlacingDevice& a, const PlacingDevice& b) {
  return a.driver == b.driver && a.ordinal == b.ordinal;
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

tl::expected<Choice, std::string> choose_devices(std::span<const PlacingDevice> devices,
                                                 std::span<const std::size_t> usable, const DeviceWish& wish,
                                                 unsigned most) {
  if (wish.kind == WishKind::any) return Choice{least_loaded(devices, usable), true, {}, {}};
  const std::size_t count = wished_count(wish);
  if (count == 0) return tl::unexpected(std::string(kHidden));
  const auto named = find_entry(devices, usable, wish, 0);
  if (!named) return tl::unexpected(named.error());
  Choice choice{named->device, named->settled, {}, {}};
  for (std::size_t i = 1; i < count && choice.settled; ++i) {
    const auto next = find_entry(devices, usable, wish, i);
    if (!next) break;
    const PlacingDevice& other = devices[next->device];
    if (next->device == choice.device ||
        std::find(choice.further.begin(), choice.further.end(), next->device) != choice.further.end()) {
      return tl::unexpected(std::string("CUDA_VISIBLE_DEVICES names a device twice"));
    }
    if (1 + choice.further.size() >= most) {
      choice.left_out.push_back("device '" + other.name +
                                "': the class allows so many devices: " + std::to_string(most));
      continue;
    }
    if (std::string why = why_not_beside(devices[choice.device], other); !why.empty()) {
      choice.left_out.push_back(std::move(why));
      continue;
    }
    // Its report goes to the client, whose worker is of another device.
    if (!next->settled || !other.uuid_known) return Choice{next->device, false, {}, {}};
    const auto same = [&](std::size_t had) { return same_device(devices[had], other); };
    if (same(choice.device) || std::any_of(choice.further.begin(), choice.further.end(), same)) {
      choice.left_out.push_back("device '" + other.name + "' is the same one in another guise");
      continue;
    }
    choice.further.push_back(next->device);
  }
  return choice;
}

std::vector<std::size_t> listed_devices(std::span<const std::size_t> usable, const DeviceWish& wish,
                                        std::span<const std::size_t> own) {
  std::vector<std::size_t> alone(own.begin(), own.end());
  if (wish.kind != WishKind::index) return alone;
  std::size_t last = 0;
  for (const std::size_t device : own) {
    std::size_t found = most_listed_devices;
    for (std::size_t i = 0; i < wished_count(wish); ++i) {
      if (wish.index[i] < usable.size() && usable[wish.index[i]] == device) found = wish.index[i];
    }
    if (found >= most_listed_devices) return alone;
    last = std::max(last, found);
  }
  return {usable.begin(), usable.begin() + static_cast<std::ptrdiff_t>(last) + 1};
}

}  // namespace vgpu::daemon
