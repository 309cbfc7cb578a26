#include "daemon/devices/driver.hpp"

#include <array>
#include <filesystem>
#include <system_error>

namespace vgpu::daemon {
namespace {

namespace fs = std::filesystem;

std::string first_existing(std::initializer_list<fs::path> candidates) {
  std::error_code ignored;
  for (const fs::path& path : candidates) {
    if (fs::exists(path, ignored)) return fs::weakly_canonical(path.parent_path(), ignored) / path.filename();
  }
  return {};
}

bool same_file(const fs::path& a, const fs::path& b) {
  std::error_code ignored;
  return !b.empty() && fs::equivalent(a, b, ignored);
}

// NVIDIA's driver library, where its installers put it.
std::string find_nvidia_library(const Locations& locations, const std::string& root) {
  static constexpr std::array<const char*, 8> folders{"/usr/lib/x86_64-linux-gnu",
                                                      "/usr/lib/aarch64-linux-gnu",
                                                      "/usr/lib64",
                                                      "/usr/local/nvidia/lib64",
                                                      "/usr/lib/wsl/lib",
                                                      "/run/opengl-driver/lib",
                                                      "/usr/lib/nvidia/current",
                                                      "/usr/lib"};
  std::error_code ignored;
  for (const char* folder : folders) {
    const fs::path path = fs::path(root + folder) / "libcuda.so.1";
    if (!fs::exists(path, ignored)) continue;
    if (same_file(path, locations.client_library) || same_file(path, locations.software_driver)) continue;
    return path;
  }
  return {};
}

// A GPU that the kernel driver has bound: device nodes of the NVIDIA module, or WSL's.
bool nvidia_device_present(const std::string& root) {
  std::error_code ignored;
  if (fs::exists(root + "/dev/dxg", ignored)) return true;
  for (int i = 0; i < 64; ++i) {
    if (fs::exists(root + "/dev/nvidia" + std::to_string(i), ignored)) return true;
  }
  return false;
}

tl::expected<DriverChoice, std::string> software(const DeviceConfig& device, const Locations& locations,
                                                 std::string why) {
  const std::string path = device.driver.empty() ? locations.software_driver : device.driver;
  if (path.empty()) {
    return tl::unexpected("device '" + device.name +
                          "': the software GPU's library (softgpu/libcuda.so.1) is not installed");
  }
  return DriverChoice{DeviceKind::software, path, std::move(why)};
}

}  // namespace

Locations find_locations() {
  std::error_code ignored;
  const fs::path bin = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  const fs::path prefix = bin.parent_path();
  Locations found;
  found.worker = first_existing({bin / "vgpud-worker", prefix / "lib/vgpud/vgpud-worker"});
  found.link = first_existing({bin / "vgpud-link", prefix / "lib/vgpud/vgpud-link"});
  found.reserve = first_existing({bin / "vgpud-reserve", prefix / "lib/vgpud/vgpud-reserve"});
  found.software_driver =
      first_existing({prefix / "lib/vgpud/softgpu/libcuda.so.1", prefix / "lib/softgpu/libcuda.so.1"});
  found.client_library = first_existing({prefix / "lib/vgpud/libcuda.so.1", prefix / "lib/libcuda.so.1"});
  return found;
}

tl::expected<DriverChoice, std::string> choose_driver(const DeviceConfig& device, const Locations& locations,
                                                      const std::string& root) {
  std::error_code ignored;
  if (!device.driver.empty() && !fs::exists(device.driver, ignored)) {
    return tl::unexpected("device '" + device.name + "': the driver library " + device.driver +
                          " does not exist");
  }
  if (device.kind == DeviceKind::software) return software(device, locations, "configured");

  const std::string library = device.driver.empty() ? find_nvidia_library(locations, root) : device.driver;
  const bool present = nvidia_device_present(root);
  if (device.kind == DeviceKind::cuda) {
    if (library.empty()) {
      return tl::unexpected("device '" + device.name +
                            "': NVIDIA's libcuda.so.1 is not installed on this machine");
    }
    return DriverChoice{DeviceKind::cuda, library, "configured"};
  }
  if (library.empty()) return software(device, locations, "NVIDIA's libcuda.so.1 is not installed");
  if (!present) return software(device, locations, "the NVIDIA driver has no device");
  return DriverChoice{DeviceKind::cuda, library, "an NVIDIA device is present"};
}

}  // namespace vgpu::daemon
