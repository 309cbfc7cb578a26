// A stream that waits, with a long queue behind, for what the program does later on another stream: nothing
// that bounds a client's work in flight may keep the other stream's work back.
#include <atomic>

#include "check.hpp"

namespace {

constexpr int queued = 300;  // more than is ever in flight beside other clients

__global__ void add(int* out) {
  *out += 1;
}

__global__ void spin(const volatile int* flag) {
  while (*flag == 0) {
  }
}

void queue(cudaStream_t stream, int* out) {
  for (int i = 0; i < queued; ++i) add<<<1, 1, 0, stream>>>(out);
}

int value_of(const int* device, cudaStream_t stream) {
  int seen = -1;
  CUDA_OK(cudaMemcpyAsync(&seen, device, sizeof seen, cudaMemcpyDeviceToHost, stream));
  CUDA_OK(cudaStreamSynchronize(stream));
  return seen;
}

struct Fixture {
  cudaStream_t held = nullptr;
  cudaStream_t other = nullptr;
  int* counts = nullptr;  // of the held stream, of the other one, and a flag
  int seen[2] = {};

  Fixture() {
    CUDA_OK(cudaStreamCreateWithFlags(&held, cudaStreamNonBlocking));
    CUDA_OK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    CUDA_OK(cudaMalloc(&counts, 3 * sizeof(int)));
    // NVIDIA's driver may load a kernel at its first launch, and then waits for all streams (CUDA Programming
    // Guide, Lazy Loading).
    CUDA_OK(cudaMemset(counts, 1, 3 * sizeof(int)));
    add<<<1, 1>>>(counts);
    spin<<<1, 1>>>(counts + 2);
    CUDA_OK(cudaMemset(counts, 0, 3 * sizeof(int)));
    CUDA_OK(cudaDeviceSynchronize());
  }
  // The other stream's kernels run while the held one stands still.
  void work_on_the_other() {
    const double began = check::seconds();
    for (int i = 0; i < 20; ++i) add<<<1, 1, 0, other>>>(counts + 1);
    EXPECT(value_of(counts + 1, other) == 20, "the other stream counted wrongly");
    EXPECT(value_of(counts, other) == 0, "the held stream did not wait");
    const double took = check::seconds() - began;
    EXPECT(took < 20, "twenty kernels beside a held stream took %.1f s", took);
  }
  void finish(const char* name) {
    CUDA_OK(cudaStreamSynchronize(held));
    const int counted = value_of(counts, held);
    EXPECT(counted == queued, "%s: the held stream counted %d", name, counted);
    CUDA_OK(cudaMemset(counts, 0, 3 * sizeof(int)));
    CUDA_OK(cudaDeviceSynchronize());
  }
};

void held_by_the_host(Fixture& fixture) {
  check::HeldStream stream(fixture.held);
  queue(fixture.held, fixture.counts);
  fixture.work_on_the_other();
  stream.release();
  fixture.finish("a host function");
}

void held_by_a_value(Fixture& fixture) {
  const auto flag = reinterpret_cast<CUdeviceptr>(fixture.counts + 2);
  DRV_OK(cuStreamWaitValue32(fixture.held, flag, 1, CU_STREAM_WAIT_VALUE_EQ));
  queue(fixture.held, fixture.counts);
  fixture.work_on_the_other();
  DRV_OK(cuStreamWriteValue32(fixture.other, flag, 1, 0));
  fixture.finish("a value");
}

void held_by_a_graph(Fixture& fixture) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  CUDA_OK(cudaStreamBeginCapture(fixture.held, cudaStreamCaptureModeThreadLocal));
  check::HeldStream stream(fixture.held);
  CUDA_OK(cudaStreamEndCapture(fixture.held, &graph));
  CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
  CUDA_OK(cudaGraphLaunch(exec, fixture.held));
  queue(fixture.held, fixture.counts);
  fixture.work_on_the_other();
  stream.release();
  fixture.finish("a graph");
  CUDA_OK(cudaGraphExecDestroy(exec));
  CUDA_OK(cudaGraphDestroy(graph));
}

// Known to take long after some rounds, and still not to be waited for.
void held_by_a_kernel(Fixture& fixture) {
  const double began = check::seconds();
  for (int round = 1; round <= 6; ++round) {
    CUDA_OK(cudaMemsetAsync(fixture.counts + 2, 0, sizeof(int), fixture.held));
    spin<<<1, 1, 0, fixture.held>>>(fixture.counts + 2);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    add<<<1, 1, 0, fixture.other>>>(fixture.counts + 1);
    EXPECT(value_of(fixture.counts + 1, fixture.other) == round, "the other stream counted wrongly");
    CUDA_IS(cudaStreamQuery(fixture.held), cudaErrorNotReady);
    CUDA_OK(cudaMemsetAsync(fixture.counts + 2, 1, sizeof(int), fixture.other));
    CUDA_OK(cudaStreamSynchronize(fixture.held));
  }
  const double took = check::seconds() - began;
  EXPECT(took < 20, "six rounds beside a kernel that waits took %.1f s", took);
}

}  // namespace

int main() {
  Fixture fixture;
  held_by_the_host(fixture);
  held_by_a_value(fixture);
  held_by_a_graph(fixture);
  held_by_a_kernel(fixture);
  return check::done("held_streams");
}
