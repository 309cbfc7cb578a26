// Hash-checked copies of 1 B to 256 MB there and back: synchronous and asynchronous, pageable and pinned,
// random bytes, all zeros, and bytes that look like a fatbin. The argument limits the largest size in MB
// (default 256).
#include <sys/mman.h>

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

// Memory of the device is no host memory: the call says so, and nothing is touched.
void misplaced(cudaStream_t stream) {
  char* device = nullptr;
  char host[16] = {};
  CUDA_OK(cudaMalloc(&device, 4096));
  CUDA_IS(cudaMemcpy(device, device + 100, 16, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  CUDA_IS(cudaMemcpy(host, device, 16, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  CUDA_IS(cudaMemcpy(device, device + 100, 16, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  CUDA_IS(cudaMemcpyAsync(device, device + 100, 16, cudaMemcpyHostToDevice, stream), cudaErrorInvalidValue);
  (void)cudaGetLastError();
  CUDA_OK(cudaDeviceSynchronize());
  CUDA_OK(cudaFree(device));
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
  misplaced(stream);
  // The large ones once in each way, so that the program stays short.
  int variant = 0;
  for (size_t size = 16U << 20U; size <= largest; size *= 4, ++variant) {
    round_trip(size, variant % 2 == 0, true, Pattern::kRandom, stream);
    round_trip(size + 13, variant % 2 == 1, false, variant == 2 ? Pattern::kZero : Pattern::kRandom, stream);
  }
  return check::done("copies");
}
