// Chooses among devices for a client: those of its pool, what it asks for by CUDA_VISIBLE_DEVICES, and how
// loaded they are. Knows names, identities and numbers only.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

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

// The index of the device for a client. `device`: the one its rule names, or empty. `pool`: the pool its rule
// names, or empty: the first device's. `visible`: what the client asks for, the first entry of its
// CUDA_VISIBLE_DEVICES: an index into the pool (in the order of the configuration), a UUID as "GPU-..." or a
// beginning of one, or empty. Without a wish the least loaded device that serves, the first of several. The
// error is a sentence.
[[nodiscard]] tl::expected<std::size_t, std::string> choose_device(std::span<const PlacingDevice> devices,
                                                                   const std::string& device,
                                                                   const std::string& pool,
                                                                   std::string_view visible);

// "GPU-" and the UUID in its usual form.
[[nodiscard]] std::string uuid_text(const std::array<std::uint8_t, 16>& uuid);

}  // namespace vgpu::daemon
