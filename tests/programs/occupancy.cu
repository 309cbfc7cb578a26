// Occupancy and function attributes agree with one another and with what the device says of itself.
#include "check.hpp"

namespace {

__global__ void __launch_bounds__(256) modest(float* data) {
  __shared__ float staged[1024];
  staged[threadIdx.x] = data[threadIdx.x];
  __syncthreads();
  data[threadIdx.x] = staged[(threadIdx.x + 1) % 256];
}

__global__ void dynamic(float* data) {
  extern __shared__ float staged[];
  staged[threadIdx.x] = data[threadIdx.x];
}

}  // namespace

int main() {
  cudaDeviceProp device{};
  CUDA_OK(cudaGetDeviceProperties(&device, 0));
  EXPECT(device.warpSize == 32 && device.maxThreadsPerBlock == 1024 && device.multiProcessorCount >= 1,
         "warp %d, %d, %d", device.warpSize, device.maxThreadsPerBlock, device.multiProcessorCount);
  cudaFuncAttributes attributes{};
  CUDA_OK(cudaFuncGetAttributes(&attributes, modest));
  EXPECT(attributes.maxThreadsPerBlock == 256, "%d threads a block", attributes.maxThreadsPerBlock);
  EXPECT(attributes.sharedSizeBytes == 4096, "%zu bytes of shared memory", attributes.sharedSizeBytes);
  EXPECT(attributes.numRegs > 0 && attributes.binaryVersion > 0 && attributes.ptxVersion > 0,
         "%d registers, %d, %d", attributes.numRegs, attributes.binaryVersion, attributes.ptxVersion);
  int blocks = 0;
  CUDA_OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, modest, 256, 0));
  EXPECT(blocks >= 1 && blocks * 256 <= device.maxThreadsPerMultiProcessor, "%d blocks of 256 on %d threads",
         blocks, device.maxThreadsPerMultiProcessor);
  int fewer = 0;
  CUDA_OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&fewer, dynamic, 128, 40 * 1024));
  EXPECT(fewer >= 1 && static_cast<size_t>(fewer) * 40 * 1024 <= device.sharedMemPerMultiprocessor,
         "%d blocks of 40 KiB", fewer);
  int grid = 0;
  int block = 0;
  CUDA_OK(cudaOccupancyMaxPotentialBlockSize(&grid, &block, modest, 0, 0));
  EXPECT(block >= 32 && block <= 256 && grid >= 1, "suggested %d x %d", grid, block);
  float* data = nullptr;
  CUDA_OK(cudaMalloc(&data, 1024 * sizeof(float)));
  modest<<<1, 512>>>(data);  // Beyond the launch bounds.
  const cudaError_t refused = cudaGetLastError();
  EXPECT(refused == cudaErrorInvalidValue || refused == cudaErrorLaunchOutOfResources, "gave %s",
         cudaGetErrorName(refused));
  modest<<<1, 256>>>(data);
  CUDA_OK(cudaDeviceSynchronize());
  return check::done("occupancy");
}
