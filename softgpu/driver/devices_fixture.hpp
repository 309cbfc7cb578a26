// The fixture of tests with several devices: a primary context and a loaded module on each. These tests have
// a binary of their own, as the driver counts its devices once.
#pragma once

#include <array>
#include <cstdlib>

#include "softgpu/driver/driver_fixture.hpp"

namespace softgpu {

inline constexpr int device_count = 3;
inline constexpr std::size_t device_bytes = std::size_t{64} << 20;

// Before anything of the driver.
inline const bool devices_are_set =
    setenv("SOFTGPU_DEVICES", "3", 1) == 0 && setenv("SOFTGPU_MEMORY", "64M", 1) == 0;

/// One thing about a pointer.
template <class Value>
Value about(CUdeviceptr address, CUpointer_attribute attribute) {
  Value value{};
  EXPECT_EQ(cuPointerGetAttribute(&value, attribute, address), CUDA_SUCCESS);
  return value;
}

/// Whose memory it is.
inline int device_of(CUdeviceptr address) {
  return about<int>(address, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL);
}

class DevicesTest : public DriverTest {
 protected:
  void SetUp() override {
    ASSERT_TRUE(devices_are_set);
    ASSERT_EQ(cuInit(0), CUDA_SUCCESS);
    for (int device = 0; device < device_count; ++device) {
      const auto i = static_cast<std::size_t>(device);
      ASSERT_EQ(cuDevicePrimaryCtxRetain(&contexts_[i], device), CUDA_SUCCESS);
      on(device);
      ASSERT_EQ(cuModuleLoadData(&modules_[i], double_image), CUDA_SUCCESS);
    }
    on(0);
  }
  void TearDown() override {
    for (int device = 0; device < device_count; ++device)
      EXPECT_EQ(cuDevicePrimaryCtxRelease_v2(device), CUDA_SUCCESS);
  }

  /// Makes the device's primary context current.
  void on(int device) const {
    EXPECT_EQ(cuCtxSetCurrent(contexts_[static_cast<std::size_t>(device)]), CUDA_SUCCESS);
  }
  /// The kernels of a device's module.
  CUfunction function(int device, const char* name) {
    module_ = modules_[static_cast<std::size_t>(device)];
    return DriverTest::function(name);
  }
  CUresult add(int device, CUdeviceptr address, std::uint32_t count, std::uint32_t value, CUstream s) {
    module_ = modules_[static_cast<std::size_t>(device)];
    return DriverTest::add(address, count, value, s);
  }
  CUresult append(int device, CUdeviceptr address, std::uint32_t value, CUstream s) {
    module_ = modules_[static_cast<std::size_t>(device)];
    return DriverTest::append(address, value, s);
  }
  CUresult spin(int device, CUdeviceptr address, CUstream s) {
    module_ = modules_[static_cast<std::size_t>(device)];
    return DriverTest::spin(address, s);
  }
  CUresult launch(int device, const char* name, CUstream s) {
    module_ = modules_[static_cast<std::size_t>(device)];
    return DriverTest::launch(name, s);
  }

  std::array<CUcontext, device_count> contexts_{};
  std::array<CUmodule, device_count> modules_{};
};

}  // namespace softgpu
