// Several devices in one program: who they are, a kernel on each, memory and copies between them in every
// way, peer access, and what orders their work. With one device it says so, and checks that the calls for
// peers are refused.
#include <set>
#include <string>

#include "check.hpp"

namespace {

constexpr size_t kCount = 1U << 16U;
constexpr size_t kBytes = kCount * sizeof(unsigned);

__device__ unsigned launches = 100;
__managed__ unsigned everywhere = 1;

__global__ void fill(unsigned* data, size_t count, unsigned seed) {
  const size_t first = blockIdx.x * blockDim.x + threadIdx.x;
  for (size_t i = first; i < count; i += gridDim.x * blockDim.x)
    data[i] = static_cast<unsigned>(i) * 3U + seed;
  if (first == 0) {
    ++launches;
    ++everywhere;
  }
}

__global__ void reverse(unsigned* data, unsigned count) {
  extern __shared__ unsigned kept[];
  for (unsigned i = threadIdx.x; i < count; i += blockDim.x) kept[i] = data[i];
  __syncthreads();
  for (unsigned i = threadIdx.x; i < count; i += blockDim.x) data[i] = kept[count - 1 - i];
}

__global__ void add_from(unsigned* to, const unsigned* from, size_t count) {
  for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
    to[i] += from[i];
}

/// Two devices' buffers; every copy is from the first to the second, and back to the host from there.
struct Pair {
  unsigned* first = nullptr;
  unsigned* second = nullptr;
  cudaStream_t stream = nullptr;  ///< of the second device
  CUcontext contexts[2] = {};
  unsigned seed = 10;
};

void expect_filled(const unsigned* device, unsigned seed, const char* how) {
  std::vector<unsigned> seen(kCount);
  CUDA_OK(cudaMemcpy(seen.data(), device, kBytes, cudaMemcpyDeviceToHost));
  for (size_t i = 0; i < kCount; ++i) {
    const unsigned wanted = static_cast<unsigned>(i) * 3U + seed;
    EXPECT(seen[i] == wanted, "%s: element %zu is %u, wanted %u", how, i, seen[i], wanted);
  }
}

/// Fills the first buffer with something new, lets `copy` copy, and checks the second on the CPU.
template <class Copy>
void try_copy(Pair& pair, const char* how, Copy copy) {
  pair.seed += 7;
  CUDA_OK(cudaSetDevice(0));
  fill<<<16, 128>>>(pair.first, kCount, pair.seed);
  CUDA_OK(cudaDeviceSynchronize());
  CUDA_OK(cudaSetDevice(1));
  copy();
  CUDA_OK(cudaStreamSynchronize(pair.stream));
  expect_filled(pair.second, pair.seed, how);
}

void who_they_are(int count) {
  std::set<std::string> uuids;
  std::set<std::string> buses;
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp properties{};
    CUDA_OK(cudaGetDeviceProperties(&properties, device));
    uuids.emplace(properties.uuid.bytes, sizeof properties.uuid.bytes);
    char bus[32] = {};
    CUDA_OK(cudaDeviceGetPCIBusId(bus, sizeof bus, device));
    buses.insert(bus);
    int found = -1;
    CUDA_OK(cudaDeviceGetByPCIBusId(&found, bus));
    EXPECT(found == device, "device %d's bus %s is device %d's", device, bus, found);
    size_t total = 0;
    DRV_OK(cuDeviceTotalMem(&total, device));
    EXPECT(total == properties.totalGlobalMem, "device %d has %zu bytes and %zu", device, total,
           properties.totalGlobalMem);
  }
  EXPECT(static_cast<int>(uuids.size()) == count, "%d devices have %zu UUIDs", count, uuids.size());
  EXPECT(static_cast<int>(buses.size()) == count, "%d devices have %zu bus ids", count, buses.size());
  CUDA_IS(cudaSetDevice(count), cudaErrorInvalidDevice);
  CUDA_OK(cudaSetDevice(0));
}

void a_kernel_on_each(int count) {
  everywhere = 1;
  for (int device = 0; device < count; ++device) {
    CUDA_OK(cudaSetDevice(device));
    unsigned* data = nullptr;
    CUDA_OK(cudaMalloc(&data, kBytes));
    // Each device has its own variable, and each counts from its first value.
    for (int round = 0; round <= device; ++round) fill<<<16, 128>>>(data, kCount, 5U + device);
    CUDA_OK(cudaDeviceSynchronize());
    expect_filled(data, 5U + device, "a kernel");
    unsigned seen = 0;
    CUDA_OK(cudaMemcpyFromSymbol(&seen, launches, sizeof seen));
    EXPECT(seen == 101U + device, "device %d has counted to %u", device, seen);
    cudaPointerAttributes attributes{};
    CUDA_OK(cudaPointerGetAttributes(&attributes, data));
    EXPECT(attributes.device == device, "memory of device %d is device %d's", device, attributes.device);

    // What a kernel may use is said for each device.
    constexpr unsigned words = 15U << 10U;
    constexpr int shared = words * sizeof(unsigned);
    reverse<<<1, 256, shared>>>(data, words);
    CUDA_IS(cudaGetLastError(), cudaErrorInvalidValue);
    CUDA_OK(cudaFuncSetAttribute(reverse, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    for (int twice = 0; twice < 2; ++twice) reverse<<<1, 256, shared>>>(data, words);
    CUDA_OK(cudaGetLastError());
    expect_filled(data, 5U + device, "a kernel with much shared memory");
    CUDA_OK(cudaFree(data));
  }
  const unsigned wanted = 1U + count * (count + 1) / 2;
  EXPECT(everywhere == wanted, "the managed variable is %u, wanted %u", everywhere, wanted);
}

void memory_of_each() {
  constexpr size_t large = size_t{8} << 20U;
  size_t before[2] = {};
  size_t after[2] = {};
  size_t total = 0;
  const auto measure = [&](size_t* free) {
    for (int device = 0; device < 2; ++device) {
      CUDA_OK(cudaSetDevice(device));
      CUDA_OK(cudaMemGetInfo(&free[device], &total));
    }
  };
  measure(before);
  void* memory = nullptr;
  CUDA_OK(cudaMalloc(&memory, large));
  measure(after);
  EXPECT(before[1] - after[1] >= large, "the second device has %zu bytes less", before[1] - after[1]);
  EXPECT(before[0] == after[0], "the first device had %zu bytes free, now %zu", before[0], after[0]);
  CUDA_OK(cudaSetDevice(0));
  CUDA_OK(cudaFree(memory));

  cudaMemPool_t pools[2] = {};
  for (int device = 0; device < 2; ++device) CUDA_OK(cudaDeviceGetDefaultMemPool(&pools[device], device));
  EXPECT(pools[0] != pools[1], "two devices have one pool");
  CUDA_IS(cudaDeviceSetMemPool(0, pools[1]), cudaErrorInvalidValue);
  cudaMemAccessDesc access{};
  access.location.type = cudaMemLocationTypeDevice;
  access.location.id = 0;
  access.flags = cudaMemAccessFlagsProtReadWrite;
  cudaMemAccessFlags flags = cudaMemAccessFlagsProtReadWrite;
  CUDA_OK(cudaMemPoolGetAccess(&flags, pools[1], &access.location));
  EXPECT(flags == cudaMemAccessFlagsProtNone, "a pool is open to another device: %d", flags);
  CUDA_OK(cudaMemPoolSetAccess(pools[1], &access, 1));
  CUDA_OK(cudaMemPoolGetAccess(&flags, pools[1], &access.location));
  EXPECT(flags == cudaMemAccessFlagsProtReadWrite, "a pool was opened to a device: %d", flags);
  CUDA_OK(cudaMallocFromPoolAsync(&memory, kBytes, pools[1], nullptr));
  cudaPointerAttributes attributes{};
  CUDA_OK(cudaPointerGetAttributes(&attributes, memory));
  EXPECT(attributes.device == 1, "memory of the second pool is device %d's", attributes.device);
  fill<<<16, 128>>>(static_cast<unsigned*>(memory), kCount, 9);
  expect_filled(static_cast<const unsigned*>(memory), 9, "the other device's pool");
  CUDA_OK(cudaFreeAsync(memory, nullptr));
  access.flags = cudaMemAccessFlagsProtNone;
  CUDA_OK(cudaStreamSynchronize(nullptr));
  CUDA_OK(cudaMemPoolSetAccess(pools[1], &access, 1));
}

void mapped_memory() {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location = {CU_MEM_LOCATION_TYPE_DEVICE, 1};
  size_t unit = 0;
  DRV_OK(cuMemGetAllocationGranularity(&unit, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
  CUmemGenericAllocationHandle handle = 0;
  DRV_OK(cuMemCreate(&handle, unit, &properties, 0));
  CUdeviceptr window = 0;
  DRV_OK(cuMemAddressReserve(&window, unit, 0, 0, 0));
  DRV_OK(cuMemMap(window, unit, 0, handle, 0));
  CUmemAccessDesc access[2] = {};
  for (int device = 0; device < 2; ++device) {
    access[device].location = {CU_MEM_LOCATION_TYPE_DEVICE, device};
    access[device].flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  }
  DRV_OK(cuMemSetAccess(window, unit, access, 2));
  auto* data = reinterpret_cast<unsigned*>(window);
  for (int device = 0; device < 2; ++device) {
    CUDA_OK(cudaSetDevice(device));
    fill<<<16, 128>>>(data, kCount, 20U + device);
    CUDA_OK(cudaDeviceSynchronize());
    unsigned long long flags = 0;
    DRV_OK(cuMemGetAccess(&flags, &access[device].location, window));
    EXPECT(flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE, "device %d may do %llu", device, flags);
    expect_filled(data, 20U + device, "mapped memory");
  }
  DRV_OK(cuMemUnmap(window, unit));
  DRV_OK(cuMemAddressFree(window, unit));
  DRV_OK(cuMemRelease(handle));
}

void copies(Pair& pair) {
  unsigned* const first = pair.first;
  unsigned* const second = pair.second;
  const auto from = reinterpret_cast<CUdeviceptr>(first);
  const auto to = reinterpret_cast<CUdeviceptr>(second);
  try_copy(pair, "cudaMemcpyPeer", [&] { CUDA_OK(cudaMemcpyPeer(second, 1, first, 0, kBytes)); });
  try_copy(pair, "cudaMemcpyPeerAsync",
           [&] { CUDA_OK(cudaMemcpyPeerAsync(second, 1, first, 0, kBytes, pair.stream)); });
  try_copy(pair, "cudaMemcpy, default",
           [&] { CUDA_OK(cudaMemcpy(second, first, kBytes, cudaMemcpyDefault)); });
  try_copy(pair, "cudaMemcpy, device to device",
           [&] { CUDA_OK(cudaMemcpy(second, first, kBytes, cudaMemcpyDeviceToDevice)); });
  try_copy(pair, "cudaMemcpyAsync",
           [&] { CUDA_OK(cudaMemcpyAsync(second, first, kBytes, cudaMemcpyDefault, pair.stream)); });
  try_copy(pair, "cuMemcpyPeer",
           [&] { DRV_OK(cuMemcpyPeer(to, pair.contexts[1], from, pair.contexts[0], kBytes)); });
  try_copy(pair, "cuMemcpyPeerAsync", [&] {
    DRV_OK(cuMemcpyPeerAsync(to, pair.contexts[1], from, pair.contexts[0], kBytes, pair.stream));
  });
  try_copy(pair, "cuMemcpyDtoD", [&] { DRV_OK(cuMemcpyDtoD(to, from, kBytes)); });

  constexpr size_t width = 256;
  constexpr size_t height = 32;
  constexpr size_t depth = kBytes / width / height;
  try_copy(pair, "cudaMemcpy2D", [&] {
    CUDA_OK(cudaMemcpy2D(second, width, first, width, width, height * depth, cudaMemcpyDeviceToDevice));
  });
  cudaMemcpy3DPeerParms box{};
  box.srcPtr = make_cudaPitchedPtr(first, width, width, height);
  box.dstPtr = make_cudaPitchedPtr(second, width, width, height);
  box.srcDevice = 0;
  box.dstDevice = 1;
  box.extent = make_cudaExtent(width, height, depth);
  try_copy(pair, "cudaMemcpy3DPeer", [&] { CUDA_OK(cudaMemcpy3DPeer(&box)); });
  try_copy(pair, "cudaMemcpy3DPeerAsync", [&] { CUDA_OK(cudaMemcpy3DPeerAsync(&box, pair.stream)); });
}

void peer_access(Pair& pair) {
  int can = 0;
  CUDA_OK(cudaDeviceCanAccessPeer(&can, 0, 0));
  EXPECT(can == 0, "a device is a peer of itself");
  CUDA_OK(cudaDeviceCanAccessPeer(&can, 1, 0));
  EXPECT(can == 1, "the devices cannot access each other");
  int supported = 0;
  CUDA_OK(cudaDeviceGetP2PAttribute(&supported, cudaDevP2PAttrAccessSupported, 0, 1));
  EXPECT(supported == 1, "peer access is %d", supported);
  CUDA_IS(cudaDeviceGetP2PAttribute(&supported, cudaDevP2PAttrAccessSupported, 1, 1), cudaErrorInvalidDevice);

  CUDA_OK(cudaSetDevice(1));
  CUDA_IS(cudaDeviceDisablePeerAccess(0), cudaErrorPeerAccessNotEnabled);
  CUDA_IS(cudaDeviceEnablePeerAccess(0, 1), cudaErrorInvalidValue);
  DRV_IS(cuCtxEnablePeerAccess(pair.contexts[1], 0), CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
  CUDA_OK(cudaDeviceEnablePeerAccess(0, 0));
  CUDA_IS(cudaDeviceEnablePeerAccess(0, 0), cudaErrorPeerAccessAlreadyEnabled);
  DRV_IS(cuCtxEnablePeerAccess(pair.contexts[0], 0), CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);

  // A kernel of the second device reads the first one's memory.
  CUDA_OK(cudaMemsetAsync(pair.second, 0, kBytes, pair.stream));
  add_from<<<16, 128, 0, pair.stream>>>(pair.second, pair.first, kCount);
  CUDA_OK(cudaStreamSynchronize(pair.stream));
  expect_filled(pair.second, pair.seed, "a kernel that reads the peer");
  CUDA_OK(cudaDeviceDisablePeerAccess(0));
  CUDA_IS(cudaDeviceDisablePeerAccess(0), cudaErrorPeerAccessNotEnabled);
}

void order(Pair& pair) {
  CUDA_OK(cudaSetDevice(0));
  cudaStream_t first = nullptr;
  cudaEvent_t ready = nullptr;
  cudaEvent_t foreign = nullptr;
  CUDA_OK(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking));
  CUDA_OK(cudaEventCreate(&ready));
  {
    check::HeldStream held(first);
    pair.seed += 7;
    fill<<<16, 128, 0, first>>>(pair.first, kCount, pair.seed);
    CUDA_OK(cudaEventRecord(ready, first));
    CUDA_OK(cudaSetDevice(1));
    CUDA_OK(cudaStreamWaitEvent(pair.stream, ready, 0));
    CUDA_OK(cudaMemcpyPeerAsync(pair.second, 1, pair.first, 0, kBytes, pair.stream));
    CUDA_IS(cudaStreamQuery(pair.stream), cudaErrorNotReady);
    CUDA_IS(cudaEventQuery(ready), cudaErrorNotReady);
    held.release();
    CUDA_OK(cudaStreamSynchronize(pair.stream));
  }
  expect_filled(pair.second, pair.seed, "a copy after the other device's event");

  CUDA_OK(cudaEventCreate(&foreign));
  CUDA_OK(cudaEventRecord(foreign, pair.stream));
  CUDA_IS(cudaEventRecord(ready, pair.stream), cudaErrorInvalidResourceHandle);
  CUDA_OK(cudaStreamSynchronize(pair.stream));
  float milliseconds = 0;
  CUDA_IS(cudaEventElapsedTime(&milliseconds, ready, foreign), cudaErrorInvalidResourceHandle);
  // A kernel runs where its stream is, whichever device is current.
  (void)cudaGetLastError();
  fill<<<1, 32, 0, first>>>(pair.first, kCount, 1);
  CUDA_OK(cudaGetLastError());
  CUDA_OK(cudaStreamSynchronize(first));
  expect_filled(pair.first, 1, "a kernel in the other device's stream");
  CUDA_OK(cudaEventDestroy(foreign));
  CUDA_OK(cudaEventDestroy(ready));
  CUDA_OK(cudaStreamDestroy(first));
}

int alone() {
  int can = 1;
  CUDA_OK(cudaDeviceCanAccessPeer(&can, 0, 0));
  EXPECT(can == 0, "a device is a peer of itself");
  CUDA_IS(cudaDeviceCanAccessPeer(&can, 0, 1), cudaErrorInvalidDevice);
  CUDA_IS(cudaSetDevice(1), cudaErrorInvalidDevice);
  CUDA_IS(cudaDeviceEnablePeerAccess(1, 0), cudaErrorInvalidDevice);
  CUDA_IS(cudaDeviceDisablePeerAccess(1), cudaErrorInvalidDevice);
  CUDA_OK(cudaFree(nullptr));
  CUcontext own = nullptr;
  DRV_OK(cuCtxGetCurrent(&own));
  DRV_IS(cuCtxEnablePeerAccess(own, 0), CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
  DRV_IS(cuCtxDisablePeerAccess(own), CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
  DRV_IS(cuDeviceGetP2PAttribute(&can, CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED, 0, 0),
         CUDA_ERROR_INVALID_DEVICE);
  unsigned* data = nullptr;
  CUDA_OK(cudaMalloc(&data, 2 * kBytes));
  CUDA_IS(cudaMemcpyPeer(data + kCount, 1, data, 0, kBytes), cudaErrorInvalidDevice);
  fill<<<16, 128>>>(data, kCount, 3);
  CUDA_OK(cudaMemcpyPeer(data + kCount, 0, data, 0, kBytes));
  expect_filled(data + kCount, 3, "a copy within the device");
  CUDA_OK(cudaFree(data));
  std::printf("there is one device\n");
  return check::done("peers");
}

}  // namespace

int main() {
  int count = 0;
  CUDA_OK(cudaGetDeviceCount(&count));
  who_they_are(count);
  if (count == 1) return alone();
  a_kernel_on_each(count);
  memory_of_each();
  mapped_memory();
  Pair pair;
  for (int device = 0; device < 2; ++device) {
    CUDA_OK(cudaSetDevice(device));
    CUDA_OK(cudaMalloc(device == 0 ? &pair.first : &pair.second, kBytes));
    DRV_OK(cuCtxGetCurrent(&pair.contexts[device]));
    CUdevice current = -1;
    DRV_OK(cuCtxGetDevice(&current));
    EXPECT(current == device, "the context of device %d is device %d's", device, current);
  }
  EXPECT(pair.contexts[0] != pair.contexts[1], "two devices have one context");
  CUDA_OK(cudaStreamCreateWithFlags(&pair.stream, cudaStreamNonBlocking));
  copies(pair);
  peer_access(pair);
  order(pair);
  // The end of one device's context leaves the other's alone.
  CUDA_OK(cudaSetDevice(1));
  CUDA_OK(cudaDeviceReset());
  CUDA_OK(cudaSetDevice(0));
  expect_filled(pair.first, 1, "after the other device's reset");
  CUDA_OK(cudaFree(pair.first));
  std::printf("%d devices\n", count);
  return check::done("peers");
}
