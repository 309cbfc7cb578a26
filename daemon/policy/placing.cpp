#include "daemon/policy/placing.hpp"

#include <algorithm>
#include <charconv>
#include <vector>

namespace vgpu::daemon {
namespace {

// A beginning of "GPU-" alone would fit every device.
constexpr std::size_t kShortestUuid = 5;

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

tl::expected<std::size_t, std::string> choose_device(std::span<const PlacingDevice> devices,
                                                     const std::string& device, const std::string& pool,
                                                     std::string_view visible) {
  if (devices.empty()) return tl::unexpected(std::string("there is no device"));
  const std::string& wanted_pool = pool.empty() ? devices.front().pool : pool;
  std::vector<std::size_t> candidates;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    if (device.empty() ? devices[i].pool == wanted_pool : devices[i].name == device) candidates.push_back(i);
  }
  if (candidates.empty()) {
    return tl::unexpected(device.empty() ? "pool '" + wanted_pool + "' has no device"
                                         : "there is no device '" + device + "'");
  }
  if (visible.empty()) {
    return *std::min_element(candidates.begin(), candidates.end(), [&](std::size_t a, std::size_t b) {
      const auto rank = [&](std::size_t i) { return std::pair(!devices[i].serves, devices[i].load); };
      return rank(a) < rank(b);
    });
  }
  std::size_t index = 0;
  const auto [end, error] = std::from_chars(visible.data(), visible.data() + visible.size(), index);
  if (error == std::errc{} && end == visible.data() + visible.size()) {
    if (index < candidates.size()) return candidates[index];
  } else if (visible.size() >= kShortestUuid) {
    std::vector<std::size_t> fitting;
    for (const std::size_t i : candidates) {
      if (devices[i].uuid_known && uuid_text(devices[i].uuid).starts_with(visible)) fitting.push_back(i);
    }
    if (fitting.size() == 1) return fitting.front();
  }
  return tl::unexpected(std::string("CUDA_VISIBLE_DEVICES names no device that this client may use"));
}

}  // namespace vgpu::daemon
