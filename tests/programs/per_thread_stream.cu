// Per-thread default streams (compiled with --default-stream per-thread): threads do not wait for one
// another.
#include <atomic>

#include "check.hpp"

#ifndef CUDA_API_PER_THREAD_DEFAULT_STREAM
#error "compile this program with nvcc --default-stream per-thread"
#endif

namespace {

__global__ void set(int* out, int value) {
  *out = value;
}

}  // namespace

int main() {
  int* values = nullptr;
  CUDA_OK(cudaMalloc(&values, 2 * sizeof(int)));
  CUDA_OK(cudaMemset(values, 0, 2 * sizeof(int)));
  set<<<1, 1>>>(values, 0);  // A first launch may load the kernel and wait for the device.
  CUDA_OK(cudaDeviceSynchronize());
  std::atomic<bool> queued{false};
  std::atomic<check::HeldStream*> gate{nullptr};
  std::thread held([&] {
    check::HeldStream held_stream(cudaStreamPerThread);
    gate = &held_stream;
    set<<<1, 1>>>(values, 1);
    queued = true;
    CUDA_OK(cudaStreamSynchronize(cudaStreamPerThread));
  });
  while (!queued) std::this_thread::yield();
  set<<<1, 1>>>(values + 1, 2);
  int seen[2] = {-1, -1};
  CUDA_OK(cudaMemcpyAsync(seen, values, sizeof seen, cudaMemcpyDeviceToHost, cudaStreamPerThread));
  CUDA_OK(cudaStreamSynchronize(cudaStreamPerThread));
  EXPECT(seen[0] == 0 && seen[1] == 2, "before the release: %d %d", seen[0], seen[1]);
  gate.load()->release();
  held.join();
  CUDA_OK(cudaMemcpy(seen, values, sizeof seen, cudaMemcpyDeviceToHost));
  EXPECT(seen[0] == 1 && seen[1] == 2, "after the release: %d %d", seen[0], seen[1]);
  return check::done("per_thread_stream");
}
