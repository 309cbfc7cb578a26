// Copies to the device that a synchronisation follows at once: whatever the program sends after it, to
// whatever stream and from whatever thread, finds them done, and their sources may be overwritten.
//   small_uploads [--rounds N]   only copies 512 bytes of pinned memory to the device and synchronises, and
//   512 of
//                                pageable memory back and synchronises, N times
#include "check.hpp"

namespace {

constexpr size_t kLarge = size_t{24} << 20;
constexpr unsigned kWords = 128;

/// Counts what differs from `wanted` in `words` words.
__global__ void compare(const unsigned* data, unsigned words, unsigned wanted, unsigned* wrong) {
  unsigned here = 0;
  for (unsigned at = blockIdx.x * blockDim.x + threadIdx.x; at < words; at += gridDim.x * blockDim.x) {
    if (data[at] != wanted) ++here;
  }
  if (here != 0) atomicAdd(wrong, here);
}

__global__ void write_to_host(unsigned* pinned, unsigned words, unsigned value, int rounds) {
  unsigned slow = value;
  for (int round = 0; round < rounds; ++round) slow = slow * 1664525U + 1013904223U;
  if (threadIdx.x < words) pinned[threadIdx.x] = slow == 0x12345678U ? 0 : value;
}

struct Memory {
  unsigned* pinned = nullptr;
  unsigned* device = nullptr;
  unsigned* wrong = nullptr;
  std::vector<unsigned> pageable = std::vector<unsigned>(kLarge / sizeof(unsigned));
  cudaStream_t copying{}, reading{}, blocking{};
  Memory() {
    CUDA_OK(cudaMallocHost(&pinned, kLarge));
    CUDA_OK(cudaMalloc(&device, kLarge));
    CUDA_OK(cudaMalloc(&wrong, sizeof *wrong));
    CUDA_OK(cudaMemset(wrong, 0, sizeof *wrong));
    CUDA_OK(cudaStreamCreateWithFlags(&copying, cudaStreamNonBlocking));
    CUDA_OK(cudaStreamCreateWithFlags(&reading, cudaStreamNonBlocking));
    CUDA_OK(cudaStreamCreate(&blocking));
    CUDA_OK(cudaDeviceSynchronize());
  }
  ~Memory() {
    for (const cudaStream_t stream : {copying, reading, blocking}) CUDA_OK(cudaStreamDestroy(stream));
    CUDA_OK(cudaFree(wrong));
    CUDA_OK(cudaFree(device));
    CUDA_OK(cudaFreeHost(pinned));
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  /// In `stream`: the first `words` words on the device are `wanted`.
  void expect(unsigned words, unsigned wanted, cudaStream_t stream, const char* what) {
    const unsigned blocks = words > 4096 ? 64 : 1;
    compare<<<blocks, 128, 0, stream>>>(device, words, wanted, wrong);
    CUDA_OK(cudaGetLastError());
    unsigned count = 0;
    CUDA_OK(cudaMemcpyAsync(&count, wrong, sizeof count, cudaMemcpyDeviceToHost, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
    if (count != 0) {
      char detail[96];
      std::snprintf(detail, sizeof detail, "%s: %u of %u words are wrong", what, count, words);
      check::fail(__FILE__, __LINE__, "a kernel found an old copy", detail);
    }
  }
};

void fill(unsigned* words, size_t count, unsigned value) {
  for (size_t at = 0; at < count; ++at) words[at] = value;
}

void large_pageable(Memory& memory) {
  for (unsigned round = 1; round <= 12; ++round) {
    fill(memory.pageable.data(), memory.pageable.size(), round);
    CUDA_OK(cudaMemcpyAsync(memory.device, memory.pageable.data(), kLarge, cudaMemcpyHostToDevice,
                            memory.copying));
    CUDA_OK(cudaStreamSynchronize(memory.copying));
    fill(memory.pageable.data(), memory.pageable.size(), 0xDEADBEEF);
    memory.expect(kLarge / sizeof(unsigned), round, memory.reading, "large, pageable");
  }
}

void small_pinned(Memory& memory, cudaStream_t copying, cudaStream_t reading, const char* what) {
  for (unsigned round = 1; round <= 400; ++round) {
    fill(memory.pinned, kWords, round);
    for (unsigned part = 0; part < 4; ++part) {
      CUDA_OK(cudaMemcpyAsync(memory.device + part * kWords / 4, memory.pinned + part * kWords / 4, kWords,
                              cudaMemcpyHostToDevice, copying));
      CUDA_OK(cudaStreamSynchronize(copying));
      fill(memory.pinned + part * kWords / 4, kWords / 4, 0xDEADBEEF);
    }
    memory.expect(kWords, round, reading, what);
  }
}

/// The synchronous form, with a size that does not fit into a record.
void synchronous(Memory& memory) {
  constexpr unsigned words = 12 << 10;
  for (unsigned round = 1; round <= 100; ++round) {
    fill(memory.pinned, words, round);
    CUDA_OK(cudaMemcpy(memory.device, memory.pinned, words * sizeof(unsigned), cudaMemcpyHostToDevice));
    fill(memory.pinned, words, 0xDEADBEEF);
    memory.expect(words, round, memory.reading, "synchronous");
  }
}

/// A copy whose source the device itself writes before it reads it.
void after_the_device_wrote(Memory& memory) {
  for (unsigned round = 1; round <= 50; ++round) {
    fill(memory.pinned, kWords, 0);
    write_to_host<<<1, kWords, 0, memory.copying>>>(memory.pinned, kWords, round, 20000);
    CUDA_OK(cudaMemcpyAsync(memory.device, memory.pinned, kWords * sizeof(unsigned), cudaMemcpyHostToDevice,
                            memory.copying));
    CUDA_OK(cudaStreamSynchronize(memory.copying));
    memory.expect(kWords, round, memory.reading, "written by the device");
    write_to_host<<<1, kWords, 0, memory.reading>>>(memory.pinned, kWords, round + 1000, 20000);
    cudaEvent_t written{};
    CUDA_OK(cudaEventCreateWithFlags(&written, cudaEventDisableTiming));
    CUDA_OK(cudaEventRecord(written, memory.reading));
    CUDA_OK(cudaStreamWaitEvent(memory.copying, written, 0));
    CUDA_OK(cudaMemcpyAsync(memory.device, memory.pinned, kWords * sizeof(unsigned), cudaMemcpyHostToDevice,
                            memory.copying));
    CUDA_OK(cudaStreamSynchronize(memory.copying));
    CUDA_OK(cudaEventDestroy(written));
    memory.expect(kWords, round + 1000, memory.reading, "written in another stream");
  }
}

/// A stream that ends with its copy, and one that ends with a kernel of which nobody has seen the end.
void streams_that_end(Memory& memory) {
  for (unsigned round = 1; round <= 100; ++round) {
    cudaStream_t ending{};
    CUDA_OK(cudaStreamCreateWithFlags(&ending, cudaStreamNonBlocking));
    fill(memory.pinned, kWords, round);
    CUDA_OK(cudaMemcpyAsync(memory.device, memory.pinned, kWords * sizeof(unsigned), cudaMemcpyHostToDevice,
                            ending));
    CUDA_OK(cudaStreamSynchronize(ending));
    CUDA_OK(cudaStreamDestroy(ending));
    memory.expect(kWords, round, memory.reading, "of a stream that has ended");
    CUDA_OK(cudaStreamCreateWithFlags(&ending, cudaStreamNonBlocking));
    write_to_host<<<1, kWords, 0, ending>>>(memory.pinned + kWords, kWords, round, 20000);
    CUDA_OK(cudaStreamDestroy(ending));
    CUDA_OK(cudaMemcpyAsync(memory.device, memory.pinned, kWords * sizeof(unsigned), cudaMemcpyHostToDevice,
                            memory.copying));
    CUDA_OK(cudaDeviceSynchronize());
    if (memory.pinned[2 * kWords - 1] != round) check::fail(__FILE__, __LINE__, "a kernel had not ended", "");
  }
}

/// One thread copies and synchronises, another one that it tells launches.
void two_threads(Memory& memory) {
  std::atomic<unsigned> copied{0}, read{0};
  constexpr unsigned rounds = 300;
  std::thread reader([&] {
    for (unsigned round = 1; round <= rounds; ++round) {
      while (copied.load(std::memory_order_acquire) != round) std::this_thread::yield();
      memory.expect(kWords, round, memory.reading, "of another thread");
      read.store(round, std::memory_order_release);
    }
  });
  for (unsigned round = 1; round <= rounds; ++round) {
    fill(memory.pinned, kWords, round);
    CUDA_OK(cudaMemcpyAsync(memory.device, memory.pinned, kWords * sizeof(unsigned), cudaMemcpyHostToDevice,
                            memory.copying));
    CUDA_OK(cudaStreamSynchronize(memory.copying));
    copied.store(round, std::memory_order_release);
    while (read.load(std::memory_order_acquire) != round) std::this_thread::yield();
  }
  reader.join();
}

}  // namespace

int main(int count, char** arguments) {
  Memory memory;
  if (count == 3 && std::strcmp(arguments[1], "--rounds") == 0) {
    for (int round = 0; round < std::atoi(arguments[2]); ++round) {
      CUDA_OK(cudaMemcpyAsync(memory.device, memory.pinned, kWords * sizeof(unsigned), cudaMemcpyHostToDevice,
                              memory.copying));
      CUDA_OK(cudaStreamSynchronize(memory.copying));
      CUDA_OK(cudaMemcpyAsync(memory.pageable.data(), memory.device, kWords * sizeof(unsigned),
                              cudaMemcpyDeviceToHost, memory.reading));
      CUDA_OK(cudaStreamSynchronize(memory.reading));
    }
    return check::done("small_uploads");
  }
  large_pageable(memory);
  small_pinned(memory, memory.copying, memory.reading, "small, pinned");
  small_pinned(memory, memory.blocking, memory.reading, "small, pinned, in a blocking stream");
  small_pinned(memory, memory.copying, nullptr, "small, pinned, read in the default stream");
  small_pinned(memory, nullptr, memory.reading, "small, pinned, in the default stream");
  synchronous(memory);
  after_the_device_wrote(memory);
  streams_that_end(memory);
  two_threads(memory);
  return check::done("small_uploads");
}
