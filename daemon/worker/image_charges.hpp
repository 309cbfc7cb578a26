// What the client's modules and libraries are charged for: the device memory that their variables take
// (image_variables.hpp), until they are unloaded. Loads nothing.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "daemon/worker/accounting.hpp"
#include "daemon/worker/session_parts.hpp"
#include "vgpu/driver_table.hpp"

namespace vgpu::worker {

/// Dispatcher only; what was taken may end in any thread.
class ImageCharges {
 public:
  /// What one is charged for: of a library, on each device.
  using Held = std::shared_ptr<std::deque<Charge>>;

  explicit ImageCharges(const SessionParts& parts);

  /// Charges what the image's variables will take, if the client has a quota. `here`: the device it is loaded
  /// on, by its place among the client's; `everywhere`: it is a library's, which each device that uses it
  /// gets. Null where there is nothing to charge.
  CUresult charge(std::span<const std::byte> image, std::size_t here, bool everywhere, Held& held);
  /// The compute capability of the client's device at `here`, 75 for 7.5.
  CUresult capability(std::size_t here, std::uint32_t& value);
  /// It was loaded, and the client's handle names it.
  void keep(std::uint64_t handle, Held held);
  /// What was charged for it, to be held until it is unloaded.
  Held take(std::uint64_t handle);
  /// The same of all whose handles are lost.
  std::vector<Held> take_if(const std::function<bool(std::uint64_t handle)>& lost);

 private:
  struct Device {
    CUdevice device = 0;
    Accounting* accounting = nullptr;
    std::uint32_t capability = 0;  ///< 75 for 7.5; asked when it is needed
  };
  CUresult ask_capability(Device& device) const;
  CUresult size(Device& device, std::span<const std::byte> image, std::uint64_t& bytes) const;

  const DriverTable& driver_;
  std::vector<Device> devices_;
  std::unordered_map<std::uint64_t, Held> kept_;
};

}  // namespace vgpu::worker
