// Copies and memsets of memory that cannot be used when their turn comes: errors of the context, like those
// of kernels.
#include <sys/mman.h>

#include <cstring>

#include "softgpu/driver/driver_fixture.hpp"

namespace softgpu {
namespace {

constexpr std::size_t granularity = std::size_t{2} << 20;

class AccessFaultTest : public DriverTest {
 protected:
  void TearDown() override {
    DriverTest::TearDown();
    if (mapped_ == 0) return;
    EXPECT_EQ(cuMemUnmap(mapped_, granularity), CUDA_SUCCESS);
    EXPECT_EQ(cuMemAddressFree(mapped_, granularity), CUDA_SUCCESS);
  }
  // Memory that may be read only.
  CUdeviceptr read_only() {
    CUmemAllocationProp prop{};
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    CUmemGenericAllocationHandle memory = 0;
    CUdeviceptr address = 0;
    EXPECT_EQ(cuMemCreate(&memory, granularity, &prop, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuMemAddressReserve(&address, granularity, 0, 0, 0), CUDA_SUCCESS);
    EXPECT_EQ(cuMemMap(address, granularity, 0, memory, 0), CUDA_SUCCESS);
    CUmemAccessDesc access{};
    access.location = prop.location;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READ;
    EXPECT_EQ(cuMemSetAccess(address, granularity, &access, 1), CUDA_SUCCESS);
    EXPECT_EQ(cuMemRelease(memory), CUDA_SUCCESS);
    mapped_ = address;
    return address;
  }
  // The context is of no more use, whatever is asked of it.
  static void expect_lost() {
    EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
    EXPECT_EQ(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS) << "it stays";
  }
  // Pool memory that is freed while `use(memory, stream)` still waits for its turn.
  template <class Use>
  void freed_before(std::size_t bytes, Use use) {
    std::uint32_t* const gate = host_words(1);
    const CUstream frees = stream();
    const CUstream late = stream();
    CUdeviceptr memory = 0;
    ASSERT_EQ(cuMemAllocAsync(&memory, bytes, frees), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamSynchronize(frees), CUDA_SUCCESS);
    ASSERT_EQ(spin(device(gate), late), CUDA_SUCCESS);
    ASSERT_EQ(use(memory, late), CUDA_SUCCESS);
    ASSERT_EQ(cuMemFreeAsync(memory, frees), CUDA_SUCCESS);
    ASSERT_EQ(cuStreamSynchronize(frees), CUDA_SUCCESS);
    raise(gate);
    expect_lost();
  }

 private:
  CUdeviceptr mapped_ = 0;
};

TEST_F(AccessFaultTest, ReadOnlyMemoryCanBeCopiedFromOnly) {
  const CUdeviceptr memory = read_only();
  std::uint32_t word = 5;
  EXPECT_EQ(cuMemcpyDtoH_v2(&word, memory, 4), CUDA_SUCCESS);
  EXPECT_EQ(word, 0U);
  EXPECT_EQ(cuMemcpyHtoD_v2(memory, &word, 4), CUDA_ERROR_ILLEGAL_ADDRESS);
  expect_lost();
}

TEST_F(AccessFaultTest, MemsetOfReadOnlyMemoryFails) {
  const CUdeviceptr memory = read_only();
  EXPECT_EQ(cuMemsetD32_v2(memory, 1, 1), CUDA_SUCCESS) << "found out later";
  expect_lost();
}

TEST_F(AccessFaultTest, WriteOfAValueToReadOnlyMemoryFails) {
  const CUdeviceptr memory = read_only();
  EXPECT_EQ(cuStreamWriteValue32_v2(stream(), memory, 1, 0), CUDA_SUCCESS);
  expect_lost();
}

TEST_F(AccessFaultTest, MemsetsOfAnyWidthOfFreedMemoryFail) {
  freed_before(4096, [](CUdeviceptr memory, CUstream s) { return cuMemsetD8Async(memory, 1, 4096, s); });
}

TEST_F(AccessFaultTest, RectangularMemsetOfFreedMemoryFails) {
  freed_before(4096,
               [](CUdeviceptr memory, CUstream s) { return cuMemsetD2D16Async(memory, 512, 1, 128, 8, s); });
}

TEST_F(AccessFaultTest, CopyFromFreedMemoryFails) {
  const CUdeviceptr to = words(granularity / 4);
  freed_before(granularity, [&](CUdeviceptr memory, CUstream s) {
    return cuMemcpyDtoDAsync_v2(to, memory, granularity, s);
  });
}

TEST_F(AccessFaultTest, StagedCopyToFreedMemoryFails) {
  const std::uint32_t source[4] = {};
  freed_before(4096, [&](CUdeviceptr memory, CUstream s) {
    return cuMemcpyHtoDAsync_v2(memory, source, sizeof source, s);
  });
}

TEST_F(AccessFaultTest, CopyBetweenAnArrayAndFreedMemoryFails) {
  CUDA_ARRAY_DESCRIPTOR shape{};
  shape.Width = 64;
  shape.Height = 4;
  shape.Format = CU_AD_FORMAT_UNSIGNED_INT32;
  shape.NumChannels = 1;
  CUarray array = nullptr;
  ASSERT_EQ(cuArrayCreate_v2(&array, &shape), CUDA_SUCCESS);
  freed_before(4096, [&](CUdeviceptr memory, CUstream s) {
    CUDA_MEMCPY2D copy{};
    copy.srcMemoryType = CU_MEMORYTYPE_ARRAY;
    copy.srcArray = array;
    copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.dstDevice = memory;
    copy.dstPitch = 256;
    copy.WidthInBytes = 256;
    copy.Height = 4;
    return cuMemcpy2DAsync_v2(&copy, s);
  });
}

TEST_F(AccessFaultTest, HostMemoryThatIsGoneIsAnError) {
  const CUdeviceptr memory = words(granularity / 4);
  void* const host = mmap(nullptr, granularity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(host, MAP_FAILED);
  ASSERT_EQ(mprotect(host, granularity, PROT_NONE), 0);
  EXPECT_EQ(cuMemcpyHtoDAsync_v2(memory, host, 16, stream()), CUDA_ERROR_INVALID_VALUE)
      << "what would be taken along is read at once";
  EXPECT_EQ(cuCtxSynchronize(), CUDA_SUCCESS);
  EXPECT_EQ(cuMemcpyDtoH_v2(host, memory, granularity), CUDA_ERROR_ILLEGAL_ADDRESS);
  expect_lost();
  munmap(host, granularity);
}

TEST_F(AccessFaultTest, RegisteredMemoryThatIsGoneIsAnError) {
  const CUdeviceptr memory = words(granularity / 4);
  void* const host = mmap(nullptr, granularity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(host, MAP_FAILED);
  ASSERT_EQ(cuMemHostRegister_v2(host, granularity, 0), CUDA_SUCCESS);
  ASSERT_EQ(mprotect(host, granularity, PROT_NONE), 0);
  EXPECT_EQ(cuMemcpyHtoDAsync_v2(memory, host, granularity, stream()), CUDA_SUCCESS);
  expect_lost();
  munmap(host, granularity);
}

}  // namespace
}  // namespace softgpu
