// Hash-checked copies of 1 B to 256 MB there and back: synchronous and asynchronous, pageable and pinned,
// random bytes, all zeros, and bytes that look like a fatbin. The argument limits the largest size in MB
// (default 256).
#include <sys/mman.h>

#include <cstring>

#include "check.hpp"

namespace {

enum class Pattern { kRandom, kZero, kFatbin };

void fill(unsigned char* data, size_t size, Pattern pattern, uint32_t seed) {
  std::memset(data, 0, size);
  if (pattern == Pattern::kRandom) {
    uint64_t state = seed * 0x9E3779B97F4A7C15ULL + 1;
    for (size_t at = 0; at + 8 <= size; at += 8) {
      state ^= state << 13;
      state ^= state >> 7;
      state ^= state << 17;
      std::memcpy(data + at, &state, 8);
    }
    for (size_t at = size / 8 * 8; at < size; ++at) data[at] = static_cast<unsigned char>(seed + at);
  } else if (pattern == Pattern::kFatbin) {
    const uint32_t wrapper[2] = {0x466243B1, 1};
    const uint32_t fatbin[4] = {0xBA55ED50, 0x00100001, 0xffffffff, 0x7fffffff};
    for (size_t at = 0; at + 24 <= size; at += 512) {
      std::memcpy(data + at, wrapper, 8);
      std::memcpy(data + at + 8, fatbin, 16);
    }
  }
}

/// Host memory, pageable or pinned, given back at the end of scope.
class Buffer {
 public:
  Buffer(size_t size, bool pinned) : pinned_(pinned) {
    if (pinned) {
      CUDA_OK(cudaMallocHost(&data_, size));
    } else {
      data_ = std::malloc(size);
      EXPECT(data_ != nullptr, "no host memory for %zu bytes", size);
    }
  }
  ~Buffer() {
    if (pinned_) {
      CUDA_OK(cudaFreeHost(data_));
    } else {
      std::free(data_);
    }
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  unsigned char* data() { return static_cast<unsigned char*>(data_); }

 private:
  void* data_ = nullptr;
  bool pinned_;
};

void round_trip(size_t size, bool pinned, bool async, Pattern pattern, cudaStream_t stream) {
  Buffer from(size, pinned);
  Buffer to(size, pinned);
  fill(from.data(), size, pattern, static_cast<uint32_t>(size));
  std::memset(to.data(), 0xa5, size);
  const uint64_t wanted = check::hash(from.data(), size);
  unsigned char* device = nullptr;
  unsigned char* second = nullptr;
  CUDA_OK(cudaMalloc(&device, size));
  CUDA_OK(cudaMalloc(&second, size));
  if (async) {
    CUDA_OK(cudaMemcpyAsync(device, from.data(), size, cudaMemcpyHostToDevice, stream));
    CUDA_OK(cudaMemcpyAsync(second, device, size, cudaMemcpyDeviceToDevice, stream));
    CUDA_OK(cudaMemcpyAsync(to.data(), second, size, cudaMemcpyDeviceToHost, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
  } else {
    CUDA_OK(cudaMemcpy(device, from.data(), size, cudaMemcpyHostToDevice));
    CUDA_OK(cudaMemcpy(second, device, size, cudaMemcpyDeviceToDevice));
    CUDA_OK(cudaMemcpy(to.data(), second, size, cudaMemcpyDeviceToHost));
  }
  EXPECT(check::hash(to.data(), size) == wanted, "%zu bytes, %s, %s, pattern %d", size,
         pinned ? "pinned" : "pageable", async ? "asynchronous" : "synchronous", static_cast<int>(pattern));
  CUDA_OK(cudaFree(device));
  CUDA_OK(cudaFree(second));
}

// With unified addresses memory is what it is: the direction that is named has to hold only for the side that
// must be the device's. As an H100 has it.
void misnamed(cudaStream_t stream) {
  struct Way {
    cudaMemcpyKind kind;
    bool from_device, to_device, allowed;
  };
  const Way ways[] = {{cudaMemcpyHostToDevice, true, true, true},
                      {cudaMemcpyHostToDevice, true, false, false},
                      {cudaMemcpyDeviceToHost, true, true, true},
                      {cudaMemcpyDeviceToHost, false, true, false},
                      {cudaMemcpyDeviceToHost, false, false, false}};
  constexpr size_t size = 1000;
  char* device[2] = {};
  char host[2][size];
  for (char*& memory : device) CUDA_OK(cudaMalloc(&memory, size));
  for (const Way& way : ways) {
    for (const bool async : {false, true}) {
      // What is refused, is at a later call through vgpud, where the copy is asynchronous.
      if (async && !way.allowed) continue;
      std::memset(host[0], 1, size);
      std::memset(host[1], 2, size);
      CUDA_OK(cudaMemset(device[0], 1, size));
      CUDA_OK(cudaMemset(device[1], 2, size));
      CUDA_OK(cudaDeviceSynchronize());
      const char* const from = way.from_device ? device[0] : host[0];
      char* const to = way.to_device ? device[1] : host[1];
      const cudaError_t wanted = way.allowed ? cudaSuccess : cudaErrorInvalidValue;
      if (async) {
        CUDA_IS(cudaMemcpyAsync(to, from, size, way.kind, stream), wanted);
      } else {
        CUDA_IS(cudaMemcpy(to, from, size, way.kind), wanted);
      }
      (void)cudaGetLastError();
      CUDA_OK(cudaDeviceSynchronize());
      char seen[size];
      CUDA_OK(cudaMemcpy(seen, to, size, cudaMemcpyDefault));
      EXPECT(seen[0] == (way.allowed ? 1 : 2) && seen[size - 1] == seen[0], "kind %d, asynchronous %d: %d",
             way.kind, async, seen[0]);
    }
  }
  for (char* const memory : device) CUDA_OK(cudaFree(memory));
}

// A memset that can be right nowhere is refused at once, and spoils nothing.
void wrong_memsets() {
  constexpr size_t kBytes = 4096;
  CUdeviceptr memory = 0;
  DRV_OK(cuMemAlloc(&memory, kBytes));
  DRV_IS(cuMemsetD8(0, 1, 4), CUDA_ERROR_INVALID_VALUE);
  DRV_IS(cuMemsetD16(memory + 1, 1, 4), CUDA_ERROR_INVALID_VALUE);
  DRV_IS(cuMemsetD32(memory + 2, 1, 4), CUDA_ERROR_INVALID_VALUE);
  DRV_IS(cuMemsetD2D32(memory, 18, 1, 4, 2), CUDA_ERROR_INVALID_VALUE);
  DRV_IS(cuMemsetD2D8(memory, 8, 1, 9, 2), CUDA_ERROR_INVALID_VALUE);
  DRV_IS(cuMemsetD32(memory, 1, size_t{1} << 62U), CUDA_ERROR_INVALID_VALUE);
  DRV_IS(cuMemsetD2D8(memory, size_t{1} << 63U, 1, 8, 3), CUDA_ERROR_INVALID_VALUE);
  DRV_OK(cuMemsetD2D32(memory, 18, 1, 4, 1));
  DRV_OK(cuMemsetD8(0, 1, 0));
  DRV_OK(cuCtxSynchronize());
  DRV_OK(cuMemFree(memory));
}

}  // namespace

int main(int argc, char** argv) {
  const size_t largest = (argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 256U) << 20U;
  cudaStream_t stream = nullptr;
  CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const size_t small[] = {1,        2,    3,    7,    8,      63,     64,        65,
                          255,      4095, 4096, 4097, 65'535, 65'537, 1U << 20U, (1U << 20U) + 1,
                          3'000'001};
  for (const size_t size : small) {
    for (const bool pinned : {false, true}) {
      for (const bool async : {false, true}) {
        for (const Pattern pattern : {Pattern::kRandom, Pattern::kZero, Pattern::kFatbin}) {
          round_trip(size, pinned, async, pattern, stream);
        }
      }
    }
  }
  misnamed(stream);
  wrong_memsets();
  // The large ones once in each way, so that the program stays short.
  int variant = 0;
  for (size_t size = 16U << 20U; size <= largest; size *= 4, ++variant) {
    round_trip(size, variant % 2 == 0, true, Pattern::kRandom, stream);
    round_trip(size + 13, variant % 2 == 1, false, variant == 2 ? Pattern::kZero : Pattern::kRandom, stream);
  }
  return check::done("copies");
}
