// Virtual memory management as pools use it: reserve a large range, map pieces one after another, use them as
// one, unmap and give back.
#include "check.hpp"

namespace {

__global__ void fill(unsigned* data, size_t count, unsigned seed) {
  for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
    data[i] = static_cast<unsigned>(i) * 7U + seed;
  }
}

}  // namespace

int main() {
  CUDA_OK(cudaFree(nullptr));
  CUdevice device = 0;
  DRV_OK(cuDeviceGet(&device, 0));
  int supported = 0;
  DRV_OK(cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, device));
  EXPECT(supported == 1, "the device has no virtual memory management");
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = device;
  size_t granularity = 0;
  DRV_OK(cuMemGetAllocationGranularity(&granularity, &properties, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED));
  EXPECT(granularity >= 4096 && (granularity & (granularity - 1)) == 0, "granularity %zu", granularity);
  size_t free_before = 0;
  size_t total = 0;
  DRV_OK(cuMemGetInfo(&free_before, &total));

  CUdeviceptr base = 0;
  const size_t reserved = size_t{8} << 30U;  // Address space only: far more than is mapped.
  DRV_OK(cuMemAddressReserve(&base, reserved, 0, 0, 0));
  EXPECT(base % granularity == 0, "the range starts at 0x%llx", base);
  const size_t piece =
      (size_t{1} << 20U) > granularity ? (size_t{1} << 20U) / granularity * granularity : granularity;
  CUmemAccessDesc access{};
  access.location = properties.location;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  // Memory that could be exported is memory like any other: pools ask for it and never export it.
  properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  CUmemGenericAllocationHandle handles[3] = {};
  for (int i = 0; i < 3; ++i) {
    DRV_OK(cuMemCreate(&handles[i], piece, &properties, 0));
    DRV_OK(cuMemMap(base + i * piece, piece, 0, handles[i], 0));
    DRV_OK(cuMemSetAccess(base + i * piece, piece, &access, 1));
  }
  size_t free_now = 0;
  DRV_OK(cuMemGetInfo(&free_now, &total));
  EXPECT(free_before >= free_now + 3 * piece, "free memory fell by %zu only", free_before - free_now);
  const size_t count = 3 * piece / sizeof(unsigned);
  auto* data = reinterpret_cast<unsigned*>(base);
  fill<<<32, 128>>>(data, count, 9);
  CUDA_OK(cudaDeviceSynchronize());
  std::vector<unsigned> seen(count);
  CUDA_OK(cudaMemcpy(seen.data(), data, count * sizeof(unsigned), cudaMemcpyDeviceToHost));
  for (size_t i = 0; i < count; ++i) EXPECT(seen[i] == i * 7U + 9U, "element %zu is %u", i, seen[i]);

  // Map the first piece's memory a second time: both views are one memory.
  CUdeviceptr alias = 0;
  DRV_OK(cuMemAddressReserve(&alias, piece, 0, 0, 0));
  DRV_OK(cuMemMap(alias, piece, 0, handles[0], 0));
  DRV_OK(cuMemSetAccess(alias, piece, &access, 1));
  DRV_OK(cuMemsetD32(alias, 0x55aa55aa, 4));
  unsigned word = 0;
  DRV_OK(cuMemcpyDtoH(&word, base + 12, 4));
  EXPECT(word == 0x55aa55aa, "through the alias: 0x%x", word);
  // The memory behind an address, by a handle of its own.
  CUmemGenericAllocationHandle behind = 0;
  DRV_OK(cuMemRetainAllocationHandle(&behind, reinterpret_cast<void*>(base + 2 * piece + 64)));
  CUmemAllocationProp told{};
  DRV_OK(cuMemGetAllocationPropertiesFromHandle(&told, behind));
  EXPECT(told.location.type == CU_MEM_LOCATION_TYPE_DEVICE && told.location.id == device,
         "the memory is said to lie on device %d", told.location.id);
  DRV_OK(cuMemRelease(behind));
  DRV_IS(cuMemRetainAllocationHandle(&behind, &word), CUDA_ERROR_INVALID_VALUE);
  CUmemAllocationProp elsewhere = properties;
  elsewhere.location.id = 99;
  EXPECT(cuMemCreate(&behind, piece, &elsewhere, 0) != CUDA_SUCCESS, "memory on device 99");
  DRV_OK(cuMemUnmap(alias, piece));
  DRV_OK(cuMemAddressFree(alias, piece));

  for (int i = 0; i < 3; ++i) {
    DRV_OK(cuMemUnmap(base + i * piece, piece));
    DRV_OK(cuMemRelease(handles[i]));
  }
  DRV_OK(cuMemAddressFree(base, reserved));
  DRV_OK(cuMemGetInfo(&free_now, &total));
  EXPECT(free_now >= free_before, "%zu bytes not given back", free_before - free_now);
  return check::done("vmm");
}
