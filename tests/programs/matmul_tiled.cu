// A tiled matrix product through shared memory, against the same product on the CPU.
#include "check.hpp"

namespace {

constexpr int kTile = 16;

__global__ void multiply(const float* a, const float* b, float* c, int m, int n, int k) {
  __shared__ float tile_a[kTile][kTile];
  __shared__ float tile_b[kTile][kTile];
  const int row = static_cast<int>(blockIdx.y * kTile + threadIdx.y);
  const int column = static_cast<int>(blockIdx.x * kTile + threadIdx.x);
  float sum = 0;
  for (int start = 0; start < k; start += kTile) {
    const int at_a = start + static_cast<int>(threadIdx.x);
    const int at_b = start + static_cast<int>(threadIdx.y);
    tile_a[threadIdx.y][threadIdx.x] = row < m && at_a < k ? a[row * k + at_a] : 0.0F;
    tile_b[threadIdx.y][threadIdx.x] = at_b < k && column < n ? b[at_b * n + column] : 0.0F;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kTile; ++i) sum += tile_a[threadIdx.y][i] * tile_b[i][threadIdx.x];
    __syncthreads();
  }
  if (row < m && column < n) c[row * n + column] = sum;
}

}  // namespace

int main() {
  constexpr int kM = 200;
  constexpr int kN = 170;
  constexpr int kK = 130;
  check::Random random(5);
  std::vector<float> a(kM * kK);
  std::vector<float> b(kK * kN);
  for (auto& value : a) value = random.unit() - 0.5F;
  for (auto& value : b) value = random.unit() - 0.5F;
  float* device_a = nullptr;
  float* device_b = nullptr;
  float* device_c = nullptr;
  CUDA_OK(cudaMalloc(&device_a, a.size() * sizeof(float)));
  CUDA_OK(cudaMalloc(&device_b, b.size() * sizeof(float)));
  CUDA_OK(cudaMalloc(&device_c, kM * kN * sizeof(float)));
  CUDA_OK(cudaMemcpy(device_a, a.data(), a.size() * sizeof(float), cudaMemcpyHostToDevice));
  CUDA_OK(cudaMemcpy(device_b, b.data(), b.size() * sizeof(float), cudaMemcpyHostToDevice));
  const dim3 grid((kN + kTile - 1) / kTile, (kM + kTile - 1) / kTile);
  multiply<<<grid, dim3(kTile, kTile)>>>(device_a, device_b, device_c, kM, kN, kK);
  std::vector<float> c(kM * kN);
  CUDA_OK(cudaMemcpy(c.data(), device_c, c.size() * sizeof(float), cudaMemcpyDeviceToHost));
  for (int row = 0; row < kM; ++row) {
    for (int column = 0; column < kN; ++column) {
      double wanted = 0;
      for (int i = 0; i < kK; ++i) wanted += static_cast<double>(a[row * kK + i]) * b[i * kN + column];
      EXPECT(check::near(c[row * kN + column], wanted, 1e-4), "c[%d][%d] is %g, wanted %g", row, column,
             c[row * kN + column], wanted);
    }
  }
  return check::done("matmul_tiled");
}
