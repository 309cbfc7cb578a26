// The queries that programs make all the time give the right answer, and 100,000 of each take well under a
// second.
#include "check.hpp"

namespace {

template <typename Query>
void timed(const char* name, double limit, Query query) {
  const double start = check::seconds();
  for (int i = 0; i < 100'000; ++i) query();
  const double took = check::seconds() - start;
  std::printf("  %-28s %7.1f ns\n", name, took * 1e4);
  EXPECT(took < limit, "100,000 calls of %s took %.2f s", name, took);
}

__global__ void nothing() {}

}  // namespace

int main() {
  CUDA_OK(cudaFree(nullptr));
  cudaStream_t stream = nullptr;
  CUDA_OK(cudaStreamCreate(&stream));
  CUdevice device = 0;
  CUcontext context = nullptr;
  DRV_OK(cuDeviceGet(&device, 0));
  DRV_OK(cuCtxGetCurrent(&context));
  EXPECT(context != nullptr, "no context is current");
  constexpr double kLimit = 1.0;
  timed("cuCtxGetCurrent", kLimit, [&] {
    CUcontext current = nullptr;
    DRV_OK(cuCtxGetCurrent(&current));
    EXPECT(current == context, "another context");
  });
  timed("cuCtxGetDevice", kLimit, [&] {
    CUdevice current = -1;
    DRV_OK(cuCtxGetDevice(&current));
    EXPECT(current == device, "device %d", current);
  });
  timed("cuDevicePrimaryCtxGetState", kLimit, [&] {
    unsigned flags = 0;
    int active = 0;
    DRV_OK(cuDevicePrimaryCtxGetState(device, &flags, &active));
    EXPECT(active == 1, "not active");
  });
  timed("cuDeviceGetAttribute", kLimit, [&] {
    int warp = 0;
    DRV_OK(cuDeviceGetAttribute(&warp, CU_DEVICE_ATTRIBUTE_WARP_SIZE, device));
    EXPECT(warp == 32, "warp size %d", warp);
  });
  timed("cudaStreamIsCapturing", kLimit, [&] {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusActive;
    CUDA_OK(cudaStreamIsCapturing(stream, &status));
    EXPECT(status == cudaStreamCaptureStatusNone, "status %d", status);
  });
  timed("cudaOccupancyMaxActiveBlocks", kLimit, [&] {
    int blocks = 0;
    CUDA_OK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, nothing, 128, 0));
    EXPECT(blocks >= 1, "no block fits");
  });
  timed("cudaGetDevice", kLimit, [&] {
    int current = -1;
    CUDA_OK(cudaGetDevice(&current));
    EXPECT(current == 0, "device %d", current);
  });
  return check::done("hot_queries");
}
