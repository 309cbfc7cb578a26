// The legacy stream orders all blocking streams and no non-blocking one; a wait that only a later action of
// the host satisfies never blocks another call.
#include <atomic>

#include "check.hpp"

namespace {

__global__ void set(int* out, int value) {
  *out = value;
}
__global__ void copy_int(int* to, const int* from) {
  *to = *from;
}

struct Streams {
  cudaStream_t blocking = nullptr;
  cudaStream_t free_running = nullptr;
};

void legacy_waits_for_blocking_streams(const Streams& streams, int* device) {
  CUDA_OK(cudaMemset(device, 0, 4 * sizeof(int)));
  CUDA_OK(cudaDeviceSynchronize());
  check::HeldStream held_stream(streams.blocking);
  set<<<1, 1, 0, streams.blocking>>>(device, 11);
  copy_int<<<1, 1>>>(device + 1, device);  // On the legacy stream: must see the 11.
  CUDA_IS(cudaStreamQuery(nullptr), cudaErrorNotReady);
  // A blocking stream used after the legacy stream waits for it, too.
  cudaStream_t later = nullptr;
  CUDA_OK(cudaStreamCreate(&later));
  copy_int<<<1, 1, 0, later>>>(device + 2, device + 1);
  CUDA_IS(cudaStreamQuery(later), cudaErrorNotReady);
  // A non-blocking stream runs on all the same.
  set<<<1, 1, 0, streams.free_running>>>(device + 3, 33);
  CUDA_OK(cudaStreamSynchronize(streams.free_running));
  held_stream.release();
  CUDA_OK(cudaDeviceSynchronize());
  int seen[4] = {};
  CUDA_OK(cudaMemcpy(seen, device, sizeof seen, cudaMemcpyDeviceToHost));
  EXPECT(seen[0] == 11 && seen[1] == 11 && seen[2] == 11 && seen[3] == 33, "saw %d %d %d %d", seen[0],
         seen[1], seen[2], seen[3]);
  CUDA_OK(cudaStreamDestroy(later));
}

void null_stream_copies_pass_non_blocking_streams(const Streams& streams, int* device) {
  CUDA_OK(cudaMemset(device, 0, 4 * sizeof(int)));
  CUDA_OK(cudaDeviceSynchronize());
  check::HeldStream held_stream(streams.free_running);
  set<<<1, 1, 0, streams.free_running>>>(device, 5);
  int seen = -1;
  CUDA_OK(cudaMemcpy(&seen, device, sizeof seen, cudaMemcpyDeviceToHost));  // Does not wait for the 5.
  EXPECT(seen == 0, "a copy on the NULL stream saw %d", seen);
  held_stream.release();
  CUDA_OK(cudaStreamSynchronize(streams.free_running));
  CUDA_OK(cudaMemcpy(&seen, device, sizeof seen, cudaMemcpyDeviceToHost));
  EXPECT(seen == 5, "after the release: %d", seen);
}

void host_released_wait_blocks_nobody_else(const Streams& streams, int* device) {
  std::atomic<bool> waiting{false};
  check::HeldStream held_stream(streams.free_running);
  set<<<1, 1, 0, streams.free_running>>>(device, 77);
  std::thread waiter([&] {
    waiting = true;
    CUDA_OK(cudaStreamSynchronize(streams.free_running));
  });
  while (!waiting) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  // While that thread waits, this one does everything else, and only then releases it.
  int* more = nullptr;
  CUDA_OK(cudaMalloc(&more, sizeof(int)));
  set<<<1, 1, 0, streams.blocking>>>(more, 8);
  int seen = 0;
  CUDA_OK(cudaMemcpyAsync(&seen, more, sizeof seen, cudaMemcpyDeviceToHost, streams.blocking));
  CUDA_OK(cudaStreamSynchronize(streams.blocking));
  EXPECT(seen == 8, "saw %d", seen);
  held_stream.release();
  waiter.join();
  CUDA_OK(cudaFree(more));
}

void copy_out_behind_a_held_stream_blocks_nobody_else(const Streams& streams, int* device) {
  std::atomic<bool> waiting{false};
  CUDA_OK(cudaMemset(device, 0, sizeof(int)));
  CUDA_OK(cudaDeviceSynchronize());
  check::HeldStream held_stream(streams.free_running);
  set<<<1, 1, 0, streams.free_running>>>(device, 123);
  int target = 0;
  std::thread waiter([&] {
    waiting = true;
    CUDA_OK(cudaMemcpyAsync(&target, device, sizeof target, cudaMemcpyDeviceToHost, streams.free_running));
  });
  while (!waiting) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  set<<<1, 1, 0, streams.blocking>>>(device + 1, 9);
  CUDA_OK(cudaStreamSynchronize(streams.blocking));
  held_stream.release();
  waiter.join();
  EXPECT(target == 123, "the pageable copy brought %d", target);
}

}  // namespace

int main() {
  Streams streams;
  CUDA_OK(cudaStreamCreate(&streams.blocking));
  CUDA_OK(cudaStreamCreateWithFlags(&streams.free_running, cudaStreamNonBlocking));
  int* device = nullptr;
  CUDA_OK(cudaMalloc(&device, 4 * sizeof(int)));
  // Load the kernels first: a lazy load may synchronise the device, and these tests hold streams up.
  set<<<1, 1>>>(device, 0);
  copy_int<<<1, 1>>>(device + 1, device);
  CUDA_OK(cudaDeviceSynchronize());
  legacy_waits_for_blocking_streams(streams, device);
  null_stream_copies_pass_non_blocking_streams(streams, device);
  host_released_wait_blocks_nobody_else(streams, device);
  copy_out_behind_a_held_stream_blocks_nobody_else(streams, device);
  return check::done("stream_order");
}
