// After a device reset variables have their first values.
#include "check.hpp"

namespace {

__constant__ float weights[2] = {1.0F, 2.0F};
__device__ int counter = 41;

__global__ void use(float* out) {
  out[0] = weights[0];
  out[1] = weights[1];
  counter += 1;
}

void expect_first_values() {
  float* out = nullptr;
  CUDA_OK(cudaMalloc(&out, 2 * sizeof(float)));
  use<<<1, 1>>>(out);
  float seen[2] = {};
  CUDA_OK(cudaMemcpy(seen, out, sizeof seen, cudaMemcpyDeviceToHost));
  EXPECT(seen[0] == 1.0F && seen[1] == 2.0F, "the weights are %g %g", seen[0], seen[1]);
  int count = 0;
  CUDA_OK(cudaMemcpyFromSymbol(&count, counter, sizeof count));
  EXPECT(count == 42, "the counter is %d", count);
}

}  // namespace

int main() {
  expect_first_values();
  const float changed[2] = {-7.5F, 9.25F};
  CUDA_OK(cudaMemcpyToSymbol(weights, changed, sizeof changed));
  CUDA_OK(cudaDeviceReset());
  expect_first_values();
  return check::done("reset_variables");
}
