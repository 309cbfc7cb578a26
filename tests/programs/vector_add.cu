// c = a + b over a size that is no multiple of the block.
#include "check.hpp"

namespace {

__global__ void add(const float* a, const float* b, float* c, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) c[i] = a[i] + b[i];
}

}  // namespace

int main() {
  constexpr int kCount = 1'000'003;
  constexpr size_t kBytes = kCount * sizeof(float);
  check::Random random(7);
  std::vector<float> a(kCount);
  std::vector<float> b(kCount);
  std::vector<float> c(kCount, -1.0F);
  for (int i = 0; i < kCount; ++i) {
    a[i] = random.unit();
    b[i] = random.unit() * 100.0F;
  }
  float* device_a = nullptr;
  float* device_b = nullptr;
  float* device_c = nullptr;
  CUDA_OK(cudaMalloc(&device_a, kBytes));
  CUDA_OK(cudaMalloc(&device_b, kBytes));
  CUDA_OK(cudaMalloc(&device_c, kBytes));
  CUDA_OK(cudaMemcpy(device_a, a.data(), kBytes, cudaMemcpyHostToDevice));
  CUDA_OK(cudaMemcpy(device_b, b.data(), kBytes, cudaMemcpyHostToDevice));
  add<<<(kCount + 255) / 256, 256>>>(device_a, device_b, device_c, kCount);
  CUDA_OK(cudaGetLastError());
  CUDA_OK(cudaMemcpy(c.data(), device_c, kBytes, cudaMemcpyDeviceToHost));
  for (int i = 0; i < kCount; ++i) {
    EXPECT(c[i] == a[i] + b[i], "element %d is %g, wanted %g", i, c[i], a[i] + b[i]);
  }
  CUDA_OK(cudaFree(device_a));
  CUDA_OK(cudaFree(device_b));
  CUDA_OK(cudaFree(device_c));
  return check::done("vector_add");
}
