// A client that keeps all of its devices busy from one thread, for some seconds: equal kernels, in turn on
// each device, a few in flight there; every now and then the data goes from each device to the next. Checks
// it at the end on the CPU and prints how many kernels each device got done.
//   busy_devices [--seconds S] [--rounds N] [--memory-mb N]
#include <string>

#include "check.hpp"

namespace {

constexpr unsigned kBlocks = 16;
constexpr unsigned kThreads = 128;
constexpr unsigned kCount = kBlocks * kThreads;
constexpr unsigned kInFlight = 4;
constexpr uint64_t kPassEvery = 64;

__global__ void churn(unsigned* data, int rounds) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  unsigned value = data[i];
  for (int round = 0; round < rounds; ++round) value = value * 1664525U + 1013904223U;
  data[i] = value;
}

struct Device {
  unsigned* data = nullptr;
  unsigned* incoming = nullptr;
  cudaStream_t stream = nullptr;
  std::vector<cudaEvent_t> events{kInFlight};
  cudaEvent_t churned = nullptr;
  unsigned wanted = 0;
  uint64_t launched = 0;
};

// What each device has becomes the next one's, in the order of their streams.
void pass_on(std::vector<Device>& devices) {
  const size_t count = devices.size();
  for (size_t i = 0; i < count; ++i) {
    CUDA_OK(cudaSetDevice(static_cast<int>(i)));
    CUDA_OK(cudaEventRecord(devices[i].churned, devices[i].stream));
  }
  for (size_t i = 0; i < count; ++i) {
    const size_t from = (i + count - 1) % count;
    CUDA_OK(cudaSetDevice(static_cast<int>(i)));
    CUDA_OK(cudaStreamWaitEvent(devices[i].stream, devices[from].churned, 0));
    CUDA_OK(cudaMemcpyPeerAsync(devices[i].incoming, static_cast<int>(i), devices[from].data,
                                static_cast<int>(from), kCount * sizeof(unsigned), devices[i].stream));
    CUDA_OK(cudaEventRecord(devices[i].events[0], devices[i].stream));
  }
  std::vector<unsigned> wanted(count);
  for (size_t i = 0; i < count; ++i) {
    const size_t to = (i + 1) % count;
    CUDA_OK(cudaSetDevice(static_cast<int>(i)));
    // The next one must have read before this one writes.
    CUDA_OK(cudaStreamWaitEvent(devices[i].stream, devices[to].events[0], 0));
    CUDA_OK(cudaMemcpyAsync(devices[i].data, devices[i].incoming, kCount * sizeof(unsigned),
                            cudaMemcpyDeviceToDevice, devices[i].stream));
    wanted[to] = devices[i].wanted;
  }
  for (size_t i = 0; i < count; ++i) devices[i].wanted = wanted[i];
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 1.0;
  int rounds = 500;
  size_t memory_mb = 0;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string option = argv[i];
    if (option == "--seconds") seconds = std::atof(argv[i + 1]);
    if (option == "--rounds") rounds = std::atoi(argv[i + 1]);
    if (option == "--memory-mb") memory_mb = std::strtoull(argv[i + 1], nullptr, 10);
  }
  int count = 0;
  CUDA_OK(cudaGetDeviceCount(&count));
  std::vector<Device> devices(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    Device& device = devices[static_cast<size_t>(i)];
    CUDA_OK(cudaSetDevice(i));
    CUDA_OK(cudaMalloc(&device.data, kCount * sizeof(unsigned)));
    CUDA_OK(cudaMalloc(&device.incoming, kCount * sizeof(unsigned)));
    void* ballast = nullptr;
    if (memory_mb != 0) CUDA_OK(cudaMalloc(&ballast, memory_mb << 20U));
    CUDA_OK(cudaStreamCreateWithFlags(&device.stream, cudaStreamNonBlocking));
    CUDA_OK(cudaEventCreateWithFlags(&device.churned, cudaEventDisableTiming));
    for (auto& event : device.events)
      CUDA_OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync));
    CUDA_OK(cudaMemset(device.data, i, kCount * sizeof(unsigned)));
    device.wanted = static_cast<unsigned>(i) * 0x01010101U;
    CUDA_OK(cudaDeviceSynchronize());
  }
  std::printf("busy_devices: ready\n");
  std::fflush(stdout);

  const double end = check::seconds() + seconds;
  for (uint64_t turn = 1; check::seconds() < end; ++turn) {
    for (int i = 0; i < count; ++i) {
      Device& device = devices[static_cast<size_t>(i)];
      CUDA_OK(cudaSetDevice(i));
      const cudaEvent_t event = device.events[device.launched % kInFlight];
      if (device.launched >= kInFlight) CUDA_OK(cudaEventSynchronize(event));
      churn<<<kBlocks, kThreads, 0, device.stream>>>(device.data, rounds);
      CUDA_OK(cudaEventRecord(event, device.stream));
      for (int round = 0; round < rounds; ++round) device.wanted = device.wanted * 1664525U + 1013904223U;
      ++device.launched;
    }
    if (turn % kPassEvery == 0) pass_on(devices);
  }
  for (int i = 0; i < count; ++i) {
    const Device& device = devices[static_cast<size_t>(i)];
    CUDA_OK(cudaSetDevice(i));
    CUDA_OK(cudaStreamSynchronize(device.stream));
    std::vector<unsigned> seen(kCount);
    CUDA_OK(cudaMemcpy(seen.data(), device.data, kCount * sizeof(unsigned), cudaMemcpyDeviceToHost));
    for (unsigned k = 0; k < kCount; ++k)
      EXPECT(seen[k] == device.wanted, "device %d: element %u is %u, wanted %u", i, k, seen[k],
             device.wanted);
    std::printf("device %d: kernels %llu\n", i, static_cast<unsigned long long>(device.launched));
  }
  return check::done("busy_devices");
}
