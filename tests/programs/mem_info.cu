// cudaMemGetInfo follows allocations and frees; freed memory is reused; odd requests fail as they should.
#include "check.hpp"

int main() {
  size_t before = 0;
  size_t total = 0;
  CUDA_OK(cudaMemGetInfo(&before, &total));
  cudaDeviceProp properties{};
  CUDA_OK(cudaGetDeviceProperties(&properties, 0));
  EXPECT(before > 0 && before <= total && total <= properties.totalGlobalMem, "%zu of %zu, device %zu",
         before, total, properties.totalGlobalMem);
  constexpr size_t kSize = 48U << 20U;
  void* memory = nullptr;
  CUDA_OK(cudaMalloc(&memory, kSize));
  EXPECT(reinterpret_cast<uintptr_t>(memory) % 256 == 0, "%p is not aligned", memory);
  size_t during = 0;
  CUDA_OK(cudaMemGetInfo(&during, &total));
  EXPECT(during + kSize <= before, "free fell by %zu, allocated %zu", before - during, kSize);
  CUDA_OK(cudaFree(memory));
  size_t after = 0;
  CUDA_OK(cudaMemGetInfo(&after, &total));
  EXPECT(after >= during + kSize, "free rose by %zu, freed %zu", after - during, kSize);
  for (int i = 0; i < 200; ++i) {  // 200 x 48 MB only fits if freed memory is reused.
    CUDA_OK(cudaMalloc(&memory, kSize));
    CUDA_OK(cudaFree(memory));
  }
  CUDA_OK(cudaMalloc(&memory, 0));
  EXPECT(memory == nullptr, "an allocation of nothing gave %p", memory);
  CUDA_OK(cudaFree(nullptr));
  CUDA_IS(cudaFree(reinterpret_cast<void*>(0x1234567)), cudaErrorInvalidValue);
  (void)cudaGetLastError();
  char* range = nullptr;
  CUDA_OK(cudaMalloc(&range, 1000));
  CUdeviceptr base = 0;
  size_t size = 0;
  DRV_OK(cuMemGetAddressRange(&base, &size, reinterpret_cast<CUdeviceptr>(range) + 500));
  EXPECT(base == reinterpret_cast<CUdeviceptr>(range) && size == 1000, "range 0x%llx of %zu", base, size);
  CUDA_OK(cudaFree(range));
  return check::done("mem_info");
}
