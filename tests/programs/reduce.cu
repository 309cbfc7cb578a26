// Sums by warp shuffles, shared memory and one atomic a block; integers exactly, floats within rounding.
#include "check.hpp"

namespace {

template <typename T>
__global__ void sum(const T* in, T* out, int n) {
  __shared__ T partial[32];
  T value = 0;
  for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < static_cast<unsigned>(n);
       i += gridDim.x * blockDim.x) {
    value += in[i];
  }
  for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_down_sync(0xffffffffU, value, offset);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x < 32) {
    value = threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : T(0);
    for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_xor_sync(0xffffffffU, value, offset);
    if (threadIdx.x == 0) atomicAdd(out, value);
  }
}

template <typename T>
T on_device(const std::vector<T>& in) {
  T* device_in = nullptr;
  T* device_out = nullptr;
  CUDA_OK(cudaMalloc(&device_in, in.size() * sizeof(T)));
  CUDA_OK(cudaMalloc(&device_out, sizeof(T)));
  CUDA_OK(cudaMemcpy(device_in, in.data(), in.size() * sizeof(T), cudaMemcpyHostToDevice));
  CUDA_OK(cudaMemset(device_out, 0, sizeof(T)));
  sum<<<24, 256>>>(device_in, device_out, static_cast<int>(in.size()));
  T out = 0;
  CUDA_OK(cudaMemcpy(&out, device_out, sizeof out, cudaMemcpyDeviceToHost));
  CUDA_OK(cudaFree(device_in));
  CUDA_OK(cudaFree(device_out));
  return out;
}

}  // namespace

int main() {
  constexpr int kCount = 700'001;
  check::Random random(11);
  std::vector<int> ints(kCount);
  std::vector<unsigned long long> longs(kCount);
  std::vector<float> floats(kCount);
  std::vector<double> doubles(kCount);
  int int_sum = 0;
  unsigned long long long_sum = 0;
  double float_sum = 0;
  for (int i = 0; i < kCount; ++i) {
    ints[i] = static_cast<int>(random.next() % 2001) - 1000;
    longs[i] = static_cast<unsigned long long>(random.next()) << 20;
    floats[i] = random.unit();
    doubles[i] = floats[i];
    int_sum += ints[i];
    long_sum += longs[i];
    float_sum += floats[i];
  }
  EXPECT(on_device(ints) == int_sum, "integer sum differs");
  EXPECT(on_device(longs) == long_sum, "64-bit sum differs");
  const float device_float = on_device(floats);
  EXPECT(check::near(device_float, float_sum, 1e-4), "float sum %g, wanted %g", device_float, float_sum);
  const double device_double = on_device(doubles);
  EXPECT(check::near(device_double, float_sum, 1e-10), "double sum %.12g, wanted %.12g", device_double,
         float_sum);
  return check::done("reduce");
}
