// Recursive device functions and calls through function pointers.
#include "check.hpp"

namespace {

__device__ __noinline__ unsigned ackermann(unsigned m, unsigned n) {
  if (m == 0) return n + 1;
  if (n == 0) return ackermann(m - 1, 1);
  return ackermann(m - 1, ackermann(m, n - 1));
}

__device__ __noinline__ int fibonacci(int n) {
  return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

using Operation = int (*)(int, int);
__device__ __noinline__ int plus(int a, int b) {
  return a + b;
}
__device__ __noinline__ int times(int a, int b) {
  return a * b;
}
__device__ Operation operations[2] = {plus, times};

__global__ void run(int* out) {
  const int lane = static_cast<int>(threadIdx.x);
  out[lane] = fibonacci(lane % 12);
  out[64 + lane] = static_cast<int>(ackermann(2, static_cast<unsigned>(lane % 4)));
  out[128 + lane] = operations[lane % 2](lane, 7);
}

int host_fibonacci(int n) {
  return n < 2 ? n : host_fibonacci(n - 1) + host_fibonacci(n - 2);
}

}  // namespace

int main() {
  int* device_out = nullptr;
  CUDA_OK(cudaMalloc(&device_out, 192 * sizeof(int)));
  CUDA_OK(cudaDeviceSetLimit(cudaLimitStackSize, 16 * 1024));
  run<<<1, 64>>>(device_out);
  std::vector<int> out(192);
  CUDA_OK(cudaMemcpy(out.data(), device_out, out.size() * sizeof(int), cudaMemcpyDeviceToHost));
  for (int lane = 0; lane < 64; ++lane) {
    EXPECT(out[lane] == host_fibonacci(lane % 12), "fibonacci(%d) is %d", lane % 12, out[lane]);
    EXPECT(out[64 + lane] == 2 * (lane % 4) + 3, "ackermann(2, %d) is %d", lane % 4, out[64 + lane]);
    EXPECT(out[128 + lane] == (lane % 2 == 0 ? lane + 7 : lane * 7), "function pointer of lane %d gave %d",
           lane, out[128 + lane]);
  }
  return check::done("recursion");
}
