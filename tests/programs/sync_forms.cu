// Each way to wait, against kernels that are slow on purpose: when it returns, what it covers must have
// ended, and a second wait with nothing new must return too. Kernels write to mapped memory, so that the host
// sees at once whether they have ended. Then threads that launch and wait on one stream at once.
#include <functional>

#include "check.hpp"

namespace {

__global__ void slow_store(volatile unsigned* out, unsigned value, unsigned rounds, unsigned* sink) {
  unsigned x = value;
  for (unsigned i = 0; i < rounds; ++i) x = (x ^ (x >> 7)) * 1664525U + 1013904223U;
  *sink = x;
  *out = value;
}

struct Board {
  volatile unsigned* host = nullptr;
  unsigned* device = nullptr;
  unsigned* sink = nullptr;
};

constexpr unsigned kRounds = 200'000;

void launch(const Board& board, unsigned slot, unsigned value, cudaStream_t stream,
            unsigned rounds = kRounds) {
  slow_store<<<1, 1, 0, stream>>>(board.device + slot, value, rounds, board.sink + slot);
  CUDA_OK(cudaGetLastError());
}

void check_wait(const Board& board, const char* what, cudaStream_t stream,
                const std::function<void()>& wait) {
  static unsigned value = 100;
  for (int round = 0; round < 3; ++round) {
    ++value;
    launch(board, 0, value, stream);
    wait();
    EXPECT(board.host[0] == value, "%s: %u after the wait, wanted %u", what, board.host[0], value);
    wait();
    wait();
  }
}

void check_query(const Board& board, cudaStream_t stream) {
  launch(board, 1, 7, stream);
  cudaError_t result = cudaErrorNotReady;
  while ((result = cudaStreamQuery(stream)) == cudaErrorNotReady) {
  }
  CUDA_OK(result);
  EXPECT(board.host[1] == 7, "cudaStreamQuery said success before the kernel had ended");
  CUDA_OK(cudaStreamQuery(stream));
  board.host[1] = 0;
}

void check_threads(const Board& board, cudaStream_t stream) {
  constexpr unsigned kThreads = 4;
  std::vector<std::thread> threads;
  for (unsigned id = 0; id < kThreads; ++id) {
    threads.emplace_back([&board, stream, id] {
      for (unsigned round = 1; round <= 60; ++round) {
        launch(board, 8 + id, round, stream, 2'000);
        if (round % 7 == 0) CUDA_OK(cudaStreamSynchronize(stream));
        CUDA_OK(cudaStreamSynchronize(stream));
        EXPECT(board.host[8 + id] == round, "thread %u: %u after the wait, wanted %u", id, board.host[8 + id],
               round);
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

}  // namespace

int main() {
  Board board;
  void* host = nullptr;
  void* device = nullptr;
  CUDA_OK(cudaHostAlloc(&host, 4096, cudaHostAllocMapped));
  std::memset(host, 0, 4096);
  CUDA_OK(cudaHostGetDevicePointer(&device, host, 0));
  board.host = static_cast<volatile unsigned*>(host);
  board.device = static_cast<unsigned*>(device);
  CUDA_OK(cudaMalloc(&board.sink, 4096));
  cudaStream_t blocking = nullptr;
  cudaStream_t free_running = nullptr;
  cudaEvent_t event = nullptr;
  CUDA_OK(cudaStreamCreate(&blocking));
  CUDA_OK(cudaStreamCreateWithFlags(&free_running, cudaStreamNonBlocking));
  CUDA_OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  // A stream that nothing was ever sent to.
  CUDA_OK(cudaStreamSynchronize(free_running));
  CUDA_OK(cudaStreamQuery(blocking));
  const cudaStream_t streams[] = {nullptr, cudaStreamPerThread, blocking, free_running};
  for (cudaStream_t stream : streams) {
    check_wait(board, "cudaStreamSynchronize", stream, [&] { CUDA_OK(cudaStreamSynchronize(stream)); });
    check_wait(board, "cudaDeviceSynchronize", stream, [&] { CUDA_OK(cudaDeviceSynchronize()); });
    check_wait(board, "cudaEventSynchronize", stream, [&] {
      CUDA_OK(cudaEventRecord(event, stream));
      CUDA_OK(cudaEventSynchronize(event));
    });
    check_wait(board, "a copy to the host", stream, [&] {
      unsigned out = 0;
      CUDA_OK(cudaMemcpyAsync(&out, board.sink, sizeof out, cudaMemcpyDeviceToHost, stream));
      CUDA_OK(cudaStreamSynchronize(stream));
    });
    check_query(board, stream);
  }
  // The legacy stream waits for blocking streams: a wait for it covers them, also right after a wait for it
  // that had nothing to do.
  CUDA_OK(cudaStreamSynchronize(nullptr));
  check_wait(board, "the legacy stream for a blocking one", blocking, [&] {
    slow_store<<<1, 1>>>(board.device + 2, 1, 1, board.sink + 2);
    CUDA_OK(cudaStreamSynchronize(nullptr));
  });
  // What another stream waits for through an event is part of that stream.
  check_wait(board, "a stream behind an event", free_running, [&] {
    CUDA_OK(cudaEventRecord(event, free_running));
    CUDA_OK(cudaStreamWaitEvent(blocking, event, 0));
    CUDA_OK(cudaStreamSynchronize(blocking));
  });
  check_threads(board, free_running);
  check_threads(board, nullptr);
  return check::done("sync_forms");
}
