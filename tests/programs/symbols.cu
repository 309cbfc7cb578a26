// Constant memory and __device__ variables: initial values, copies to and from symbols, their addresses.
#include "check.hpp"

namespace {

__constant__ float weights[5] = {1.0F, 2.0F, 3.0F, 4.0F, 5.0F};
__device__ int counter = 41;
__device__ unsigned table[256];
__managed__ int shared_value = 5;

__global__ void use(float* out) {
  if (threadIdx.x == 0 && blockIdx.x == 0) {
    for (int i = 0; i < 5; ++i) out[i] = weights[i];
    shared_value += 10;
  }
  atomicAdd(&counter, 1);
  if (blockIdx.x == 0) table[threadIdx.x] = threadIdx.x * 3;
}

}  // namespace

int main() {
  float* out = nullptr;
  CUDA_OK(cudaMalloc(&out, 5 * sizeof(float)));
  float seen[5] = {};
  use<<<2, 256>>>(out);
  CUDA_OK(cudaMemcpy(seen, out, sizeof seen, cudaMemcpyDeviceToHost));
  for (int i = 0; i < 5; ++i)
    EXPECT(seen[i] == static_cast<float>(i + 1), "initial weight %d is %g", i, seen[i]);
  EXPECT(shared_value == 15, "managed variable is %d", shared_value);

  const float changed[2] = {-7.5F, 9.25F};
  CUDA_OK(cudaMemcpyToSymbol(weights, changed, sizeof changed, 2 * sizeof(float)));
  use<<<1, 256>>>(out);
  CUDA_OK(cudaMemcpy(seen, out, sizeof seen, cudaMemcpyDeviceToHost));
  EXPECT(seen[1] == 2.0F && seen[2] == -7.5F && seen[3] == 9.25F && seen[4] == 5.0F, "weights %g %g %g",
         seen[1], seen[2], seen[3]);

  int count = 0;
  CUDA_OK(cudaMemcpyFromSymbol(&count, counter, sizeof count));
  EXPECT(count == 41 + 3 * 256, "counter is %d", count);
  count = 1000;
  CUDA_OK(cudaMemcpyToSymbol(counter, &count, sizeof count));
  use<<<1, 256>>>(out);
  void* address = nullptr;
  size_t size = 0;
  CUDA_OK(cudaGetSymbolAddress(&address, counter));
  CUDA_OK(cudaGetSymbolSize(&size, counter));
  EXPECT(size == sizeof(int), "size of the symbol is %zu", size);
  CUDA_OK(cudaMemcpy(&count, address, sizeof count, cudaMemcpyDeviceToHost));
  EXPECT(count == 1256, "counter after the copy is %d", count);

  unsigned rows[256];
  CUDA_OK(cudaMemcpyFromSymbol(rows, table, sizeof rows));
  for (unsigned i = 0; i < 256; ++i) EXPECT(rows[i] == 3 * i, "table[%u] is %u", i, rows[i]);
  return check::done("symbols");
}
