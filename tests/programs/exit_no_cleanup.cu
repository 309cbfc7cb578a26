// Ends with work in flight and everything still allocated: by return (default), `_exit`, or a thread that
// still launches. The process must end promptly and with status 0.
#include <unistd.h>

#include "check.hpp"

namespace {

__global__ void work(unsigned* data, int rounds) {
  unsigned value = threadIdx.x;
  for (int i = 0; i < rounds; ++i) value = value * 1664525U + 1013904223U;
  data[blockIdx.x * blockDim.x + threadIdx.x] = value;
}

}  // namespace

int main(int argc, char** argv) {
  const char* mode = argc > 1 ? argv[1] : "return";
  unsigned* data = nullptr;
  void* pinned = nullptr;
  cudaStream_t stream = nullptr;
  cudaEvent_t event = nullptr;
  CUDA_OK(cudaMalloc(&data, 1U << 20U));
  CUDA_OK(cudaMallocHost(&pinned, 1U << 20U));
  CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CUDA_OK(cudaEventCreate(&event));
  for (int i = 0; i < 20; ++i) work<<<16, 256, 0, stream>>>(data, 500);
  CUDA_OK(cudaMemcpyAsync(pinned, data, 16384, cudaMemcpyDeviceToHost, stream));
  CUDA_OK(cudaEventRecord(event, stream));
  if (std::strcmp(mode, "_exit") == 0) _exit(0);
  return check::done("exit_no_cleanup");
}
