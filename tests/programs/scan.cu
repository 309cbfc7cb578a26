// Inclusive prefix sums in three kernels: blocks, block sums, offsets.
#include "check.hpp"

namespace {

constexpr int kBlock = 256;

__global__ void scan_blocks(const uint32_t* in, uint32_t* out, uint32_t* sums, int n) {
  __shared__ uint32_t data[2][kBlock];
  const int i = static_cast<int>(blockIdx.x * kBlock + threadIdx.x);
  int from = 0;
  data[0][threadIdx.x] = i < n ? in[i] : 0;
  __syncthreads();
  for (unsigned offset = 1; offset < kBlock; offset <<= 1) {
    const uint32_t before = threadIdx.x >= offset ? data[from][threadIdx.x - offset] : 0;
    data[1 - from][threadIdx.x] = data[from][threadIdx.x] + before;
    from = 1 - from;
    __syncthreads();
  }
  if (i < n) out[i] = data[from][threadIdx.x];
  if (threadIdx.x == kBlock - 1 && sums != nullptr) sums[blockIdx.x] = data[from][threadIdx.x];
}

__global__ void add_offsets(uint32_t* out, const uint32_t* sums, int n) {
  const int i = static_cast<int>(blockIdx.x * kBlock + threadIdx.x);
  if (i < n && blockIdx.x > 0) out[i] += sums[blockIdx.x - 1];
}

}  // namespace

int main() {
  constexpr int kBlocks = 256;
  constexpr int kCount = kBlocks * kBlock - 37;
  check::Random random(3);
  std::vector<uint32_t> in(kCount);
  for (auto& value : in) value = random.next() % 100;
  uint32_t* device_in = nullptr;
  uint32_t* device_out = nullptr;
  uint32_t* sums = nullptr;
  CUDA_OK(cudaMalloc(&device_in, kCount * sizeof(uint32_t)));
  CUDA_OK(cudaMalloc(&device_out, kCount * sizeof(uint32_t)));
  CUDA_OK(cudaMalloc(&sums, kBlocks * sizeof(uint32_t)));
  CUDA_OK(cudaMemcpy(device_in, in.data(), kCount * sizeof(uint32_t), cudaMemcpyHostToDevice));
  scan_blocks<<<kBlocks, kBlock>>>(device_in, device_out, sums, kCount);
  scan_blocks<<<1, kBlock>>>(sums, sums, nullptr, kBlocks);
  add_offsets<<<kBlocks, kBlock>>>(device_out, sums, kCount);
  std::vector<uint32_t> out(kCount);
  CUDA_OK(cudaMemcpy(out.data(), device_out, kCount * sizeof(uint32_t), cudaMemcpyDeviceToHost));
  uint32_t running = 0;
  for (int i = 0; i < kCount; ++i) {
    running += in[i];
    EXPECT(out[i] == running, "prefix %d is %u, wanted %u", i, out[i], running);
  }
  return check::done("scan");
}
