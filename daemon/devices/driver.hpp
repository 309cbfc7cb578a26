// Finds what stands behind a configured device: which driver library, which worker program. Loads no driver
// itself.
#pragma once

#include <string>
#include <tl/expected.hpp>

#include "daemon/config/config.hpp"

namespace vgpu::daemon {

// Where vgpud's own files are.
struct Locations {
  std::string worker;   // vgpud-worker; empty: not found
  std::string link;     // vgpud-link; empty: not found
  std::string reserve;  // vgpud-reserve; empty: not found
  std::string sysfs_root = "/sys";
  std::string software_driver;    // the software GPU's libcuda.so.1; empty: not found
  std::string runtime_folder;     // where the broker may make folders of its own
  std::string client_library;     // our clients' libcuda.so.1, which must never be taken for a driver
  unsigned software_devices = 1;  // how many devices the software GPU is to have
};

// Looks beside the running binary (/proc/self/exe): the build tree's bin/ and lib/, or bin/ and lib/vgpud/ of
// an installation.
[[nodiscard]] Locations find_locations();

// The driver that a device will use.
struct DriverChoice {
  DeviceKind kind = DeviceKind::software;  // never automatic
  std::string path;
  std::string why;  // for the log, where the choice was ours
};

// Decides `auto` (NVIDIA's driver where it has a device, else the software GPU) and finds the library. `root`
// stands before system paths in tests. The error is a sentence.
[[nodiscard]] tl::expected<DriverChoice, std::string> choose_driver(const DeviceConfig& device,
                                                                    const Locations& locations,
                                                                    const std::string& root = "");

}  // namespace vgpu::daemon
