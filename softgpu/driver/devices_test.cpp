// Three devices: who is who, and whose work it is.
#include <array>
#include <cstring>
#include <set>
#include <string>

#include "softgpu/driver/devices_fixture.hpp"
#include "softgpu/driver/meter.hpp"

namespace softgpu {
namespace {

using IdentityTest = DevicesTest;
using DeviceWorkTest = DevicesTest;

const MeterTable& meter_table() {
  CUuuid uuid;
  std::memcpy(uuid.bytes, meter_uuid, sizeof uuid.bytes);
  const void* table = nullptr;
  EXPECT_EQ(cuGetExportTable(&table, &uuid), CUDA_SUCCESS);
  return *static_cast<const MeterTable*>(table);
}

std::uint64_t busy(CUdevice device) {
  std::uint64_t value = 0;
  EXPECT_EQ(meter_table().device_busy_ns(device, &value), CUDA_SUCCESS);
  return value;
}

TEST_F(IdentityTest, DevicesAreAsManyAsWasSaid) {
  int count = 0;
  ASSERT_EQ(cuDeviceGetCount(&count), CUDA_SUCCESS);
  EXPECT_EQ(count, device_count);
  CUdevice device = -1;
  EXPECT_EQ(cuDeviceGet(&device, device_count - 1), CUDA_SUCCESS);
  EXPECT_EQ(device, device_count - 1);
  for (const int none : {-1, device_count}) {
    EXPECT_EQ(cuDeviceGet(&device, none), CUDA_ERROR_INVALID_DEVICE);
    char name[64];
    EXPECT_EQ(cuDeviceGetName(name, sizeof name, none), CUDA_ERROR_INVALID_DEVICE);
    CUcontext context = nullptr;
    EXPECT_EQ(cuDevicePrimaryCtxRetain(&context, none), CUDA_ERROR_INVALID_DEVICE);
    EXPECT_EQ(cuCtxCreate_v2(&context, 0, none), CUDA_ERROR_INVALID_DEVICE);
  }
}

TEST_F(IdentityTest, EachDeviceHasAUuidAndABusOfItsOwn) {
  std::set<std::string> uuids;
  std::set<std::string> buses;
  for (CUdevice device = 0; device < device_count; ++device) {
    CUuuid uuid;
    ASSERT_EQ(cuDeviceGetUuid_v2(&uuid, device), CUDA_SUCCESS);
    uuids.emplace(uuid.bytes, sizeof uuid.bytes);
    char id[16];
    ASSERT_EQ(cuDeviceGetPCIBusId(id, sizeof id, device), CUDA_SUCCESS);
    buses.insert(id);
    CUdevice found = -1;
    ASSERT_EQ(cuDeviceGetByPCIBusId(&found, id), CUDA_SUCCESS);
    EXPECT_EQ(found, device);
    int bus = -1;
    ASSERT_EQ(cuDeviceGetAttribute(&bus, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, device), CUDA_SUCCESS);
    EXPECT_EQ(bus, device);
    std::size_t bytes = 0;
    ASSERT_EQ(cuDeviceTotalMem_v2(&bytes, device), CUDA_SUCCESS);
    EXPECT_EQ(bytes, device_bytes);
  }
  EXPECT_EQ(uuids.size(), std::size_t{device_count});
  EXPECT_EQ(buses.size(), std::size_t{device_count});
  CUdevice found = -1;
  EXPECT_EQ(cuDeviceGetByPCIBusId(&found, "0000:77:00.0"), CUDA_ERROR_INVALID_DEVICE);
}

TEST_F(IdentityTest, ContextsAndStreamsKnowTheirDevice) {
  std::set<CUcontext> primaries(contexts_.begin(), contexts_.end());
  EXPECT_EQ(primaries.size(), std::size_t{device_count});
  on(2);
  const CUstream s = stream();
  CUcontext own = nullptr;
  ASSERT_EQ(cuCtxCreate_v2(&own, 0, 1), CUDA_SUCCESS);
  CUdevice device = -1;
  EXPECT_EQ(cuCtxGetDevice(&device), CUDA_SUCCESS);
  EXPECT_EQ(device, 1);
  EXPECT_EQ(cuStreamGetDevice(s, &device), CUDA_SUCCESS);
  EXPECT_EQ(device, 2);
  EXPECT_EQ(cuStreamGetDevice(nullptr, &device), CUDA_SUCCESS);
  EXPECT_EQ(device, 1);
  EXPECT_EQ(cuCtxDestroy_v2(own), CUDA_SUCCESS);
  on(0);
  EXPECT_EQ(cuCtxGetDevice_v2(&device, contexts_[2]), CUDA_SUCCESS);
  EXPECT_EQ(device, 2);
}

TEST_F(IdentityTest, PrimaryContextsAreActiveEachForItself) {
  unsigned flags = 0;
  int active = 0;
  ASSERT_EQ(cuDevicePrimaryCtxRelease_v2(1), CUDA_SUCCESS);
  ASSERT_EQ(cuDevicePrimaryCtxGetState(1, &flags, &active), CUDA_SUCCESS);
  EXPECT_EQ(active, 0);
  ASSERT_EQ(cuDevicePrimaryCtxGetState(0, &flags, &active), CUDA_SUCCESS);
  EXPECT_EQ(active, 1);
  CUcontext again = nullptr;
  ASSERT_EQ(cuDevicePrimaryCtxRetain(&again, 1), CUDA_SUCCESS);
  EXPECT_EQ(again, contexts_[1]);
}

TEST_F(DeviceWorkTest, AKernelRunsWhereItsModuleIs) {
  on(1);
  const CUdeviceptr there = words(1);
  const CUstream s = stream();
  EXPECT_EQ(add(1, there, 1, 7, s), CUDA_SUCCESS);
  EXPECT_EQ(add(0, there, 1, 7, s), CUDA_ERROR_INVALID_HANDLE) << "the first device's function";
  on(0);
  EXPECT_EQ(add(1, there, 1, 7, s), CUDA_SUCCESS) << "the stream's device counts, not the current one";
  EXPECT_EQ(add(1, there, 1, 7, nullptr), CUDA_ERROR_INVALID_HANDLE);
  ASSERT_EQ(cuStreamSynchronize(s), CUDA_SUCCESS);
  EXPECT_EQ(read(there, 1)[0], 14U);
}

TEST_F(DeviceWorkTest, TimeIsCountedForTheDeviceThatSpentIt) {
  std::uint32_t* const gate = host_words(1);
  std::array<std::uint64_t, device_count> before{};
  for (int i = 0; i < device_count; ++i) before[static_cast<std::size_t>(i)] = busy(i);
  std::uint64_t sum_before = 0;
  ASSERT_EQ(meter_table().busy_ns(&sum_before), CUDA_SUCCESS);
  on(1);
  ASSERT_EQ(spin(1, device(gate), nullptr), CUDA_SUCCESS);
  raise(gate);
  ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  std::uint64_t sum = 0;
  ASSERT_EQ(meter_table().busy_ns(&sum), CUDA_SUCCESS);
  EXPECT_GT(busy(1), before[1]);
  EXPECT_EQ(busy(1) - before[1], sum - sum_before);
  EXPECT_EQ(busy(0), before[0]);
  EXPECT_EQ(busy(2), before[2]);
  std::uint64_t value = 0;
  EXPECT_EQ(meter_table().device_busy_ns(device_count, &value), CUDA_ERROR_INVALID_DEVICE);
  EXPECT_GE(meter_table().size, offsetof(MeterTable, device_busy_ns) + sizeof(void*));
}

TEST_F(DeviceWorkTest, AFaultIsItsOwnContextsOnly) {
  on(2);
  ASSERT_EQ(launch(2, "fault", nullptr), CUDA_SUCCESS);
  EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
  on(0);
  EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  ASSERT_EQ(cuDevicePrimaryCtxReset_v2(2), CUDA_SUCCESS);
}

TEST_F(DeviceWorkTest, EventsOrderDevicesButAreTheirContexts) {
  std::uint32_t* const gate = host_words(1);
  on(0);
  const CUdeviceptr list = words(4);
  const CUstream first = stream();
  const CUevent done = event();
  ASSERT_EQ(spin(0, device(gate), first), CUDA_SUCCESS);
  ASSERT_EQ(append(0, list, 1, first), CUDA_SUCCESS);
  ASSERT_EQ(cuEventRecord(done, first), CUDA_SUCCESS);
  on(1);
  const CUstream second = stream();
  const CUevent later = event();
  EXPECT_EQ(cuEventRecord(done, second), CUDA_ERROR_INVALID_HANDLE);
  ASSERT_EQ(cuStreamWaitEvent(second, done, 0), CUDA_SUCCESS);
  ASSERT_EQ(append(1, list, 2, second), CUDA_SUCCESS);
  ASSERT_EQ(cuEventRecord(later, second), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamQuery(second), CUDA_ERROR_NOT_READY);
  EXPECT_EQ(cuEventQuery(done), CUDA_ERROR_NOT_READY);
  raise(gate);
  ASSERT_EQ(cuStreamSynchronize(second), CUDA_SUCCESS);
  EXPECT_EQ(cuEventSynchronize(done), CUDA_SUCCESS) << "from another device";
  EXPECT_EQ(read(list, 3), (std::vector<std::uint32_t>{2, 1, 2}));
  float milliseconds = 0;
  EXPECT_EQ(cuEventElapsedTime(&milliseconds, done, later), CUDA_ERROR_INVALID_HANDLE);
}

TEST_F(DeviceWorkTest, ALibraryHasAModuleOfItsOwnOnEachDevice) {
  CUlibrary library = nullptr;
  ASSERT_EQ(cuLibraryLoadData(&library, double_image, nullptr, nullptr, 0, nullptr, nullptr, 0),
            CUDA_SUCCESS);
  CUkernel kernel = nullptr;
  ASSERT_EQ(cuLibraryGetKernel(&kernel, library, "add"), CUDA_SUCCESS);
  std::array<CUfunction, 2> functions{};
  std::array<CUmodule, 2> modules{};
  std::array<CUdeviceptr, 2> variables{};
  std::array<CUdeviceptr, 2> managed{};
  for (int i = 0; i < 2; ++i) {
    const auto at = static_cast<std::size_t>(i);
    on(i);
    std::size_t bytes = 0;
    ASSERT_EQ(cuKernelGetFunction(&functions[at], kernel), CUDA_SUCCESS);
    ASSERT_EQ(cuLibraryGetModule(&modules[at], library), CUDA_SUCCESS);
    ASSERT_EQ(cuLibraryGetGlobal(&variables[at], &bytes, library, "counter"), CUDA_SUCCESS);
    ASSERT_EQ(cuLibraryGetManaged(&managed[at], &bytes, library, "managed"), CUDA_SUCCESS);
    EXPECT_EQ(device_of(variables[at]), i);
    CUmodule module = nullptr;
    EXPECT_EQ(cuFuncGetModule(&module, functions[at]), CUDA_SUCCESS);
    EXPECT_EQ(module, modules[at]);
    CUdeviceptr seen = 0;
    EXPECT_EQ(cuModuleGetGlobal_v2(&seen, &bytes, module, "managed"), CUDA_SUCCESS);
    EXPECT_EQ(seen, managed[at]) << "the device's code means the same memory";
    CUlibrary of = nullptr;
    EXPECT_EQ(cuKernelGetLibrary(&of, reinterpret_cast<CUkernel>(functions[at])), CUDA_SUCCESS);
    EXPECT_EQ(of, library);
  }
  EXPECT_NE(functions[0], functions[1]);
  EXPECT_NE(modules[0], modules[1]);
  EXPECT_NE(variables[0], variables[1]);
  EXPECT_EQ(managed[0], managed[1]);

  on(0);
  CUdeviceptr target = words(1);
  std::uint32_t count = 1;
  std::uint32_t value = 3;
  void* params[] = {&target, &count, &value};
  const auto run = [&](CUfunction function, CUstream s) {
    return cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, s, params, nullptr);
  };
  EXPECT_EQ(run(functions[0], nullptr), CUDA_SUCCESS);
  EXPECT_EQ(run(functions[1], nullptr), CUDA_ERROR_INVALID_HANDLE);
  ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  // The kernel itself runs where the stream is.
  on(1);
  const std::uint64_t before = busy(1);
  EXPECT_EQ(run(reinterpret_cast<CUfunction>(kernel), nullptr), CUDA_SUCCESS);
  ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  EXPECT_GT(busy(1), before);
  EXPECT_EQ(read(target, 1)[0], 6U);

  // What is set for a device is that device's.
  constexpr auto limit = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
  ASSERT_EQ(cuKernelSetAttribute(limit, 2048, kernel, 1), CUDA_SUCCESS);
  int bytes = 0;
  ASSERT_EQ(cuFuncGetAttribute(&bytes, limit, functions[1]), CUDA_SUCCESS);
  EXPECT_EQ(bytes, 2048);
  ASSERT_EQ(cuKernelGetAttribute(&bytes, limit, kernel, 0), CUDA_SUCCESS);
  EXPECT_NE(bytes, 2048);
  EXPECT_EQ(cuKernelGetAttribute(&bytes, limit, kernel, device_count), CUDA_ERROR_INVALID_DEVICE);

  ASSERT_EQ(cuLibraryUnload(library), CUDA_SUCCESS);
  EXPECT_EQ(run(functions[1], nullptr), CUDA_ERROR_INVALID_HANDLE);
  EXPECT_EQ(cuFuncGetModule(&modules[0], functions[0]), CUDA_ERROR_INVALID_HANDLE);
}

TEST_F(DeviceWorkTest, AGraphMayHoldKernelsOfSeveralDevices) {
  on(0);
  CUgraph graph = nullptr;
  ASSERT_EQ(cuGraphCreate(&graph, 0), CUDA_SUCCESS);
  CUdeviceptr list = words(4);
  std::uint32_t value = 0;
  void* params[] = {&list, &value};
  CUgraphNode last = nullptr;
  for (int i = 0; i < 2; ++i) {
    value = static_cast<std::uint32_t>(10 + i);
    CUDA_KERNEL_NODE_PARAMS node{};
    node.func = function(i, "append");
    node.gridDimX = node.gridDimY = node.gridDimZ = node.blockDimX = node.blockDimY = node.blockDimZ = 1;
    node.kernelParams = params;
    CUgraphNode made = nullptr;
    ASSERT_EQ(cuGraphAddKernelNode_v2(&made, graph, &last, i == 0 ? 0 : 1, &node), CUDA_SUCCESS);
    last = made;
  }
  CUgraphExec exec = nullptr;
  ASSERT_EQ(cuGraphInstantiateWithFlags(&exec, graph, 0), CUDA_SUCCESS);
  const std::uint64_t first = busy(0);
  const std::uint64_t second = busy(1);
  ASSERT_EQ(cuGraphLaunch(exec, nullptr), CUDA_SUCCESS);
  ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  EXPECT_EQ(read(list, 3), (std::vector<std::uint32_t>{2, 10, 11}));
  EXPECT_GT(busy(0), first);
  EXPECT_GT(busy(1), second);
  EXPECT_EQ(cuGraphExecDestroy(exec), CUDA_SUCCESS);
  EXPECT_EQ(cuGraphDestroy(graph), CUDA_SUCCESS);
}

}  // namespace
}  // namespace softgpu
