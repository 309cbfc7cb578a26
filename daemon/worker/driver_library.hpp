// The device's driver library as the worker uses it: opened by dlopen, called through one table. Knows
// nothing of clients.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "daemon/worker/stream_hold.hpp"
#include "protocol/handshake.hpp"
#include "vgpu/driver_table.hpp"

namespace vgpu::worker {

/// The software GPU's private export table "softgpu-meter-01": how much device time this process has used.
struct MeterTable {
  std::size_t size;
  CUresult (*busy_ns)(std::uint64_t* ns);  ///< of all devices
  CUresult (*lane_instructions)(std::uint64_t* count);
  CUresult (*threads)(unsigned* count);
  CUresult (*printf_target)(void (*target)(void* user, const char* text, std::size_t bytes), void* user);
  CUresult (*device_busy_ns)(CUdevice device, std::uint64_t* ns);
};

/// One of a driver's devices, with its primary context, which is retained.
struct RetainedDevice {
  CUdevice device = 0;
  CUcontext context = nullptr;
};

/// An opened driver with a device's primary context retained and current in the thread that opened it, and
/// those of further devices retained.
class DriverLibrary {
 public:
  /// Opens the library at `path`, initialises it, and retains the primary context of device `ordinal`. The
  /// library stays loaded until the process ends. The error is a sentence.
  static tl::expected<std::unique_ptr<DriverLibrary>, std::string> open(const std::string& path, int ordinal);

  /// Retains the primary context of another device; the current context stays. The error is a sentence.
  tl::expected<void, std::string> add(int ordinal);

  const DriverTable& table() const { return table_; }
  CUdevice device() const { return devices_.front().device; }
  CUcontext context() const { return devices_.front().context; }
  /// The first and those of add(), in order.
  const std::vector<RetainedDevice>& devices() const { return devices_; }
  bool software() const { return meter_ != nullptr; }
  /// Time of the device at `place` of devices() used by this process, where the driver measures it (the
  /// software GPU).
  std::optional<std::uint64_t> busy_ns(std::size_t place = 0) const;
  /// What two events on the first device are apart by themselves (event_gap.hpp); 0: not measured.
  std::uint64_t event_gap() const { return event_gap_ns_; }
  /// Holds streams for a moment, to time what they do; null where the device measures itself. One thread.
  StreamHold* hold() const { return hold_.get(); }
  /// The private table of that UUID, or nullptr.
  const void* export_table(const std::array<unsigned char, 16>& uuid) const;
  /// Everything a client may ask about the first device.
  DeviceReport report() const;

 private:
  DriverLibrary() = default;
  DriverTable table_;
  std::vector<RetainedDevice> devices_;
  const MeterTable* meter_ = nullptr;
  std::uint64_t event_gap_ns_ = 0;
  std::unique_ptr<StreamHold> hold_;
};

/// "cuFoo failed: CUDA_ERROR_BAR".
std::string driver_error(const DriverTable& driver, const char* call, CUresult result);

}  // namespace vgpu::worker
