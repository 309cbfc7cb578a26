// Memory calls: copies and their promises, host memory, pools, pointers, virtual memory management.
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <numeric>

#include "softgpu/driver/driver_fixture.hpp"

namespace softgpu {
namespace {

using MemoryTest = DriverTest;

TEST_F(MemoryTest, APageableSourceIsFreeForReuseAtReturn) {
  std::uint32_t* const gate = host_words(1);
  const CUstream s = stream();
  const CUdeviceptr to = words(4);
  std::vector<std::uint32_t> source{1, 2, 3, 4};
  ASSERT_EQ(spin(device(gate), s), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyHtoDAsync_v2(to, source.data(), 16, s), CUDA_SUCCESS);
  source.assign(4, 99);
  raise(gate);
  ASSERT_EQ(cuStreamSynchronize(s), CUDA_SUCCESS);
  EXPECT_EQ(read(to, 4), (std::vector<std::uint32_t>{1, 2, 3, 4}));
}

TEST_F(MemoryTest, APinnedSourceIsReadInStreamOrder) {
  const CUstream s = stream();
  std::uint32_t* const pinned = host_words(1);
  const CUdeviceptr from = words(1);
  const CUdeviceptr to = words(1);
  std::uint32_t* const gate = host_words(1);
  ASSERT_EQ(cuMemsetD32_v2(from, 42, 1), CUDA_SUCCESS);
  ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  ASSERT_EQ(spin(device(gate), s), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyDtoHAsync_v2(pinned, from, 4, s), CUDA_SUCCESS) << "to pinned memory: returns at once";
  ASSERT_EQ(cuMemcpyHtoDAsync_v2(to, pinned, 4, s), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamQuery(s), CUDA_ERROR_NOT_READY);
  raise(gate);
  ASSERT_EQ(cuStreamSynchronize(s), CUDA_SUCCESS);
  EXPECT_EQ(read(to, 1)[0], 42U);
}

TEST_F(MemoryTest, ADownloadToPageableMemoryIsDoneAtReturn) {
  const CUstream s = stream();
  const CUdeviceptr from = words(1);
  std::uint32_t value = 0;
  ASSERT_EQ(add(from, 1, 6, s), CUDA_SUCCESS);
  ASSERT_EQ(cuMemcpyDtoHAsync_v2(&value, from, 4, s), CUDA_SUCCESS);
  EXPECT_EQ(value, 6U);
}

TEST_F(MemoryTest, HostCopiesOnStreamZeroDoNotWaitForNonBlockingStreams) {
  std::uint32_t* const gate = host_words(1);
  const CUstream s = stream(CU_STREAM_NON_BLOCKING);
  ASSERT_EQ(spin(device(gate), s), CUDA_SUCCESS);
  EXPECT_EQ(read(words(1), 1)[0], 0U);
  EXPECT_EQ(cuStreamQuery(s), CUDA_ERROR_NOT_READY);
  raise(gate);
}

TEST_F(MemoryTest, CopiesOutsideAnAllocationAreRefused) {
  const CUdeviceptr buffer = words(4);
  std::uint32_t host[8] = {};
  EXPECT_EQ(cuMemcpyHtoD_v2(buffer, host, 17), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemcpyHtoD_v2(buffer + 12, host, 8), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemcpyDtoH_v2(host, 0x1234, 4), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemcpyHtoD_v2(buffer, host, 0), CUDA_SUCCESS);
  EXPECT_EQ(cuMemsetD32_v2(buffer, 1, 5), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemFree_v2(buffer + 4), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemFree_v2(buffer), CUDA_SUCCESS);
  EXPECT_EQ(cuMemFree_v2(buffer), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemcpyDtoH_v2(host, buffer, 4), CUDA_ERROR_INVALID_VALUE) << "freed";
}

TEST_F(MemoryTest, RectanglesAreCopiedRowByRow) {
  std::vector<std::uint8_t> source(8 * 16);
  std::iota(source.begin(), source.end(), std::uint8_t{0});
  CUdeviceptr device_rows = 0;
  std::size_t pitch = 0;
  ASSERT_EQ(cuMemAllocPitch_v2(&device_rows, &pitch, 10, 4, 4), CUDA_SUCCESS);
  EXPECT_EQ(pitch % 256, 0U);
  CUDA_MEMCPY2D up{};
  up.srcMemoryType = CU_MEMORYTYPE_HOST;
  up.srcHost = source.data();
  up.srcPitch = 16;
  up.srcXInBytes = 3;
  up.srcY = 2;
  up.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  up.dstDevice = device_rows;
  up.dstPitch = pitch;
  up.WidthInBytes = 10;
  up.Height = 4;
  ASSERT_EQ(cuMemcpy2D_v2(&up), CUDA_SUCCESS);
  std::vector<std::uint8_t> back(40);
  CUDA_MEMCPY2D down{};
  down.srcMemoryType = CU_MEMORYTYPE_UNIFIED;
  down.srcDevice = device_rows;
  down.srcPitch = pitch;
  down.dstMemoryType = CU_MEMORYTYPE_HOST;
  down.dstHost = back.data();
  down.dstPitch = 10;
  down.WidthInBytes = 10;
  down.Height = 4;
  ASSERT_EQ(cuMemcpy2DAsync_v2(&down, nullptr), CUDA_SUCCESS);
  for (std::size_t row = 0; row < 4; ++row) {
    for (std::size_t x = 0; x < 10; ++x) EXPECT_EQ(back[row * 10 + x], source[(row + 2) * 16 + x + 3]);
  }
  down.dstPitch = 9;
  EXPECT_EQ(cuMemcpy2D_v2(&down), CUDA_ERROR_INVALID_VALUE) << "rows overlap";
}

TEST_F(MemoryTest, MemsetsFillElementsOfTheirSize) {
  const CUdeviceptr buffer = words(8);
  ASSERT_EQ(cuMemsetD8_v2(buffer, 0xab, 4), CUDA_SUCCESS);
  ASSERT_EQ(cuMemsetD16_v2(buffer + 4, 0x1234, 2), CUDA_SUCCESS);
  ASSERT_EQ(cuMemsetD2D32_v2(buffer + 8, 12, 0xdeadbeef, 1, 2), CUDA_SUCCESS);
  EXPECT_EQ(read(buffer, 6),
            (std::vector<std::uint32_t>{0xabababab, 0x12341234, 0xdeadbeef, 0, 0, 0xdeadbeef}));
  EXPECT_EQ(cuMemsetD32_v2(buffer + 2, 0, 1), CUDA_ERROR_INVALID_VALUE) << "misaligned";
}

TEST_F(MemoryTest, HostMemoryIsOneAddressForBothSides) {
  std::uint32_t* const pinned = host_words(4);
  CUdeviceptr as_device = 0;
  ASSERT_EQ(cuMemHostGetDevicePointer_v2(&as_device, pinned, 0), CUDA_SUCCESS);
  EXPECT_EQ(as_device, device(pinned));
  ASSERT_EQ(add(as_device, 4, 3, nullptr), CUDA_SUCCESS);
  ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  EXPECT_EQ(pinned[3], 3U) << "seen without a copy";
  std::vector<std::uint32_t> own(1000);
  ASSERT_EQ(cuMemHostRegister_v2(own.data(), 4000, 0), CUDA_SUCCESS);
  EXPECT_EQ(cuMemHostRegister_v2(own.data(), 4000, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
  ASSERT_EQ(add(device(own.data()), 1000, 8, nullptr), CUDA_SUCCESS);
  ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  EXPECT_EQ(own[999], 8U);
  EXPECT_EQ(cuMemHostUnregister(own.data()), CUDA_SUCCESS);
  EXPECT_EQ(cuMemHostUnregister(own.data()), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
}

TEST_F(MemoryTest, PointersTellWhatTheyAre) {
  const CUdeviceptr buffer = words(100);
  CUdeviceptr managed = 0;
  ASSERT_EQ(cuMemAllocManaged(&managed, 64, CU_MEM_ATTACH_GLOBAL), CUDA_SUCCESS);
  unsigned type = 0;
  EXPECT_EQ(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, buffer + 8), CUDA_SUCCESS);
  EXPECT_EQ(type, unsigned{CU_MEMORYTYPE_DEVICE});
  EXPECT_EQ(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, device(host_words(1))),
            CUDA_SUCCESS);
  EXPECT_EQ(type, unsigned{CU_MEMORYTYPE_HOST});
  unsigned is_managed = 0;
  EXPECT_EQ(cuPointerGetAttribute(&is_managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, managed), CUDA_SUCCESS);
  EXPECT_EQ(is_managed, 1U);
  CUdeviceptr base = 0;
  std::size_t bytes = 0;
  EXPECT_EQ(cuMemGetAddressRange_v2(&base, &bytes, buffer + 200), CUDA_SUCCESS);
  EXPECT_EQ(base, buffer);
  EXPECT_EQ(bytes, 400U);
  int on_stack = 0;
  EXPECT_EQ(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, device(&on_stack)),
            CUDA_ERROR_INVALID_VALUE);
  unsigned unknown_type = 7;
  int ordinal = 7;
  CUpointer_attribute attributes[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
  void* out[] = {&unknown_type, &ordinal};
  EXPECT_EQ(cuPointerGetAttributes(2, attributes, out, device(&on_stack)), CUDA_SUCCESS);
  EXPECT_EQ(unknown_type, 0U);
  EXPECT_EQ(ordinal, -2);
}

TEST_F(MemoryTest, TooMuchMemoryIsRefusedAndTheRestIsThere) {
  std::size_t free = 0;
  std::size_t total = 0;
  ASSERT_EQ(cuMemGetInfo_v2(&free, &total), CUDA_SUCCESS);
  CUdeviceptr address = 0;
  EXPECT_EQ(cuMemAlloc_v2(&address, free + 4096), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(cuMemAlloc_v2(&address, free), CUDA_SUCCESS) << "uncommitted pages cost nothing";
  std::size_t left = 0;
  ASSERT_EQ(cuMemGetInfo_v2(&left, &total), CUDA_SUCCESS);
  EXPECT_EQ(left, 0U);
  EXPECT_EQ(cuMemFree_v2(address), CUDA_SUCCESS);
}

TEST_F(MemoryTest, StreamOrderedMemoryIsFreedInStreamOrder) {
  std::uint32_t* const gate = host_words(1);
  const CUstream s = stream();
  CUmemoryPool pool = nullptr;
  ASSERT_EQ(cuDeviceGetDefaultMemPool(&pool, 0), CUDA_SUCCESS);
  cuuint64_t before = 0;  // what graphs of other tests keep
  ASSERT_EQ(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &before), CUDA_SUCCESS);
  CUdeviceptr buffer = 0;
  ASSERT_EQ(cuMemAllocAsync(&buffer, 4096, s), CUDA_SUCCESS);
  ASSERT_EQ(spin(device(gate), s), CUDA_SUCCESS);
  ASSERT_EQ(append(buffer, 1, s), CUDA_SUCCESS);
  ASSERT_EQ(cuMemFreeAsync(buffer, s), CUDA_SUCCESS);
  cuuint64_t used = 0;
  ASSERT_EQ(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used), CUDA_SUCCESS);
  EXPECT_EQ(used, before + 4096U);
  raise(gate);
  ASSERT_EQ(cuStreamSynchronize(s), CUDA_SUCCESS);
  ASSERT_EQ(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used), CUDA_SUCCESS);
  EXPECT_EQ(used, before);
}

TEST_F(MemoryTest, ASharedPoolsMemoryIsOpenedWhereItsBytesSay) {
  CUmemPoolProps props{};
  props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  props.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  props.handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  CUmemoryPool pool = nullptr;
  ASSERT_EQ(cuMemPoolCreate(&pool, &props), CUDA_SUCCESS);
  props.handleTypes = CU_MEM_HANDLE_TYPE_NONE;
  CUmemoryPool own = nullptr;
  ASSERT_EQ(cuMemPoolCreate(&own, &props), CUDA_SUCCESS);
  int fd = -1;
  EXPECT_EQ(cuMemPoolExportToShareableHandle(&fd, own, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
            CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuMemPoolExportToShareableHandle(&fd, pool, CU_MEM_HANDLE_TYPE_FABRIC, 0),
            CUDA_ERROR_NOT_SUPPORTED);
  ASSERT_EQ(cuMemPoolExportToShareableHandle(&fd, pool, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
            CUDA_SUCCESS);
  CUmemoryPool opened = nullptr;
  ASSERT_EQ(
      cuMemPoolImportFromShareableHandle(&opened, reinterpret_cast<void*>(static_cast<std::intptr_t>(fd)),
                                         CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
      CUDA_SUCCESS);
  close(fd);
  const CUstream s = stream();
  CUdeviceptr first = 0;
  CUdeviceptr second = 0;
  CUdeviceptr refused = 0;
  ASSERT_EQ(cuMemAllocFromPoolAsync(&first, 4096, pool, s), CUDA_SUCCESS);
  ASSERT_EQ(cuMemAllocFromPoolAsync(&second, 400, pool, s), CUDA_SUCCESS);
  EXPECT_EQ(cuMemAllocFromPoolAsync(&refused, 400, opened, s), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuDeviceSetMemPool(0, opened), CUDA_ERROR_INVALID_VALUE);
  ASSERT_EQ(cuMemsetD32_v2(second, 5, 100), CUDA_SUCCESS);
  CUmemPoolPtrExportData data{};
  EXPECT_EQ(cuMemPoolExportPointer(&data, second + 4), CUDA_ERROR_INVALID_VALUE);
  ASSERT_EQ(cuMemPoolExportPointer(&data, second), CUDA_SUCCESS);
  EXPECT_EQ(cuMemPoolImportPointer(&refused, pool, &data), CUDA_ERROR_INVALID_VALUE) << "its own pool";
  CUdeviceptr seen = 0;
  ASSERT_EQ(cuMemPoolImportPointer(&seen, opened, &data), CUDA_SUCCESS);
  EXPECT_NE(seen, second);
  EXPECT_EQ(cuMemPoolExportPointer(&data, seen), CUDA_ERROR_INVALID_VALUE) << "its maker's to pass on";
  CUdeviceptr base = 0;
  std::size_t bytes = 0;
  EXPECT_EQ(cuMemGetAddressRange_v2(&base, &bytes, seen + 100), CUDA_SUCCESS);
  EXPECT_EQ(base, seen);
  EXPECT_EQ(bytes, 400U);
  std::uint32_t words[100] = {};
  EXPECT_EQ(cuMemcpyDtoH_v2(words, seen, sizeof words), CUDA_SUCCESS);
  EXPECT_EQ(words[99], 5U);
  ASSERT_EQ(cuMemsetD32_v2(seen, 6, 1), CUDA_SUCCESS);
  ASSERT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  ASSERT_EQ(cuMemFreeAsync(seen, s), CUDA_SUCCESS);
  ASSERT_EQ(cuStreamSynchronize(s), CUDA_SUCCESS);
  EXPECT_EQ(cuMemGetAddressRange_v2(&base, &bytes, seen), CUDA_ERROR_NOT_FOUND);
  EXPECT_EQ(cuMemcpyDtoH_v2(words, second, sizeof words), CUDA_SUCCESS);
  EXPECT_EQ(words[0], 6U);
  EXPECT_EQ(words[99], 5U);
  // Other bytes: of nothing, of another file, of more than there is.
  EXPECT_EQ(cuMemPoolImportPointer(&seen, opened, &data), CUDA_SUCCESS);
  EXPECT_EQ(cuMemFree_v2(seen), CUDA_SUCCESS);
  for (const int byte : {0, 8, 16, 30, 38}) {
    CUmemPoolPtrExportData forged = data;
    forged.reserved[byte] = static_cast<unsigned char>(forged.reserved[byte] ^ 0x40U);
    EXPECT_EQ(cuMemPoolImportPointer(&refused, opened, &forged), CUDA_ERROR_INVALID_VALUE) << byte;
  }
  EXPECT_EQ(cuMemPoolDestroy(opened), CUDA_SUCCESS);
  EXPECT_EQ(cuMemFreeAsync(first, s), CUDA_SUCCESS);
  EXPECT_EQ(cuMemFreeAsync(second, s), CUDA_SUCCESS);
  EXPECT_EQ(cuStreamSynchronize(s), CUDA_SUCCESS);
  EXPECT_EQ(cuMemPoolDestroy(pool), CUDA_SUCCESS);
  EXPECT_EQ(cuMemPoolDestroy(own), CUDA_SUCCESS);
}

TEST_F(MemoryTest, MappedHandlesAlias) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  std::size_t unit = 0;
  ASSERT_EQ(cuMemGetAllocationGranularity(&unit, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
            CUDA_SUCCESS);
  CUmemGenericAllocationHandle handle = 0;
  ASSERT_EQ(cuMemCreate(&handle, unit, &properties, 0), CUDA_SUCCESS);
  CUdeviceptr window = 0;
  ASSERT_EQ(cuMemAddressReserve(&window, 2 * unit, 0, 0, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuMemMap(window, unit, 0, handle, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuMemMap(window + unit, unit, 0, handle, 0), CUDA_SUCCESS);
  EXPECT_EQ(cuMemsetD32_v2(window, 5, 1), CUDA_ERROR_INVALID_VALUE) << "no access yet";
  CUmemAccessDesc access{};
  access.location = properties.location;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  ASSERT_EQ(cuMemSetAccess(window, 2 * unit, &access, 1), CUDA_SUCCESS);
  ASSERT_EQ(cuMemRelease(handle), CUDA_SUCCESS);
  ASSERT_EQ(cuMemsetD32_v2(window, 5, 1), CUDA_SUCCESS);
  EXPECT_EQ(read(window + unit, 1)[0], 5U);
  EXPECT_EQ(read(window + unit - 4, 2)[1], 5U) << "copies cross from one mapping into the next";
  EXPECT_EQ(cuMemUnmap(window, 2 * unit), CUDA_SUCCESS);
  EXPECT_EQ(cuMemAddressFree(window, 2 * unit), CUDA_SUCCESS);
}

}  // namespace
}  // namespace softgpu
