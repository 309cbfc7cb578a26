// A byte histogram with shared-memory atomics, merged with global ones.
#include "check.hpp"

namespace {

__global__ void count_bytes(const uint8_t* data, unsigned* bins, int n) {
  __shared__ unsigned local[256];
  local[threadIdx.x] = 0;
  __syncthreads();
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < static_cast<unsigned>(n);
       i += gridDim.x * blockDim.x) {
    atomicAdd(&local[data[i]], 1U);
  }
  __syncthreads();
  atomicAdd(&bins[threadIdx.x], local[threadIdx.x]);
}

}  // namespace

int main() {
  constexpr int kCount = 600'011;
  check::Random random(23);
  std::vector<uint8_t> data(kCount);
  std::vector<unsigned> wanted(256);
  for (auto& byte : data) {
    byte = static_cast<uint8_t>(random.next() & random.next());  // uneven on purpose
    ++wanted[byte];
  }
  uint8_t* device_data = nullptr;
  unsigned* device_bins = nullptr;
  CUDA_OK(cudaMalloc(&device_data, kCount));
  CUDA_OK(cudaMalloc(&device_bins, 256 * sizeof(unsigned)));
  CUDA_OK(cudaMemcpy(device_data, data.data(), kCount, cudaMemcpyHostToDevice));
  CUDA_OK(cudaMemset(device_bins, 0, 256 * sizeof(unsigned)));
  count_bytes<<<16, 256>>>(device_data, device_bins, kCount);
  std::vector<unsigned> bins(256);
  CUDA_OK(cudaMemcpy(bins.data(), device_bins, 256 * sizeof(unsigned), cudaMemcpyDeviceToHost));
  for (int i = 0; i < 256; ++i)
    EXPECT(bins[i] == wanted[i], "bin %d is %u, wanted %u", i, bins[i], wanted[i]);
  return check::done("histogram");
}
