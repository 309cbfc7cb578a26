// What the driver's tests share: an initialised driver, a current context, a loaded module.
#pragma once

#include <cuda.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <vector>

#include "softgpu/driver/engine_double.hpp"

namespace softgpu {

/// Lets the kernels go that spin on `word`.
inline void raise(std::uint32_t* word) {
  std::atomic_ref<std::uint32_t>(*word).store(1, std::memory_order_release);
}

class DriverTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(cuInit(0), CUDA_SUCCESS);
    ASSERT_EQ(cuDevicePrimaryCtxRetain(&context_, 0), CUDA_SUCCESS);
    ASSERT_EQ(cuCtxSetCurrent(context_), CUDA_SUCCESS);
    ASSERT_EQ(cuModuleLoadData(&module_, double_image), CUDA_SUCCESS);
  }
  void TearDown() override { EXPECT_EQ(cuDevicePrimaryCtxRelease_v2(0), CUDA_SUCCESS); }

  CUfunction function(const char* name) const {
    CUfunction found = nullptr;
    EXPECT_EQ(cuModuleGetFunction(&found, module_, name), CUDA_SUCCESS) << name;
    return found;
  }
  /// Zeroed device words.
  static CUdeviceptr words(std::size_t count) {
    CUdeviceptr address = 0;
    EXPECT_EQ(cuMemAlloc_v2(&address, count * 4), CUDA_SUCCESS);
    return address;
  }
  /// Words that the test itself may touch.
  static std::uint32_t* host_words(std::size_t count) {
    void* address = nullptr;
    EXPECT_EQ(cuMemHostAlloc(&address, count * 4, 0), CUDA_SUCCESS);
    return static_cast<std::uint32_t*>(address);
  }
  static CUdeviceptr device(const void* host) { return reinterpret_cast<std::uintptr_t>(host); }

  CUresult add(CUdeviceptr address, std::uint32_t count, std::uint32_t value, CUstream stream) const {
    void* params[] = {&address, &count, &value};
    return cuLaunchKernel(function("add"), 1, 1, 1, 32, 1, 1, 0, stream, params, nullptr);
  }
  CUresult append(CUdeviceptr address, std::uint32_t value, CUstream stream) const {
    void* params[] = {&address, &value};
    return cuLaunchKernel(function("append"), 1, 1, 1, 1, 1, 1, 0, stream, params, nullptr);
  }
  CUresult spin(CUdeviceptr address, CUstream stream) const {
    void* params[] = {&address};
    return cuLaunchKernel(function("spin"), 1, 1, 1, 1, 1, 1, 0, stream, params, nullptr);
  }
  CUresult launch(const char* name, CUstream stream) const {
    return cuLaunchKernel(function(name), 1, 1, 1, 1, 1, 1, 0, stream, nullptr, nullptr);
  }
  static std::vector<std::uint32_t> read(CUdeviceptr address, std::size_t count) {
    std::vector<std::uint32_t> values(count);
    EXPECT_EQ(cuMemcpyDtoH_v2(values.data(), address, count * 4), CUDA_SUCCESS);
    return values;
  }
  static CUstream stream(unsigned flags = CU_STREAM_NON_BLOCKING) {
    CUstream made = nullptr;
    EXPECT_EQ(cuStreamCreate(&made, flags), CUDA_SUCCESS);
    return made;
  }
  static CUevent event() {
    CUevent made = nullptr;
    EXPECT_EQ(cuEventCreate(&made, 0), CUDA_SUCCESS);
    return made;
  }

  CUcontext context_ = nullptr;
  CUmodule module_ = nullptr;
};

}  // namespace softgpu
