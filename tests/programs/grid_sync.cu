// A cooperative launch: every block sees what all blocks wrote before grid.sync(), several times over.
#include <cooperative_groups.h>

#include "check.hpp"

namespace {

__global__ void rounds(int* values, int* failures, int n) {
  const auto grid = cooperative_groups::this_grid();
  const int i = static_cast<int>(grid.thread_rank());
  for (int round = 1; round <= 5; ++round) {
    if (i < n) values[i] = round * 1000 + i;
    grid.sync();
    const int other = (i + n / 2 + round) % n;
    if (values[other] != round * 1000 + other) atomicAdd(failures, 1);
    grid.sync();
  }
}

}  // namespace

int main() {
  int supported = 0;
  CUDA_OK(cudaDeviceGetAttribute(&supported, cudaDevAttrCooperativeLaunch, 0));
  EXPECT(supported == 1, "the device has no cooperative launch");
  int per_multiprocessor = 0;
  int multiprocessors = 0;
  CUDA_OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, rounds, 128, 0));
  CUDA_OK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
  EXPECT(per_multiprocessor >= 1, "no block of 128 fits a multiprocessor");
  const int blocks = std::min(16, per_multiprocessor * multiprocessors);
  int count = blocks * 128;
  int* values = nullptr;
  int* failures = nullptr;
  CUDA_OK(cudaMalloc(&values, count * sizeof(int)));
  CUDA_OK(cudaMalloc(&failures, sizeof(int)));
  CUDA_OK(cudaMemset(failures, 0, sizeof(int)));
  void* arguments[] = {&values, &failures, &count};
  CUDA_OK(cudaLaunchCooperativeKernel(rounds, dim3(blocks), dim3(128), arguments, 0, nullptr));
  int failed = -1;
  CUDA_OK(cudaMemcpy(&failed, failures, sizeof failed, cudaMemcpyDeviceToHost));
  EXPECT(failed == 0, "%d reads saw old values", failed);
  const dim3 too_many(static_cast<unsigned>(per_multiprocessor * multiprocessors) + 1);
  CUDA_IS(cudaLaunchCooperativeKernel(rounds, too_many, dim3(128), arguments, 0, nullptr),
          cudaErrorCooperativeLaunchTooLarge);
  (void)cudaGetLastError();
  return check::done("grid_sync");
}
