// Stream-ordered allocation: default pool, a pool of one's own, attributes, trimming, use across streams.
#include "check.hpp"

namespace {

__global__ void fill(int* data, int n, int value) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) data[i] = value + i;
}

}  // namespace

int main() {
  int supported = 0;
  CUDA_OK(cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported, 0));
  EXPECT(supported == 1, "the device has no memory pools");
  cudaStream_t stream = nullptr;
  CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CUDA_OK(cudaFreeAsync(nullptr, stream));
  void* nothing = stream;
  CUDA_OK(cudaMallocAsync(&nothing, 0, stream));
  EXPECT(nothing == nullptr, "no bytes at %p", nothing);
  constexpr int kCount = 5000;
  std::vector<int> seen(kCount);
  for (int round = 0; round < 20; ++round) {
    int* data = nullptr;
    CUDA_OK(cudaMallocAsync(&data, kCount * sizeof(int), stream));
    fill<<<(kCount + 127) / 128, 128, 0, stream>>>(data, kCount, round);
    CUDA_OK(cudaMemcpyAsync(seen.data(), data, kCount * sizeof(int), cudaMemcpyDeviceToHost, stream));
    CUDA_OK(cudaFreeAsync(data, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
    for (int i = 0; i < kCount; ++i)
      EXPECT(seen[i] == round + i, "round %d: element %d is %d", round, i, seen[i]);
  }
  cudaMemPool_t pool = nullptr;
  CUDA_OK(cudaDeviceGetDefaultMemPool(&pool, 0));
  uint64_t threshold = 1U << 20U;
  CUDA_OK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
  uint64_t read_back = 0;
  CUDA_OK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &read_back));
  EXPECT(read_back == threshold, "threshold is %llu", static_cast<unsigned long long>(read_back));
  CUDA_OK(cudaMemPoolTrimTo(pool, 0));

#if CUDART_VERSION >= 13000
  // The same pools by where they are.
  cudaMemLocation here{};
  here.type = cudaMemLocationTypeDevice;
  cudaMemPool_t named = nullptr;
  CUDA_OK(cudaMemGetDefaultMemPool(&named, &here, cudaMemAllocationTypePinned));
  EXPECT(named == pool, "another default pool");
#endif

  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = 0;
  cudaMemPool_t own = nullptr;
  CUDA_OK(cudaMemPoolCreate(&own, &properties));
#if CUDART_VERSION >= 13000
  CUDA_OK(cudaMemSetMemPool(&here, cudaMemAllocationTypePinned, own));
  CUDA_OK(cudaDeviceGetMemPool(&named, 0));
  EXPECT(named == own, "the current pool is another than the one set");
  CUDA_OK(cudaDeviceSetMemPool(0, pool));
  CUDA_OK(cudaMemGetMemPool(&named, &here, cudaMemAllocationTypePinned));
  EXPECT(named == pool, "the current pool is another than the one set for the device");
#endif
  // Memory of a stream is of the pool that is the device's at the time.
  CUDA_OK(cudaDeviceSetMemPool(0, own));
  void* current = nullptr;
  CUDA_OK(cudaMallocAsync(&current, 4096, stream));
  CUDA_OK(cudaDeviceSetMemPool(0, pool));
  CUmemoryPool owner = nullptr;
  DRV_OK(cuPointerGetAttribute(&owner, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE,
                               reinterpret_cast<CUdeviceptr>(current)));
  EXPECT(owner == own, "the memory is said to be of another pool than the current one");
  CUDA_OK(cudaFreeAsync(current, stream));
  CUDA_OK(cudaStreamSynchronize(stream));
  int* data = nullptr;
  CUDA_OK(cudaMallocFromPoolAsync(&data, kCount * sizeof(int), own, stream));
  fill<<<(kCount + 127) / 128, 128, 0, stream>>>(data, kCount, 70);
  uint64_t used = 0;
  CUDA_OK(cudaStreamSynchronize(stream));
  CUDA_OK(cudaMemPoolGetAttribute(own, cudaMemPoolAttrUsedMemCurrent, &used));
  EXPECT(used >= kCount * sizeof(int), "the pool counts %llu bytes", static_cast<unsigned long long>(used));
  CUDA_OK(cudaMemcpy(seen.data(), data, kCount * sizeof(int), cudaMemcpyDeviceToHost));
  EXPECT(seen[kCount - 1] == 70 + kCount - 1, "from the own pool: %d", seen[kCount - 1]);
  CUDA_OK(cudaFreeAsync(data, stream));
  CUDA_OK(cudaStreamSynchronize(stream));
  CUDA_OK(cudaMemPoolDestroy(own));
  return check::done("malloc_async");
}
