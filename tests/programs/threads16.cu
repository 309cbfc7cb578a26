// Sixteen threads launch, copy and wait at once, each on memory of its own: half on the default stream, half
// on streams of their own.
#include <atomic>

#include "check.hpp"

namespace {

constexpr int kThreads = 16;
constexpr int kRounds = 30;
constexpr int kCount = 512;

__global__ void advance(unsigned* data, unsigned add) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  data[i] = data[i] * 5 + add;
}

void work(unsigned id) {
  cudaStream_t stream = nullptr;
  if (id % 2 == 1) CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  unsigned* data = nullptr;
  CUDA_OK(cudaMalloc(&data, kCount * sizeof(unsigned)));
  std::vector<unsigned> host(kCount, id);
  std::vector<unsigned> seen(kCount);
  CUDA_OK(cudaMemcpyAsync(data, host.data(), kCount * sizeof(unsigned), cudaMemcpyHostToDevice, stream));
  unsigned wanted = id;
  for (unsigned round = 0; round < kRounds; ++round) {
    advance<<<kCount / 128, 128, 0, stream>>>(data, id * 1000 + round);
    wanted = wanted * 5 + id * 1000 + round;
    if (round % 5 == 4) {
      CUDA_OK(cudaMemcpyAsync(seen.data(), data, kCount * sizeof(unsigned), cudaMemcpyDeviceToHost, stream));
      CUDA_OK(cudaStreamSynchronize(stream));
      for (unsigned value : seen)
        EXPECT(value == wanted, "thread %u round %u: %u, wanted %u", id, round, value, wanted);
    }
  }
  CUDA_OK(cudaFree(data));
  if (stream != nullptr) CUDA_OK(cudaStreamDestroy(stream));
}

}  // namespace

int main() {
  std::vector<std::thread> threads;
  for (unsigned id = 0; id < kThreads; ++id) threads.emplace_back(work, id);
  for (auto& thread : threads) thread.join();
  return check::done("threads16");
}
