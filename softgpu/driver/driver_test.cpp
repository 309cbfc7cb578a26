// Devices, contexts, modules and launches at the driver API.
#include <cstring>
#include <string>
#include <thread>

#include "softgpu/driver/driver_fixture.hpp"
#include "softgpu/driver/meter.hpp"

namespace softgpu {
namespace {

TEST_F(DriverTest, DeviceSaysWhatItIs) {
  char name[64] = {};
  EXPECT_EQ(cuDeviceGetName(name, sizeof name, 0), CUDA_SUCCESS);
  EXPECT_STREQ(name, "vgpud Software GPU");
  int value = 0;
  EXPECT_EQ(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 0), CUDA_SUCCESS);
  EXPECT_EQ(value, 7);
  EXPECT_EQ(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 0),
            CUDA_SUCCESS);
  EXPECT_EQ(value, 65536);
  EXPECT_EQ(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MAX, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 1), CUDA_ERROR_INVALID_DEVICE);
  CUuuid first{};
  CUuuid second{};
  EXPECT_EQ(cuDeviceGetUuid_v2(&first, 0), CUDA_SUCCESS);
  EXPECT_EQ(cuDeviceGetUuid(&second, 0), CUDA_SUCCESS);
  EXPECT_EQ(std::memcmp(&first, &second, sizeof first), 0);
}

TEST_F(DriverTest, ContextsStackPerThread) {
  CUcontext created = nullptr;
  ASSERT_EQ(cuCtxCreate_v4(&created, nullptr, 0, 0), CUDA_SUCCESS);
  CUcontext current = nullptr;
  EXPECT_EQ(cuCtxGetCurrent(&current), CUDA_SUCCESS);
  EXPECT_EQ(current, created);
  std::thread([] {
    CUcontext other = nullptr;
    EXPECT_EQ(cuCtxGetCurrent(&other), CUDA_SUCCESS);
    EXPECT_EQ(other, nullptr);
    CUdeviceptr address = 0;
    EXPECT_EQ(cuMemAlloc_v2(&address, 4), CUDA_ERROR_INVALID_CONTEXT);
  }).join();
  EXPECT_EQ(cuCtxDestroy_v2(created), CUDA_SUCCESS);
  EXPECT_EQ(cuCtxGetCurrent(&current), CUDA_SUCCESS);
  EXPECT_EQ(current, context_);
  EXPECT_EQ(cuCtxSetCurrent(created), CUDA_ERROR_CONTEXT_IS_DESTROYED);
}

TEST_F(DriverTest, BadPtxIsRefusedWithLineAndReason) {
  char log[128] = {};
  CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void* values[] = {log, reinterpret_cast<void*>(sizeof log)};
  CUmodule module = nullptr;
  EXPECT_EQ(cuModuleLoadDataEx(&module, ".version 8.0\n.broken\n", 2, options, values),
            CUDA_ERROR_INVALID_PTX);
  EXPECT_STREQ(log, "line 3: unknown directive '.broken'");
}

TEST_F(DriverTest, ModulesGiveFunctionsAndVariables) {
  CUfunction missing = nullptr;
  EXPECT_EQ(cuModuleGetFunction(&missing, module_, "nothing"), CUDA_ERROR_NOT_FOUND);
  CUdeviceptr address = 0;
  std::size_t bytes = 0;
  EXPECT_EQ(cuModuleGetGlobal_v2(&address, &bytes, module_, "counter"), CUDA_SUCCESS);
  EXPECT_EQ(bytes, 16U);
  unsigned count = 0;
  EXPECT_EQ(cuModuleGetFunctionCount(&count, module_), CUDA_SUCCESS);
  EXPECT_EQ(count, 7U);
  const CUfunction add_function = function("add");
  std::size_t offset = 0;
  std::size_t size = 0;
  EXPECT_EQ(cuFuncGetParamInfo(add_function, 2, &offset, &size), CUDA_SUCCESS);
  EXPECT_EQ(offset, 12U);
  EXPECT_EQ(size, 4U);
  EXPECT_EQ(cuFuncGetParamInfo(add_function, 3, &offset, &size), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuModuleUnload(module_), CUDA_SUCCESS);
  EXPECT_EQ(cuModuleUnload(module_), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(cuLaunchKernel(add_function, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr),
            CUDA_ERROR_INVALID_HANDLE);
}

TEST_F(DriverTest, LibraryKernelsLaunchAsFunctions) {
  CUlibrary library = nullptr;
  ASSERT_EQ(cuLibraryLoadData(&library, double_image, nullptr, nullptr, 0, nullptr, nullptr, 0),
            CUDA_SUCCESS);
  CUkernel kernel = nullptr;
  ASSERT_EQ(cuLibraryGetKernel(&kernel, library, "add"), CUDA_SUCCESS);
  CUdeviceptr address = words(4);
  std::uint32_t count = 4;
  std::uint32_t value = 5;
  void* params[] = {&address, &count, &value};
  EXPECT_EQ(
      cuLaunchKernel(reinterpret_cast<CUfunction>(kernel), 1, 1, 1, 1, 1, 1, 0, nullptr, params, nullptr),
      CUDA_SUCCESS);
  EXPECT_EQ(read(address, 4), std::vector<std::uint32_t>(4, 5));
  EXPECT_EQ(cuLibraryUnload(library), CUDA_SUCCESS);
}

TEST_F(DriverTest, ParametersMayComePacked) {
  struct {
    CUdeviceptr address;
    std::uint32_t count, value;
  } packed{words(2), 2, 7};
  std::size_t size = sizeof packed;
  void* extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &packed, CU_LAUNCH_PARAM_BUFFER_SIZE, &size,
                   CU_LAUNCH_PARAM_END};
  EXPECT_EQ(cuLaunchKernel(function("add"), 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, extra), CUDA_SUCCESS);
  EXPECT_EQ(read(packed.address, 2), std::vector<std::uint32_t>(2, 7));
  size = 8;
  EXPECT_EQ(cuLaunchKernel(function("add"), 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, extra),
            CUDA_ERROR_INVALID_VALUE);
}

TEST_F(DriverTest, LaunchesOutsideTheLimitsAreRefused) {
  const CUfunction print = function("print");
  EXPECT_EQ(cuLaunchKernel(print, 0, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuLaunchKernel(print, 1, 1, 1, 1025, 1, 1, 0, nullptr, nullptr, nullptr),
            CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuLaunchKernel(print, 1, 1, 1, 64, 32, 1, 0, nullptr, nullptr, nullptr),
            CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuLaunchKernel(print, 1, 65536, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr),
            CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuLaunchCooperativeKernel(print, 1000000, 1, 1, 32, 1, 1, 0, nullptr, nullptr),
            CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
  EXPECT_EQ(launch("unsupported", nullptr), CUDA_ERROR_NOT_SUPPORTED);
}

TEST_F(DriverTest, DynamicSharedMemoryBeyondTheDefaultNeedsOptIn) {
  const CUfunction kernel = function("shared");
  CUdeviceptr address = words(1);
  void* params[] = {&address};
  const unsigned bytes = 60 << 10;
  EXPECT_EQ(cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, bytes, nullptr, params, nullptr),
            CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuFuncSetAttribute(kernel, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 65536),
            CUDA_ERROR_INVALID_VALUE)
      << "1 KiB is taken by static shared memory";
  EXPECT_EQ(cuFuncSetAttribute(kernel, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes), CUDA_SUCCESS);
  EXPECT_EQ(cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, bytes, nullptr, params, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(read(address, 1)[0], bytes);
  int blocks = 0;
  EXPECT_EQ(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, 128, bytes), CUDA_SUCCESS);
  EXPECT_EQ(blocks, 1);
  EXPECT_EQ(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, 128, 0), CUDA_SUCCESS);
  EXPECT_EQ(blocks, 8);
}

TEST_F(DriverTest, AFaultSticksToItsContextOnly) {
  CUcontext other = nullptr;
  ASSERT_EQ(cuCtxCreate_v2(&other, 0, 0), CUDA_SUCCESS);
  CUmodule module = nullptr;
  ASSERT_EQ(cuModuleLoadData(&module, double_image), CUDA_SUCCESS);
  CUfunction fault = nullptr;
  ASSERT_EQ(cuModuleGetFunction(&fault, module, "fault"), CUDA_SUCCESS);
  EXPECT_EQ(cuLaunchKernel(fault, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
  CUdeviceptr address = 0;
  EXPECT_EQ(cuMemAlloc_v2(&address, 16), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQ(cuCtxDestroy_v2(other), CUDA_SUCCESS);
  EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS) << "the primary context is current again, and well";
  EXPECT_EQ(cuMemAlloc_v2(&address, 16), CUDA_SUCCESS);
}

TEST_F(DriverTest, ResettingThePrimaryContextClearsItsError) {
  EXPECT_EQ(launch("fault", nullptr), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamSynchronize(nullptr), CUDA_ERROR_ILLEGAL_ADDRESS);
  EXPECT_EQ(cuDevicePrimaryCtxReset_v2(0), CUDA_SUCCESS);
  EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  std::size_t free = 0;
  std::size_t total = 0;
  EXPECT_EQ(cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
  EXPECT_EQ(free, total);
}

TEST_F(DriverTest, PrintfComesOutWhenSynchronising) {
  const void* table = nullptr;
  CUuuid id{};
  std::memcpy(id.bytes, meter_uuid, sizeof id.bytes);
  ASSERT_EQ(cuGetExportTable(&table, &id), CUDA_SUCCESS);
  const auto* const meter = static_cast<const MeterTable*>(table);
  std::string text;
  meter->printf_target([](void* user, const char* piece,
                          std::size_t bytes) { static_cast<std::string*>(user)->append(piece, bytes); },
                       &text);
  EXPECT_EQ(launch("print", nullptr), CUDA_SUCCESS);
  EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  EXPECT_EQ(text, "hello\n");
  meter->printf_target(nullptr, nullptr);
  std::uint64_t busy = 0;
  EXPECT_EQ(meter->busy_ns(&busy), CUDA_SUCCESS);
  EXPECT_GT(busy, 0U);
}

TEST_F(DriverTest, DestroyingAContextEndsItsRunningKernels) {
  CUcontext other = nullptr;
  ASSERT_EQ(cuCtxCreate_v2(&other, 0, 0), CUDA_SUCCESS);
  CUmodule module = nullptr;
  ASSERT_EQ(cuModuleLoadData(&module, double_image), CUDA_SUCCESS);
  CUfunction kernel = nullptr;
  ASSERT_EQ(cuModuleGetFunction(&kernel, module, "spin"), CUDA_SUCCESS);
  CUdeviceptr never = words(1);
  void* params[] = {&never};
  EXPECT_EQ(cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, nullptr, params, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(cuCtxDestroy_v2(other), CUDA_SUCCESS);
}

TEST_F(DriverTest, UnsupportedCallsSaySo) {
  CUexternalMemory memory = nullptr;
  CUDA_EXTERNAL_MEMORY_HANDLE_DESC description{};
  EXPECT_EQ(cuImportExternalMemory(&memory, &description), CUDA_ERROR_NOT_SUPPORTED);
}

TEST(ForkedChild, HasNoDriver) {
  ASSERT_EQ(cuInit(0), CUDA_SUCCESS);
  EXPECT_EXIT(
      {
        int count = 0;
        std::_Exit(cuDeviceGetCount(&count) == CUDA_ERROR_NOT_INITIALIZED ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace softgpu
