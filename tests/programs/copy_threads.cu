// Eight threads copy pageable memory there and back at once, each more than a small arena holds, on streams
// of their own: copies that share the room for staging must neither mix nor hold each other up for ever.
#include "check.hpp"

namespace {

constexpr int kThreads = 8;
constexpr int kRounds = 4;
constexpr size_t kWords = (3U << 20U) / sizeof(unsigned) + 17;

__global__ void add(unsigned* data, size_t count, unsigned what) {
  for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
    data[i] += what;
}

void work(unsigned id) {
  cudaStream_t stream = nullptr;
  CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  unsigned* device = nullptr;
  CUDA_OK(cudaMalloc(&device, kWords * sizeof(unsigned)));
  std::vector<unsigned> up(kWords);
  std::vector<unsigned> down(kWords);
  for (unsigned round = 0; round < kRounds; ++round) {
    for (size_t i = 0; i < kWords; ++i) up[i] = static_cast<unsigned>(i) * 2654435761U + id * 31 + round;
    CUDA_OK(cudaMemcpyAsync(device, up.data(), kWords * sizeof(unsigned), cudaMemcpyHostToDevice, stream));
    add<<<8, 128, 0, stream>>>(device, kWords, id + round);
    CUDA_OK(cudaMemcpyAsync(down.data(), device, kWords * sizeof(unsigned), cudaMemcpyDeviceToHost, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
    size_t wrong = 0;
    for (size_t i = 0; i < kWords; ++i) wrong += down[i] != up[i] + id + round;
    EXPECT(wrong == 0, "thread %u round %u: %zu words differ", id, round, wrong);
  }
  CUDA_OK(cudaFree(device));
  CUDA_OK(cudaStreamDestroy(stream));
}

}  // namespace

int main() {
  std::vector<std::thread> threads;
  for (unsigned id = 0; id < kThreads; ++id) threads.emplace_back(work, id);
  for (auto& thread : threads) thread.join();
  return check::done("copy_threads");
}
