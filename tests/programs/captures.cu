// What spoils a capture, what is left of it then, and memory that a capture allocates.
#include "check.hpp"

namespace {

__global__ void add(int* data, int value) {
  atomicAdd(data, value);
}

cudaStreamCaptureStatus status_of(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  CUDA_OK(cudaStreamIsCapturing(stream, &status));
  return status;
}

struct Streams {
  cudaStream_t origin = nullptr;
  cudaStream_t side = nullptr;
  cudaEvent_t fork = nullptr;
  int* data = nullptr;
};

void begin_forked(const Streams& s, cudaStreamCaptureMode mode) {
  CUDA_OK(cudaStreamBeginCapture(s.origin, mode));
  add<<<1, 1, 0, s.origin>>>(s.data, 1);
  CUDA_OK(cudaGetLastError());
  CUDA_OK(cudaEventRecord(s.fork, s.origin));
  CUDA_OK(cudaStreamWaitEvent(s.side, s.fork));
}

// The capture is spoilt in both streams: it takes no more work, and ends without a graph.
void expect_spoilt(const Streams& s) {
  for (const cudaStream_t stream : {s.origin, s.side}) {
    EXPECT(status_of(stream) == cudaStreamCaptureStatusInvalidated, "status %d", status_of(stream));
    add<<<1, 1, 0, stream>>>(s.data, 1);
    CUDA_IS(cudaGetLastError(), cudaErrorStreamCaptureInvalidated);
    CUDA_IS(cudaMemsetAsync(s.data, 0, sizeof(int), stream), cudaErrorStreamCaptureInvalidated);
    (void)cudaGetLastError();
  }
  cudaGraph_t graph = nullptr;
  CUDA_IS(cudaStreamEndCapture(s.origin, &graph), cudaErrorStreamCaptureInvalidated);
  (void)cudaGetLastError();
  EXPECT(graph == nullptr, "a spoilt capture gave a graph");
  EXPECT(status_of(s.origin) == cudaStreamCaptureStatusNone, "status %d", status_of(s.origin));
  EXPECT(status_of(s.side) == cudaStreamCaptureStatusNone, "status %d", status_of(s.side));
  CUDA_OK(cudaDeviceSynchronize());
}

void forbidden_calls(const Streams& s) {
  for (const auto mode : {cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal}) {
    begin_forked(s, mode);
    void* more = nullptr;
    CUDA_IS(cudaMalloc(&more, 16), cudaErrorStreamCaptureUnsupported);
    expect_spoilt(s);
    begin_forked(s, mode);
    CUDA_IS(cudaDeviceSynchronize(), cudaErrorStreamCaptureUnsupported);
    expect_spoilt(s);
  }
}

void ended_elsewhere(const Streams& s) {
  begin_forked(s, cudaStreamCaptureModeRelaxed);
  cudaGraph_t graph = nullptr;
  CUDA_IS(cudaStreamEndCapture(s.side, &graph), cudaErrorStreamCaptureUnmatched);
  (void)cudaGetLastError();
  EXPECT(graph == nullptr, "another stream's capture gave a graph");
  (void)cudaStreamEndCapture(s.origin, &graph);
  (void)cudaGetLastError();
  if (graph != nullptr) CUDA_OK(cudaGraphDestroy(graph));
  CUDA_IS(cudaStreamEndCapture(s.side, &graph), cudaErrorIllegalState);
  (void)cudaGetLastError();
}

// Memory that a capture allocates and does not free is the program's after each launch, until it frees it.
void allocated(const Streams& s) {
  int* own = nullptr;
  cudaGraph_t graph = nullptr;
  CUDA_OK(cudaStreamBeginCapture(s.origin, cudaStreamCaptureModeThreadLocal));
  CUDA_OK(cudaMallocAsync(&own, 1024, s.origin));
  CUDA_OK(cudaMemsetAsync(own, 0, sizeof(int), s.origin));
  add<<<1, 1, 0, s.origin>>>(own, 5);
  CUDA_OK(cudaStreamEndCapture(s.origin, &graph));
  cudaGraphExec_t exec = nullptr;
  CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
  for (int i = 0; i < 6; ++i) {
    CUDA_OK(cudaGraphLaunch(exec, s.origin));
    add<<<1, 1, 0, s.origin>>>(own, 1);
    int seen = 0;
    CUDA_OK(cudaMemcpyAsync(&seen, own, sizeof seen, cudaMemcpyDeviceToHost, s.origin));
    CUDA_OK(cudaStreamSynchronize(s.origin));
    EXPECT(seen == 6, "launch %d: %d", i, seen);
    if (i % 2 == 0) {
      CUDA_OK(cudaFreeAsync(own, s.origin));
    } else {
      CUDA_OK(cudaFree(own));
    }
  }
  CUDA_OK(cudaGraphExecDestroy(exec));
  CUDA_OK(cudaGraphDestroy(graph));
  CUDA_OK(cudaDeviceSynchronize());
}

// A graph cannot be launched in a capture: the attempt spoils it.
void launched(const Streams& s) {
  cudaGraph_t inner = nullptr;
  CUDA_OK(cudaStreamBeginCapture(s.origin, cudaStreamCaptureModeThreadLocal));
  add<<<1, 1, 0, s.origin>>>(s.data, 1);
  CUDA_OK(cudaStreamEndCapture(s.origin, &inner));
  cudaGraphExec_t inner_exec = nullptr;
  CUDA_OK(cudaGraphInstantiate(&inner_exec, inner, 0));
  begin_forked(s, cudaStreamCaptureModeThreadLocal);
  CUDA_IS(cudaGraphLaunch(inner_exec, s.origin), cudaErrorStreamCaptureUnsupported);
  (void)cudaGetLastError();
  cudaGraph_t outer = nullptr;
  CUDA_IS(cudaStreamEndCapture(s.origin, &outer), cudaErrorStreamCaptureInvalidated);
  (void)cudaGetLastError();
  EXPECT(outer == nullptr, "a spoilt capture gave a graph");
  CUDA_OK(cudaGraphExecDestroy(inner_exec));
  CUDA_OK(cudaGraphDestroy(inner));
}

// The process goes on, and captures again.
void expect_unhurt() {
  int* data = nullptr;
  CUDA_OK(cudaMalloc(&data, sizeof(int)));
  CUDA_OK(cudaMemset(data, 0, sizeof(int)));
  CUDA_OK(cudaDeviceSynchronize());
  cudaStream_t stream = nullptr;
  CUDA_OK(cudaStreamCreate(&stream));
  CUDA_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  add<<<1, 1, 0, stream>>>(data, 1);
  cudaGraph_t graph = nullptr;
  CUDA_OK(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t exec = nullptr;
  CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
  CUDA_OK(cudaGraphLaunch(exec, stream));
  int seen = 0;
  CUDA_OK(cudaStreamSynchronize(stream));
  CUDA_OK(cudaMemcpy(&seen, data, sizeof seen, cudaMemcpyDeviceToHost));
  EXPECT(seen == 1, "captured after all: %d", seen);
  CUDA_OK(cudaGraphExecDestroy(exec));
  CUDA_OK(cudaGraphDestroy(graph));
  CUDA_OK(cudaStreamDestroy(stream));
  CUDA_OK(cudaFree(data));
}

// A capture whose stream goes forbids nothing afterwards.
void stream_destroyed(cudaStreamCaptureMode mode, unsigned flags, int* data) {
  cudaStream_t stream = nullptr;
  CUDA_OK(cudaStreamCreateWithFlags(&stream, flags));
  CUDA_OK(cudaStreamBeginCapture(stream, mode));
  add<<<1, 1, 0, stream>>>(data, 1);
  (void)cudaStreamDestroy(stream);
  (void)cudaGetLastError();
  expect_unhurt();
}

}  // namespace

int main() {
  Streams s;
  CUDA_OK(cudaStreamCreateWithFlags(&s.origin, cudaStreamNonBlocking));
  CUDA_OK(cudaStreamCreateWithFlags(&s.side, cudaStreamNonBlocking));
  CUDA_OK(cudaEventCreateWithFlags(&s.fork, cudaEventDisableTiming));
  CUDA_OK(cudaMalloc(&s.data, sizeof(int)));
  CUDA_OK(cudaMemset(s.data, 0, sizeof(int)));
  // Loads the kernel: that is no work of a capture.
  add<<<1, 1>>>(s.data, 0);
  CUDA_OK(cudaDeviceSynchronize());
  forbidden_calls(s);
  ended_elsewhere(s);
  allocated(s);
  launched(s);
  stream_destroyed(cudaStreamCaptureModeGlobal, cudaStreamNonBlocking, s.data);
  stream_destroyed(cudaStreamCaptureModeRelaxed, cudaStreamDefault, s.data);
  CUDA_OK(cudaStreamBeginCapture(s.origin, cudaStreamCaptureModeGlobal));
  add<<<1, 1, 0, s.origin>>>(s.data, 1);
  (void)cudaDeviceReset();
  (void)cudaGetLastError();
  expect_unhurt();
  return check::done("captures");
}
