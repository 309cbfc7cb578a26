#include "daemon/devices/driver.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace vgpu::daemon {
namespace {

namespace fs = std::filesystem;

class DriverChoiceTest : public testing::Test {
 protected:
  DriverChoiceTest() {
    std::string name = (fs::temp_directory_path() / "vgpud-driver-XXXXXX").string();
    root_ = mkdtemp(name.data());
    locations_.software_driver = touch("/opt/softgpu/libcuda.so.1");
    locations_.client_library = touch("/opt/libcuda.so.1");
  }
  ~DriverChoiceTest() override { fs::remove_all(root_); }

  std::string touch(const std::string& path) {
    const fs::path full = root_ + path;
    fs::create_directories(full.parent_path());
    std::ofstream(full) << path;
    return full;
  }
  [[nodiscard]] tl::expected<DriverChoice, std::string> choose(DeviceKind kind,
                                                               const std::string& driver = "") const {
    DeviceConfig device;
    device.name = "g";
    device.kind = kind;
    device.driver = driver;
    return choose_driver(device, locations_, root_);
  }

  std::string root_;
  Locations locations_;
};

TEST_F(DriverChoiceTest, WithoutNvidiaTheSoftwareGpuIsTheDefault) {
  const auto choice = choose(DeviceKind::automatic);
  ASSERT_TRUE(choice);
  EXPECT_EQ(choice->kind, DeviceKind::software);
  EXPECT_EQ(choice->path, locations_.software_driver);
}

TEST_F(DriverChoiceTest, LibraryWithoutDeviceIsNotEnough) {
  touch("/usr/lib/x86_64-linux-gnu/libcuda.so.1");
  EXPECT_EQ(choose(DeviceKind::automatic)->kind, DeviceKind::software);
}

TEST_F(DriverChoiceTest, LibraryAndDeviceMeanCuda) {
  const std::string library = touch("/usr/lib/x86_64-linux-gnu/libcuda.so.1");
  touch("/dev/nvidia0");
  const auto choice = choose(DeviceKind::automatic);
  EXPECT_EQ(choice->kind, DeviceKind::cuda);
  EXPECT_EQ(choice->path, library);
}

TEST_F(DriverChoiceTest, OurOwnLibraryIsNeverTakenForADriver) {
  touch("/dev/nvidia0");
  fs::create_directories(root_ + "/usr/lib64");
  fs::create_symlink(locations_.client_library, root_ + "/usr/lib64/libcuda.so.1");
  EXPECT_EQ(choose(DeviceKind::automatic)->kind, DeviceKind::software);
  EXPECT_FALSE(choose(DeviceKind::cuda));
}

TEST_F(DriverChoiceTest, ConfiguredDriverMustExist) {
  const auto choice = choose(DeviceKind::software, "/nonexistent/libcuda.so.1");
  ASSERT_FALSE(choice);
  EXPECT_EQ(choice.error(), "device 'g': the driver library /nonexistent/libcuda.so.1 does not exist");
}

}  // namespace
}  // namespace vgpu::daemon
