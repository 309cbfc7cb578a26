// Three devices: whose memory it is, and who may use it.
#include <array>

#include "softgpu/driver/devices_fixture.hpp"

namespace softgpu {
namespace {

using DeviceMemoryTest = DevicesTest;

std::size_t free_bytes() {
  std::size_t free = 0;
  std::size_t total = 0;
  EXPECT_EQ(cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
  EXPECT_EQ(total, device_bytes);
  return free;
}

TEST_F(DeviceMemoryTest, EachDeviceHasMemoryOfItsOwn) {
  on(0);
  const std::size_t first = free_bytes();
  on(1);
  const std::size_t second = free_bytes();
  CUdeviceptr big = 0;
  ASSERT_EQ(cuMemAlloc_v2(&big, device_bytes - (2U << 20)), CUDA_SUCCESS);
  CUdeviceptr more = 0;
  EXPECT_EQ(cuMemAlloc_v2(&more, 4U << 20), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(free_bytes(), second - (device_bytes - (2U << 20)));
  on(0);
  EXPECT_EQ(free_bytes(), first);
  EXPECT_EQ(cuMemAlloc_v2(&more, 4U << 20), CUDA_SUCCESS);
  EXPECT_EQ(device_of(big), 1);
  EXPECT_EQ(about<CUcontext>(big, CU_POINTER_ATTRIBUTE_CONTEXT), contexts_[1]);
  EXPECT_EQ(device_of(more), 0);
  EXPECT_EQ(cuMemFree_v2(big), CUDA_SUCCESS) << "another device's memory is freed like any";
  EXPECT_EQ(cuMemFree_v2(more), CUDA_SUCCESS);
  on(1);
  EXPECT_EQ(free_bytes(), second);
}

TEST_F(DeviceMemoryTest, HostAndManagedMemoryAreTheCurrentDevices) {
  on(2);
  const std::size_t before = free_bytes();
  EXPECT_EQ(device_of(device(host_words(1))), 2);
  EXPECT_EQ(free_bytes(), before) << "host memory is no device's";
  CUdeviceptr managed = 0;
  ASSERT_EQ(cuMemAllocManaged(&managed, 8192, CU_MEM_ATTACH_GLOBAL), CUDA_SUCCESS);
  EXPECT_EQ(device_of(managed), 2);
  EXPECT_EQ(free_bytes(), before - 8192);
  int by[device_count] = {};
  ASSERT_EQ(cuMemAdvise(managed, 8192, CU_MEM_ADVISE_SET_ACCESSED_BY, 1), CUDA_SUCCESS);
  ASSERT_EQ(cuMemAdvise(managed, 8192, CU_MEM_ADVISE_SET_ACCESSED_BY, 2), CUDA_SUCCESS);
  EXPECT_EQ(cuMemAdvise(managed, 8192, CU_MEM_ADVISE_SET_ACCESSED_BY, device_count),
            CUDA_ERROR_INVALID_DEVICE);
  ASSERT_EQ(cuMemRangeGetAttribute(by, sizeof by, CU_MEM_RANGE_ATTRIBUTE_ACCESSED_BY, managed, 8192),
            CUDA_SUCCESS);
  EXPECT_EQ(by[0], 1);
  EXPECT_EQ(by[1], 2);
  EXPECT_EQ(by[2], CU_DEVICE_INVALID);
  EXPECT_EQ(cuMemFree_v2(managed), CUDA_SUCCESS);
}

TEST_F(DeviceMemoryTest, PoolsAreTheDevices) {
  CUmemoryPool pools[2] = {};
  ASSERT_EQ(cuDeviceGetDefaultMemPool(&pools[0], 0), CUDA_SUCCESS);
  ASSERT_EQ(cuDeviceGetDefaultMemPool(&pools[1], 1), CUDA_SUCCESS);
  EXPECT_NE(pools[0], pools[1]);
  EXPECT_EQ(cuDeviceSetMemPool(0, pools[1]), CUDA_ERROR_INVALID_VALUE);
  on(1);
  const CUstream s = stream();
  on(0);
  CUdeviceptr address = 0;
  ASSERT_EQ(cuMemAllocAsync(&address, 4096, s), CUDA_SUCCESS);
  EXPECT_EQ(device_of(address), 1) << "the stream's";
  EXPECT_EQ(cuMemFreeAsync(address, s), CUDA_SUCCESS);
  ASSERT_EQ(cuMemAllocFromPoolAsync(&address, 4096, pools[1], nullptr), CUDA_SUCCESS);
  EXPECT_EQ(device_of(address), 1) << "the pool's";
  EXPECT_EQ(cuMemFreeAsync(address, nullptr), CUDA_SUCCESS);

  CUmemPoolProps props{};
  props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  props.location = {CU_MEM_LOCATION_TYPE_DEVICE, device_count};
  CUmemoryPool own = nullptr;
  EXPECT_EQ(cuMemPoolCreate(&own, &props), CUDA_ERROR_INVALID_DEVICE);
  props.location.id = 2;
  ASSERT_EQ(cuMemPoolCreate(&own, &props), CUDA_SUCCESS);
  ASSERT_EQ(cuDeviceSetMemPool(2, own), CUDA_SUCCESS);
  on(2);
  ASSERT_EQ(cuMemAllocAsync(&address, 4096, nullptr), CUDA_SUCCESS);
  EXPECT_EQ(about<CUmemoryPool>(address, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE), own);
  EXPECT_EQ(cuMemFreeAsync(address, nullptr), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamSynchronize(nullptr), CUDA_SUCCESS);
  EXPECT_EQ(cuMemPoolDestroy(own), CUDA_SUCCESS);
  CUmemoryPool current = nullptr;
  CUmemoryPool original = nullptr;
  ASSERT_EQ(cuDeviceGetMemPool(&current, 2), CUDA_SUCCESS);
  ASSERT_EQ(cuDeviceGetDefaultMemPool(&original, 2), CUDA_SUCCESS);
  EXPECT_EQ(current, original);
}

TEST_F(DeviceMemoryTest, APoolIsItsDevicesAndWhomItIsOpenedFor) {
  CUmemoryPool pool = nullptr;
  ASSERT_EQ(cuDeviceGetDefaultMemPool(&pool, 1), CUDA_SUCCESS);
  const auto access = [&](int device) {
    CUmemLocation where{CU_MEM_LOCATION_TYPE_DEVICE, device};
    CUmemAccess_flags flags = CU_MEM_ACCESS_FLAGS_PROT_MAX;
    EXPECT_EQ(cuMemPoolGetAccess(&flags, pool, &where), CUDA_SUCCESS);
    return flags;
  };
  const auto set = [&](int device, CUmemAccess_flags flags) {
    const CUmemAccessDesc wanted{{CU_MEM_LOCATION_TYPE_DEVICE, device}, flags};
    return cuMemPoolSetAccess(pool, &wanted, 1);
  };
  EXPECT_EQ(access(1), CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
  EXPECT_EQ(access(0), CU_MEM_ACCESS_FLAGS_PROT_NONE);
  EXPECT_EQ(set(0, CU_MEM_ACCESS_FLAGS_PROT_READWRITE), CUDA_SUCCESS);
  EXPECT_EQ(access(0), CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
  EXPECT_EQ(access(2), CU_MEM_ACCESS_FLAGS_PROT_NONE);
  EXPECT_EQ(set(0, CU_MEM_ACCESS_FLAGS_PROT_NONE), CUDA_SUCCESS);
  EXPECT_EQ(access(0), CU_MEM_ACCESS_FLAGS_PROT_NONE);
  EXPECT_EQ(set(1, CU_MEM_ACCESS_FLAGS_PROT_NONE), CUDA_ERROR_INVALID_DEVICE);
  EXPECT_EQ(set(0, CU_MEM_ACCESS_FLAGS_PROT_READ), CUDA_ERROR_NOT_SUPPORTED);
  EXPECT_EQ(set(device_count, CU_MEM_ACCESS_FLAGS_PROT_READWRITE), CUDA_ERROR_INVALID_DEVICE);
}

TEST_F(DeviceMemoryTest, MappedMemoryIsADevicesAndOpenToThoseThatAreNamed) {
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, device_count};
  constexpr std::size_t unit = 2U << 20;
  CUmemGenericAllocationHandle memory = 0;
  EXPECT_EQ(cuMemCreate(&memory, unit, &prop, 0), CUDA_ERROR_INVALID_DEVICE);
  prop.location.id = 1;
  on(1);
  const std::size_t before = free_bytes();
  on(0);
  ASSERT_EQ(cuMemCreate(&memory, unit, &prop, 0), CUDA_SUCCESS);
  CUmemAllocationProp made{};
  ASSERT_EQ(cuMemGetAllocationPropertiesFromHandle(&made, memory), CUDA_SUCCESS);
  EXPECT_EQ(made.location.id, 1);
  on(1);
  EXPECT_EQ(free_bytes(), before - unit);
  CUdeviceptr window = 0;
  ASSERT_EQ(cuMemAddressReserve(&window, unit, 0, 0, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuMemMap(window, unit, 0, memory, 0), CUDA_SUCCESS);
  const std::array<CUmemAccessDesc, 2> access = {
      {{{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READ},
       {{CU_MEM_LOCATION_TYPE_DEVICE, 1}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE}}};
  ASSERT_EQ(cuMemSetAccess(window, unit, access.data(), access.size()), CUDA_SUCCESS);
  const auto flags = [&](int device) {
    const CUmemLocation where{CU_MEM_LOCATION_TYPE_DEVICE, device};
    unsigned long long value = 99;
    EXPECT_EQ(cuMemGetAccess(&value, &where, window), CUDA_SUCCESS);
    return value;
  };
  EXPECT_EQ(flags(0), CU_MEM_ACCESS_FLAGS_PROT_READ);
  EXPECT_EQ(flags(1), CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
  EXPECT_EQ(flags(2), CU_MEM_ACCESS_FLAGS_PROT_NONE);
  EXPECT_EQ(device_of(window), 1);
  EXPECT_EQ(cuMemsetD32_v2(window, 5, 4), CUDA_SUCCESS);
  EXPECT_EQ(read(window, 4)[3], 5U);
  EXPECT_EQ(cuMemUnmap(window, unit), CUDA_SUCCESS);
  EXPECT_EQ(cuMemAddressFree(window, unit), CUDA_SUCCESS);
  EXPECT_EQ(cuMemRelease(memory), CUDA_SUCCESS);
  EXPECT_EQ(free_bytes(), before);
}

}  // namespace
}  // namespace softgpu
