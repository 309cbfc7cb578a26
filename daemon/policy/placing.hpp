// Chooses among devices for a client: those of its pool, what it asks for by CUDA_VISIBLE_DEVICES, and how
// loaded they are. Knows names, identities and numbers only.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "protocol/handshake.hpp"

namespace vgpu::daemon {

// A device as placement sees it.
struct PlacingDevice {
  std::string name;
  std::string pool;
  std::array<std::uint8_t, 16> uuid{};
  bool uuid_known = false;
  bool serves = true;
  std::uint64_t load = 0;  // sum of its clients' weights
};

// The devices that a client may use, as indices into `devices`, in that order. `device`: the one its rule
// names, or empty. `pool`: the pool its rule names, or empty: the first device's. The error is a sentence;
// otherwise there is one at least.
[[nodiscard]] tl::expected<std::vector<std::size_t>, std::string> usable_devices(
    std::span<const PlacingDevice> devices, const std::string& device, const std::string& pool);

// What a client gets.
struct Choice {
  std::size_t device = 0;
  bool settled =
      true;  // false: the wish may name this one, which has not told its UUID yet. Choose again then
};

// The device for a client among those that it may use (not empty). `wish`: what it asks for; any bytes. An
// index counts the usable devices in their order; a UUID must fit one of them and no other. Without a wish
// the least loaded device that serves, the first of several. The error is a sentence.
[[nodiscard]] tl::expected<Choice, std::string> choose_device(std::span<const PlacingDevice> devices,
                                                              std::span<const std::size_t> usable,
                                                              const DeviceWish& wish);

// The devices that libnvidia-ml lists for a client whose own device is `own`: it alone or, where it is the
// one that the client wishes for by index, all up to it, so that the index finds it.
[[nodiscard]] std::vector<std::size_t> listed_devices(std::span<const std::size_t> usable,
                                                      const DeviceWish& wish, std::size_t own);

// "GPU-" and the UUID in its usual form.
[[nodiscard]] std::string uuid_text(const std::array<std::uint8_t, 16>& uuid);

}  // namespace vgpu::daemon
