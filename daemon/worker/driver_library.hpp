// The device's driver library as the worker uses it: opened by dlopen, called through one table. Knows
// nothing of clients.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tl/expected.hpp>

#include "protocol/handshake.hpp"
#include "vgpu/driver_table.hpp"

namespace vgpu::worker {

/// The software GPU's private export table "softgpu-meter-01": how much device time this process has used.
struct MeterTable {
  std::size_t size;
  CUresult (*busy_ns)(std::uint64_t* ns);
  CUresult (*lane_instructions)(std::uint64_t* count);
};

/// An opened driver with a device's primary context retained and current in the thread that opened it.
class DriverLibrary {
 public:
  /// Opens the library at `path`, initialises it, and retains the primary context of device `ordinal`. The
  /// library stays loaded until the process ends. The error is a sentence.
  static tl::expected<std::unique_ptr<DriverLibrary>, std::string> open(const std::string& path, int ordinal);

  const DriverTable& table() const { return table_; }
  CUdevice device() const { return device_; }
  CUcontext context() const { return context_; }
  bool software() const { return meter_ != nullptr; }
  /// Device time used by this process, where the driver measures it (the software GPU).
  std::optional<std::uint64_t> busy_ns() const;
  /// The private table of that UUID, or nullptr.
  const void* export_table(const std::array<unsigned char, 16>& uuid) const;
  /// Everything a client may ask about the device.
  DeviceReport report() const;

 private:
  DriverLibrary() = default;
  DriverTable table_;
  CUdevice device_ = 0;
  CUcontext context_ = nullptr;
  const MeterTable* meter_ = nullptr;
};

/// "cuFoo failed: CUDA_ERROR_BAR".
std::string driver_error(const DriverTable& driver, const char* call, CUresult result);

}  // namespace vgpu::worker
