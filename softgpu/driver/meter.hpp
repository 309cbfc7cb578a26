// The private export table by which vgpud's worker reads the software GPU's meter: cuGetExportTable with
// meter_uuid.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>

namespace softgpu {

inline constexpr char meter_uuid[] = "softgpu-meter-01";  // 16 bytes and a NUL

struct MeterTable {
  std::size_t size;  ///< of this table in bytes: newer ones are longer
  /// CPU time that all threads spent in kernels so far, nanoseconds; divide by threads() for the device's
  /// time.
  CUresult (*busy_ns)(std::uint64_t* value);
  CUresult (*lane_instructions)(std::uint64_t* value);
  CUresult (*threads)(unsigned* value);
  /// Where device-side printf goes instead of standard output, at synchronising calls; null: standard output.
  CUresult (*printf_target)(void (*target)(void* user, const char* text, std::size_t bytes), void* user);
  /// What busy_ns says, of one device's kernels only. They count when they have ended.
  CUresult (*device_busy_ns)(CUdevice device, std::uint64_t* value);
};

}  // namespace softgpu
