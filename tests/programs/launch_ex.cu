// cudaLaunchKernelEx: attributes (cooperative, priority), and launches that must be refused at once.
#include <cooperative_groups.h>

#include "check.hpp"

namespace {

__global__ void fill(int* out, int value, double scale) {
  cooperative_groups::this_grid().sync();
  out[blockIdx.x * blockDim.x + threadIdx.x] =
      static_cast<int>(value * scale) + static_cast<int>(threadIdx.x);
}

__global__ void plain(int* out) {
  out[threadIdx.x] = static_cast<int>(threadIdx.x);
}

}  // namespace

int main() {
  int* out = nullptr;
  CUDA_OK(cudaMalloc(&out, 256 * sizeof(int)));
  cudaStream_t stream = nullptr;
  CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeCooperative;
  attributes[0].val.cooperative = 1;
  attributes[1].id = cudaLaunchAttributePriority;
  attributes[1].val.priority = 0;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(2);
  config.blockDim = dim3(128);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  CUDA_OK(cudaLaunchKernelEx(&config, fill, out, 21, 2.0));
  CUDA_OK(cudaStreamSynchronize(stream));
  int seen[256];
  CUDA_OK(cudaMemcpy(seen, out, sizeof seen, cudaMemcpyDeviceToHost));
  for (int i = 0; i < 256; ++i) EXPECT(seen[i] == 42 + i % 128, "element %d is %d", i, seen[i]);

  plain<<<1, 2048>>>(out);
  cudaError_t refused = cudaGetLastError();
  EXPECT(refused == cudaErrorInvalidConfiguration || refused == cudaErrorInvalidValue, "2048 threads gave %s",
         cudaGetErrorName(refused));
  plain<<<0, 32>>>(out);
  refused = cudaGetLastError();
  EXPECT(refused == cudaErrorInvalidConfiguration || refused == cudaErrorInvalidValue,
         "an empty grid gave %s", cudaGetErrorName(refused));
  plain<<<1, 32>>>(out);
  CUDA_OK(cudaGetLastError());
  CUDA_OK(cudaDeviceSynchronize());
  CUDA_OK(cudaStreamDestroy(stream));
  return check::done("launch_ex");
}
