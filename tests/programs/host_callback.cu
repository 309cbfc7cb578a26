// Host functions and stream callbacks run once each, in stream order, with the data of the work before them.
#include <atomic>

#include "check.hpp"

namespace {

__global__ void write(int* mapped, int value) {
  *mapped = value;
}

struct Note {
  const volatile int* value;
  std::vector<int>* seen;
};

void read_value(void* argument) {
  const auto* note = static_cast<const Note*>(argument);
  const int value = *note->value;
  note->seen->push_back(value);
}

__global__ void compute(int* out, int rounds) {
  unsigned x = 1;
  for (int i = 0; i < rounds; ++i) x = x * 1664525u + 1013904223u;
  *out = static_cast<int>(x);
}

// Memory is freed while a kernel runs, and work that waits for the program comes after it: what the program
// asks next must not wait for that work.
void free_before_held_work(cudaStream_t stream) {
  int* scratch = nullptr;
  CUDA_OK(cudaMalloc(&scratch, sizeof(int)));
  compute<<<1, 1, 0, stream>>>(scratch, 1000000);
  CUDA_OK(cudaFree(scratch));
  check::HeldStream held(stream);
  const double end = check::seconds() + 1.0;
  while (check::seconds() < end) CUDA_IS(cudaStreamQuery(stream), cudaErrorNotReady);
  held.release();
  CUDA_OK(cudaStreamSynchronize(stream));
}

void CUDART_CB on_callback(cudaStream_t, cudaError_t status, void* argument) {
  if (status == cudaSuccess) static_cast<std::atomic<int>*>(argument)->fetch_add(1);
}

}  // namespace

int main() {
  int* mapped = nullptr;
  CUDA_OK(cudaHostAlloc(&mapped, sizeof(int), cudaHostAllocMapped));
  cudaStream_t stream = nullptr;
  CUDA_OK(cudaStreamCreate(&stream));
  std::vector<int> seen;
  Note note{mapped, &seen};
  std::atomic<int> callbacks{0};
  constexpr int kRounds = 100;
  for (int i = 0; i < kRounds; ++i) {
    write<<<1, 1, 0, stream>>>(mapped, i);
    CUDA_OK(cudaLaunchHostFunc(stream, read_value, &note));
    if (i % 10 == 0) CUDA_OK(cudaStreamAddCallback(stream, on_callback, &callbacks, 0));
  }
  CUDA_OK(cudaStreamSynchronize(stream));
  EXPECT(seen.size() == kRounds, "%zu host functions ran", seen.size());
  for (int i = 0; i < kRounds; ++i) EXPECT(seen[i] == i, "host function %d saw %d", i, seen[i]);
  EXPECT(callbacks == kRounds / 10, "%d callbacks ran", callbacks.load());
  free_before_held_work(stream);
  CUDA_OK(cudaFreeHost(mapped));
  CUDA_OK(cudaStreamDestroy(stream));
  return check::done("host_callback");
}
