// Streams that overlap and events that order them: a stream held up by the host does not hold up another one,
// waits across streams are kept, and event times are sensible.
#include <atomic>

#include "check.hpp"

namespace {

__global__ void step(unsigned* data, int n, unsigned factor, unsigned add) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) data[i] = data[i] * factor + add;
}

constexpr int kCount = 10'000;
constexpr int kBlocks = (kCount + 127) / 128;

}  // namespace

int main() {
  unsigned* data[2] = {};
  cudaStream_t streams[2] = {};
  for (int s = 0; s < 2; ++s) {
    CUDA_OK(cudaMalloc(&data[s], kCount * sizeof(unsigned)));
    CUDA_OK(cudaMemset(data[s], 0, kCount * sizeof(unsigned)));
    CUDA_OK(cudaStreamCreateWithFlags(&streams[s], cudaStreamNonBlocking));
  }
  step<<<kBlocks, 128>>>(data[0], kCount, 1,
                         0);  // A first launch may load the kernel and wait for the device.
  CUDA_OK(cudaDeviceSynchronize());

  // Overlap: stream 0 stands behind a host function until stream 1 has finished.
  cudaEvent_t held = nullptr;
  CUDA_OK(cudaEventCreateWithFlags(&held, cudaEventDisableTiming));
  check::HeldStream held_stream(streams[0]);
  step<<<kBlocks, 128, 0, streams[0]>>>(data[0], kCount, 1, 5);
  CUDA_OK(cudaEventRecord(held, streams[0]));
  step<<<kBlocks, 128, 0, streams[1]>>>(data[1], kCount, 1, 7);
  CUDA_OK(cudaStreamSynchronize(streams[1]));
  CUDA_IS(cudaEventQuery(held), cudaErrorNotReady);
  CUDA_IS(cudaStreamQuery(streams[0]), cudaErrorNotReady);
  held_stream.release();
  CUDA_OK(cudaEventSynchronize(held));
  CUDA_OK(cudaStreamQuery(streams[0]));

  // Order across streams: a ping-pong chain of dependent steps on one buffer.
  cudaEvent_t turns[2] = {};
  for (auto& turn : turns) CUDA_OK(cudaEventCreateWithFlags(&turn, cudaEventDisableTiming));
  unsigned wanted = 5;
  for (int i = 0; i < 20; ++i) {
    const int s = i % 2;
    if (i > 0) CUDA_OK(cudaStreamWaitEvent(streams[s], turns[1 - s]));
    step<<<kBlocks, 128, 0, streams[s]>>>(data[0], kCount, 3, static_cast<unsigned>(i));
    CUDA_OK(cudaEventRecord(turns[s], streams[s]));
    wanted = wanted * 3 + static_cast<unsigned>(i);
  }
  CUDA_OK(cudaStreamSynchronize(streams[1]));
  std::vector<unsigned> seen(kCount);
  CUDA_OK(cudaMemcpy(seen.data(), data[0], kCount * sizeof(unsigned), cudaMemcpyDeviceToHost));
  for (int i = 0; i < kCount; ++i)
    EXPECT(seen[i] == wanted, "element %d is %u, wanted %u", i, seen[i], wanted);

  // Times: positive, and the sum of two spans is the whole.
  cudaEvent_t marks[3] = {};
  for (auto& mark : marks) CUDA_OK(cudaEventCreate(&mark));
  CUDA_OK(cudaEventRecord(marks[0], streams[0]));
  for (int i = 0; i < 10; ++i) step<<<kBlocks, 128, 0, streams[0]>>>(data[0], kCount, 3, 1);
  CUDA_OK(cudaEventRecord(marks[1], streams[0]));
  for (int i = 0; i < 10; ++i) step<<<kBlocks, 128, 0, streams[0]>>>(data[0], kCount, 3, 1);
  CUDA_OK(cudaEventRecord(marks[2], streams[0]));
  CUDA_OK(cudaEventSynchronize(marks[2]));
  float first = -1;
  float second = -1;
  float whole = -1;
  CUDA_OK(cudaEventElapsedTime(&first, marks[0], marks[1]));
  CUDA_OK(cudaEventElapsedTime(&second, marks[1], marks[2]));
  CUDA_OK(cudaEventElapsedTime(&whole, marks[0], marks[2]));
  EXPECT(first > 0 && second > 0 && std::fabs(first + second - whole) < 0.01F, "spans %g + %g, whole %g",
         first, second, whole);
  CUDA_IS(cudaEventElapsedTime(&first, held, marks[0]), cudaErrorInvalidResourceHandle);
  // What is no event or executable graph is an error of the call itself, and of no later one.
  CUDA_IS(cudaEventRecord(nullptr, streams[0]), cudaErrorInvalidResourceHandle);
  CUDA_IS(cudaStreamWaitEvent(streams[0], nullptr), cudaErrorInvalidResourceHandle);
  DRV_IS(cuEventRecord(reinterpret_cast<CUevent>(streams[0]), streams[0]), CUDA_ERROR_INVALID_HANDLE);
  DRV_IS(cuGraphLaunch(nullptr, streams[0]), CUDA_ERROR_INVALID_VALUE);
  CUDA_OK(cudaDeviceSynchronize());
  int least = 1;
  int greatest = 1;
  CUDA_OK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  EXPECT(greatest <= least, "priorities %d to %d", least, greatest);
  for (auto& stream : streams) CUDA_OK(cudaStreamDestroy(stream));
  for (auto& mark : marks) CUDA_OK(cudaEventDestroy(mark));
  return check::done("streams_events");
}
