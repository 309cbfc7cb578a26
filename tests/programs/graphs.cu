// Graphs: captured from two streams with copies, a memset, kernels and a host function, replayed 100 times;
// an explicit graph with changed parameters; an update in place.
#include "check.hpp"

namespace {

__global__ void add(int* data, const int* other, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) data[i] += other[i];
}

__global__ void fill(int* data, int value, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) data[i] = value + i;
}

void count(void* counter) {
  ++*static_cast<int*>(counter);
}

constexpr int kCount = 1000;
constexpr size_t kBytes = kCount * sizeof(int);

}  // namespace

int main() {
  int* total = nullptr;
  int* other = nullptr;
  int* pinned = nullptr;
  CUDA_OK(cudaMalloc(&total, kBytes));
  CUDA_OK(cudaMalloc(&other, kBytes));
  CUDA_OK(cudaMallocHost(&pinned, kBytes));
  CUDA_OK(cudaMemset(total, 0, kBytes));
  cudaStream_t stream = nullptr;
  cudaStream_t side = nullptr;
  CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CUDA_OK(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking));
  cudaEvent_t fork = nullptr;
  cudaEvent_t join = nullptr;
  CUDA_OK(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
  CUDA_OK(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
  CUDA_OK(cudaDeviceSynchronize());

  int calls = 0;
  CUDA_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  CUDA_OK(cudaStreamIsCapturing(stream, &status));
  EXPECT(status == cudaStreamCaptureStatusActive, "capture status is %d", status);
  CUDA_OK(cudaEventRecord(fork, stream));
  CUDA_OK(cudaStreamWaitEvent(side, fork));
  fill<<<8, 128, 0, side>>>(other, 3, kCount);
  CUDA_OK(cudaEventRecord(join, side));
  CUDA_OK(cudaLaunchHostFunc(stream, count, &calls));
  CUDA_OK(cudaStreamWaitEvent(stream, join));
  add<<<8, 128, 0, stream>>>(total, other, kCount);
  CUDA_OK(cudaMemsetAsync(other, 0, kBytes, stream));
  CUDA_OK(cudaMemcpyAsync(pinned, total, kBytes, cudaMemcpyDeviceToHost, stream));
  cudaGraph_t graph = nullptr;
  CUDA_OK(cudaStreamEndCapture(stream, &graph));
  size_t nodes = 0;
  CUDA_OK(cudaGraphGetNodes(graph, nullptr, &nodes));
  EXPECT(nodes == 5, "%zu nodes captured", nodes);
  EXPECT(calls == 0, "capturing ran the host function");
  cudaGraphExec_t executable = nullptr;
  CUDA_OK(cudaGraphInstantiate(&executable, graph, 0));
  for (int i = 0; i < 100; ++i) CUDA_OK(cudaGraphLaunch(executable, stream));
  CUDA_OK(cudaStreamSynchronize(stream));
  EXPECT(calls == 100, "the host function ran %d times", calls);
  for (int i = 0; i < kCount; ++i) EXPECT(pinned[i] == 100 * (3 + i), "element %d is %d", i, pinned[i]);

  // A second capture of the same shape with another parameter updates the executable in place.
  CUDA_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  CUDA_OK(cudaEventRecord(fork, stream));
  CUDA_OK(cudaStreamWaitEvent(side, fork));
  fill<<<8, 128, 0, side>>>(other, -1000, kCount);
  CUDA_OK(cudaEventRecord(join, side));
  CUDA_OK(cudaLaunchHostFunc(stream, count, &calls));
  CUDA_OK(cudaStreamWaitEvent(stream, join));
  add<<<8, 128, 0, stream>>>(total, other, kCount);
  CUDA_OK(cudaMemsetAsync(other, 0, kBytes, stream));
  CUDA_OK(cudaMemcpyAsync(pinned, total, kBytes, cudaMemcpyDeviceToHost, stream));
  cudaGraph_t changed = nullptr;
  CUDA_OK(cudaStreamEndCapture(stream, &changed));
  cudaGraphExecUpdateResultInfo info{};
  CUDA_OK(cudaGraphExecUpdate(executable, changed, &info));
  CUDA_OK(cudaGraphLaunch(executable, stream));
  CUDA_OK(cudaStreamSynchronize(stream));
  for (int i = 0; i < kCount; ++i)
    EXPECT(pinned[i] == 101 * i + 300 - 1000, "after the update: %d is %d", i, pinned[i]);

  // An explicit graph of two kernels, then one parameter set changed.
  cudaGraph_t built = nullptr;
  CUDA_OK(cudaGraphCreate(&built, 0));
  int value = 7;
  int n = kCount;
  void* fill_arguments[] = {&other, &value, &n};
  cudaKernelNodeParams parameters{};
  parameters.func = reinterpret_cast<void*>(fill);
  parameters.gridDim = dim3(8);
  parameters.blockDim = dim3(128);
  parameters.kernelParams = fill_arguments;
  cudaGraphNode_t first = nullptr;
  CUDA_OK(cudaGraphAddKernelNode(&first, built, nullptr, 0, &parameters));
  void* add_arguments[] = {&other, &other, &n};
  parameters.func = reinterpret_cast<void*>(add);
  parameters.kernelParams = add_arguments;
  cudaGraphNode_t second = nullptr;
  CUDA_OK(cudaGraphAddKernelNode(&second, built, &first, 1, &parameters));
  cudaGraphExec_t built_executable = nullptr;
  CUDA_OK(cudaGraphInstantiate(&built_executable, built, 0));
  CUDA_OK(cudaGraphLaunch(built_executable, stream));
  CUDA_OK(cudaMemcpyAsync(pinned, other, kBytes, cudaMemcpyDeviceToHost, stream));
  CUDA_OK(cudaStreamSynchronize(stream));
  for (int i = 0; i < kCount; ++i)
    EXPECT(pinned[i] == 2 * (7 + i), "built graph: element %d is %d", i, pinned[i]);
  value = 50;
  parameters.func = reinterpret_cast<void*>(fill);
  parameters.kernelParams = fill_arguments;
  CUDA_OK(cudaGraphExecKernelNodeSetParams(built_executable, first, &parameters));
  CUDA_OK(cudaGraphLaunch(built_executable, stream));
  CUDA_OK(cudaMemcpyAsync(pinned, other, kBytes, cudaMemcpyDeviceToHost, stream));
  CUDA_OK(cudaStreamSynchronize(stream));
  EXPECT(pinned[1] == 2 * (50 + 1), "after the change: %d", pinned[1]);

  CUDA_OK(cudaGraphExecDestroy(executable));
  CUDA_OK(cudaGraphExecDestroy(built_executable));
  CUDA_OK(cudaGraphDestroy(graph));
  CUDA_OK(cudaGraphDestroy(changed));
  CUDA_OK(cudaGraphDestroy(built));
  return check::done("graphs");
}
