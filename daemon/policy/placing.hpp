// Chooses among devices for a client: those of its pool, what it asks for by CUDA_VISIBLE_DEVICES, which can
// be had together, and how loaded they are. Knows names, identities and numbers only.
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
  // What decides whether one client can have it beside others: one driver library in one process serves them.
  std::string driver;    // kind and path of the library
  unsigned ordinal = 0;  // which of its devices
  std::string alone;     // why it is for clients with no other device only; empty: it is not
};

// The devices that a client may use, as indices into `devices`, in that order. `device`: the one its rule
// names, or empty. `pool`: the pool its rule names, or empty: the first device's. The error is a sentence;
// otherwise there is one at least.
[[nodiscard]] tl::expected<std::vector<std::size_t>, std::string> usable_devices(
    std::span<const PlacingDevice> devices, const std::string& device, const std::string& pool);

// What a client gets.
struct Choice {
  std::size_t device = 0;  // the first
  // False: the wish names this one or may do so, and it has not told what it is yet. Choose again then.
  bool settled = true;
  std::vector<std::size_t> further;   // what it gets besides, as it names them
  std::vector<std::string> left_out;  // of what it names: which and why
};

// The devices for a client among those that it may use (not empty), at most `most` (1 at least). `wish`: what
// it asks for; any bytes. An index counts the usable devices in their order; a UUID must fit one of them and
// no other. A list ends at the first entry that names no device. What cannot be had beside the first is left
// out. Without a wish the least loaded device that serves, the first of several. The error is a sentence.
[[nodiscard]] tl::expected<Choice, std::string> choose_devices(std::span<const PlacingDevice> devices,
                                                               std::span<const std::size_t> usable,
                                                               const DeviceWish& wish, unsigned most);

// The devices that libnvidia-ml lists for a client whose own devices are `own` (not empty): they alone or,
// where the client wishes for them by index, all up to the last of them, so that the indices find them.
[[nodiscard]] std::vector<std::size_t> listed_devices(std::span<const std::size_t> usable,
                                                      const DeviceWish& wish,
                                                      std::span<const std::size_t> own);

// "GPU-" and the UUID in its usual form.
[[nodiscard]] std::string uuid_text(const std::array<std::uint8_t, 16>& uuid);

}  // namespace vgpu::daemon
