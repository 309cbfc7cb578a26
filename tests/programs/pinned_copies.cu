// Large copies between pinned memory and the device: every byte of many sizes and places, in the order of
// their streams and in no other, inside and beside captures, queued up behind work that takes its time,
// refused, and behind a fault.
//   pinned_copies [--rounds N]   only copies 36 MiB and 7 bytes to the device and back, N times
#include "check.hpp"

namespace {

constexpr size_t kMega = size_t{1} << 20;
constexpr size_t kLargest = 36 * kMega + 7;
constexpr size_t kRoom = kLargest + 2 * 4096;

__global__ void delay(unsigned* out, int rounds) {
  unsigned value = threadIdx.x;
  for (int round = 0; round < rounds; ++round) value = value * 1664525U + 1013904223U;
  if (value == 0x12345678U) *out = value;
}

__global__ void write_wild(int* where) {
  *where = 1;
}

/// Fresh for each test: what the program does with pinned memory decides how a link treats it from then on.
struct Memory {
  unsigned char* pinned = nullptr;
  unsigned char* device = nullptr;
  unsigned char* second = nullptr;
  std::vector<unsigned char> pattern = std::vector<unsigned char>(kRoom);
  std::vector<unsigned char> seen = std::vector<unsigned char>(kRoom);
  Memory() {
    CUDA_OK(cudaMallocHost(&pinned, kRoom));
    CUDA_OK(cudaMalloc(&device, kRoom));
    CUDA_OK(cudaMalloc(&second, kRoom));
    renew(1);
  }
  ~Memory() {
    CUDA_OK(cudaFree(device));
    CUDA_OK(cudaFree(second));
    CUDA_OK(cudaFreeHost(pinned));
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  void renew(uint32_t seed, size_t bytes = kRoom) {
    check::Random random(seed);
    for (size_t at = 0; at + 4 <= bytes; at += 4) {
      const uint32_t value = random.next();
      std::memcpy(&pattern[at], &value, 4);
    }
  }
  /// Puts `pattern` on the device by way of pageable memory.
  void fill(unsigned char* target) {
    CUDA_OK(cudaMemcpy(target, pattern.data(), kRoom, cudaMemcpyHostToDevice));
    CUDA_OK(cudaDeviceSynchronize());
  }
  void expect_on_device(const unsigned char* where, const unsigned char* wanted, size_t bytes,
                        const char* what) {
    CUDA_OK(cudaMemcpy(seen.data(), where, bytes, cudaMemcpyDeviceToHost));
    expect(seen.data(), wanted, bytes, what);
  }
  static void expect(const unsigned char* got, const unsigned char* wanted, size_t bytes, const char* what) {
    if (std::memcmp(got, wanted, bytes) == 0) return;
    size_t at = 0;
    while (got[at] == wanted[at]) ++at;
    EXPECT(false, "%s: of %zu bytes number %zu is %d, not %d", what, bytes, at, got[at], wanted[at]);
  }
  static void expect_all(const unsigned char* got, unsigned char wanted, size_t bytes, const char* what) {
    for (size_t at = 0; at < bytes; ++at) {
      EXPECT(got[at] == wanted, "%s: of %zu bytes number %zu is %d, not %d", what, bytes, at, got[at],
             wanted);
    }
  }
};

void hold_up(Memory& memory, cudaStream_t stream) {
  delay<<<1, 32, 0, stream>>>(reinterpret_cast<unsigned*>(memory.second), 300'000);
}

void copy(void* to, const void* from, size_t bytes, cudaStream_t stream, bool wait) {
  if (wait) {
    CUDA_OK(cudaMemcpy(to, from, bytes, cudaMemcpyDefault));
  } else {
    CUDA_OK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
  }
}

void sizes_and_places(cudaStream_t stream) {
  Memory memory;
  struct Place {
    size_t host, device;
  };
  for (const size_t size : {2 * kMega - 1, 2 * kMega, 2 * kMega + 1, 3 * kMega + 4097, kLargest}) {
    const size_t room = size + 2 * 4096;
    for (const auto& [host, device] : {Place{0, 0}, Place{1, 3}, Place{4093, 4096}}) {
      const bool wait = device == 3;
      memory.renew(static_cast<uint32_t>(size + host), room);
      CUDA_OK(cudaMemset(memory.device, 0xEE, room));
      CUDA_OK(cudaDeviceSynchronize());
      std::memcpy(memory.pinned, memory.pattern.data(), room);
      copy(memory.device + device, memory.pinned + host, size, stream, wait);
      CUDA_OK(cudaMemcpy(memory.seen.data(), memory.device, room, cudaMemcpyDeviceToHost));
      Memory::expect_all(memory.seen.data(), 0xEE, device, "before the copy to the device");
      Memory::expect(memory.seen.data() + device, memory.pattern.data() + host, size, "to the device");
      const size_t end = device + size;
      Memory::expect_all(memory.seen.data() + end, 0xEE, room - end, "behind the copy to the device");

      memory.renew(static_cast<uint32_t>(size + host + 1), room);
      memory.fill(memory.device);
      std::memset(memory.pinned, 0xDD, room);
      copy(memory.pinned + host, memory.device + device, size, stream, wait);
      Memory::expect_all(memory.pinned, 0xDD, host, "before the copy to the host");
      Memory::expect(memory.pinned + host, memory.pattern.data() + device, size, "to the host");
      Memory::expect_all(memory.pinned + host + size, 0xDD, room - host - size,
                         "behind the copy to the host");
    }
  }
}

// What is copied to the host and on to the device, and what replaces it there, in one stream and in two.
void copied_on_in_stream_order(cudaStream_t stream, cudaStream_t other) {
  Memory memory;
  cudaEvent_t event = nullptr;
  CUDA_OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  for (const bool two : {false, true}) {
    for (int round = 0; round < 2; ++round) {
      memory.renew(static_cast<uint32_t>(round + 10));
      memory.fill(memory.device);
      CUDA_OK(cudaMemset(memory.second, 0, kRoom));
      std::memset(memory.pinned, 0x11, kRoom);
      CUDA_OK(cudaDeviceSynchronize());
      if (round % 2 != 0) hold_up(memory, stream);
      CUDA_OK(cudaMemcpyAsync(memory.pinned, memory.device, kLargest, cudaMemcpyDeviceToHost, stream));
      if (two) {
        CUDA_OK(cudaEventRecord(event, stream));
        CUDA_OK(cudaStreamWaitEvent(other, event, 0));
      }
      const cudaStream_t on = two ? other : stream;
      CUDA_OK(cudaMemcpyAsync(memory.second, memory.pinned, kLargest, cudaMemcpyHostToDevice, on));
      CUDA_OK(cudaMemsetAsync(memory.device, 0x77, kRoom, on));
      CUDA_OK(cudaMemcpyAsync(memory.pinned + 5, memory.device, 3 * kMega, cudaMemcpyDeviceToHost, on));
      CUDA_OK(cudaStreamSynchronize(on));
      memory.expect_on_device(memory.second, memory.pattern.data(), kLargest, "copied on");
      Memory::expect(memory.pinned, memory.pattern.data(), 5, "before what was replaced");
      Memory::expect_all(memory.pinned + 5, 0x77, 3 * kMega, "replaced");
      const size_t rest = 5 + 3 * kMega;
      Memory::expect(memory.pinned + rest, memory.pattern.data() + rest, kLargest - rest,
                     "what was not replaced");
    }
  }
  CUDA_OK(cudaEventDestroy(event));
}

// Two copies to one place: what the second brings is there, though the first has long ended.
void replaced(cudaStream_t stream) {
  Memory memory;
  memory.fill(memory.device);
  for (int round = 0; round < 3; ++round) {
    CUDA_OK(cudaMemset(memory.second, 0x66 + round, kRoom));
    CUDA_OK(cudaDeviceSynchronize());
    CUDA_OK(cudaMemcpyAsync(memory.pinned, memory.device, kLargest, cudaMemcpyDeviceToHost, stream));
    for (int i = 0; i < 4; ++i) hold_up(memory, stream);
    CUDA_OK(cudaMemcpyAsync(memory.pinned, memory.second, kLargest, cudaMemcpyDeviceToHost, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
    Memory::expect_all(memory.pinned, static_cast<unsigned char>(0x66 + round), kLargest, "replaced");
  }
}

// What the program writes when it has waited stays, whatever is still on its way.
void written_after_the_wait(cudaStream_t stream, cudaStream_t other) {
  Memory memory;
  cudaEvent_t event = nullptr;
  CUDA_OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  memory.renew(20);
  memory.fill(memory.device);
  for (int round = 0; round < 6; ++round) {
    const size_t size = round % 2 != 0 ? kLargest : 5 * kMega;
    CUDA_OK(cudaMemcpyAsync(memory.pinned, memory.device, size, cudaMemcpyDeviceToHost, stream));
    CUDA_OK(cudaEventRecord(event, stream));
    if (round % 3 == 0) {
      while (cudaEventQuery(event) == cudaErrorNotReady) std::this_thread::yield();
    } else if (round % 3 == 1) {
      CUDA_OK(cudaEventSynchronize(event));
    } else {
      CUDA_OK(cudaDeviceSynchronize());
    }
    Memory::expect(memory.pinned, memory.pattern.data(), size, "after a wait");
    std::memset(memory.pinned, round, size);
    hold_up(memory, other);
    CUDA_OK(cudaDeviceSynchronize());
    Memory::expect_all(memory.pinned, static_cast<unsigned char>(round), size, "written after a wait");
  }
  CUDA_OK(cudaEventDestroy(event));
}

// More than anybody keeps account of piece by piece, all behind a kernel.
void many_queued(cudaStream_t stream, cudaStream_t other) {
  Memory memory;
  std::vector<unsigned char*> targets(6);
  memory.renew(30);
  memory.fill(memory.device);
  for (auto& target : targets) {
    CUDA_OK(cudaMallocHost(&target, kLargest));
    std::memset(target, 0, kLargest);
  }
  hold_up(memory, stream);
  hold_up(memory, other);
  for (size_t i = 0; i < targets.size(); ++i) {
    CUDA_OK(cudaMemcpyAsync(targets[i], memory.device + i, kLargest, cudaMemcpyDeviceToHost,
                            i % 2 ? stream : other));
  }
  CUDA_OK(cudaStreamSynchronize(stream));
  CUDA_OK(cudaStreamSynchronize(other));
  for (size_t i = 0; i < targets.size(); ++i) {
    Memory::expect(targets[i], memory.pattern.data() + i, kLargest, "queued");
    CUDA_OK(cudaFreeHost(targets[i]));
  }
}

// Memory that is freed and made anew while a copy to it is under way.
void freed_under_way(cudaStream_t stream) {
  Memory memory;
  memory.renew(40);
  memory.fill(memory.device);
  for (int round = 0; round < 3; ++round) {
    unsigned char* target = nullptr;
    CUDA_OK(cudaMallocHost(&target, kLargest));
    hold_up(memory, stream);
    CUDA_OK(cudaMemcpyAsync(target, memory.device, kLargest, cudaMemcpyDeviceToHost, stream));
    CUDA_OK(cudaFreeHost(target));
    CUDA_OK(cudaMallocHost(&target, kLargest));
    std::memset(target, 0x42, kLargest);
    CUDA_OK(cudaDeviceSynchronize());
    Memory::expect_all(target, 0x42, kLargest, "made anew");
    CUDA_OK(cudaFreeHost(target));
  }
}

size_t nodes_of(cudaGraph_t graph) {
  size_t count = 0;
  CUDA_OK(cudaGraphGetNodes(graph, nullptr, &count));
  return count;
}

// One node a copy, also in a capture into a graph, and right at each launch; a copy beside the capture is
// none of it.
void captured(cudaStream_t stream, cudaStream_t other) {
  constexpr size_t kBytes = 5 * kMega + 1;
  unsigned char* beside = nullptr;
  CUDA_OK(cudaMallocHost(&beside, kBytes));
  for (const bool into : {false, true}) {
    Memory memory;
    cudaGraph_t graph = nullptr;
    if (into) {
      CUDA_OK(cudaGraphCreate(&graph, 0));
      CUDA_OK(
          cudaStreamBeginCaptureToGraph(stream, graph, nullptr, nullptr, 0, cudaStreamCaptureModeRelaxed));
    } else {
      CUDA_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    }
    CUDA_OK(cudaMemcpyAsync(memory.device, memory.pinned, kBytes, cudaMemcpyHostToDevice, stream));
    CUDA_OK(
        cudaMemcpyAsync(memory.pinned + 6 * kMega, memory.device, kBytes, cudaMemcpyDeviceToHost, stream));
    CUDA_OK(cudaMemcpyAsync(beside, memory.second, kBytes, cudaMemcpyDeviceToHost, other));
    CUDA_OK(cudaStreamEndCapture(stream, &graph));
    EXPECT(nodes_of(graph) == 2, "%zu nodes", nodes_of(graph));
    CUDA_OK(cudaStreamSynchronize(other));
    cudaGraphExec_t exec = nullptr;
    CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
    for (uint32_t round = 0; round < 2; ++round) {
      memory.renew(50 + round);
      std::memcpy(memory.pinned, memory.pattern.data(), kBytes);
      CUDA_OK(cudaGraphLaunch(exec, stream));
      CUDA_OK(cudaStreamSynchronize(stream));
      Memory::expect(memory.pinned + 6 * kMega, memory.pattern.data(), kBytes, "by a graph");
    }
    CUDA_OK(cudaGraphExecDestroy(exec));
    CUDA_OK(cudaGraphDestroy(graph));
  }
  CUDA_OK(cudaFreeHost(beside));
}

// A refused copy is reported once, by the call or by the next wait, and leaves the program's memory alone.
void refused(cudaStream_t stream) {
  Memory memory;
  auto* const nowhere = reinterpret_cast<unsigned char*>(0x1000);
  const auto once = [](cudaError_t at_call) {
    (void)cudaGetLastError();
    const cudaError_t at_wait = cudaDeviceSynchronize();
    (void)cudaGetLastError();
    EXPECT((at_call == cudaErrorInvalidValue) != (at_wait == cudaErrorInvalidValue),
           "the call gave %s, the wait %s", cudaGetErrorName(at_call), cudaGetErrorName(at_wait));
    CUDA_OK(cudaDeviceSynchronize());
  };
  once(cudaMemcpy(nowhere, memory.pinned, 8 * kMega, cudaMemcpyHostToDevice));
  std::memset(memory.pinned, 0x5A, kRoom);
  once(cudaMemcpy(memory.pinned, nowhere, 8 * kMega, cudaMemcpyDeviceToHost));
  once(cudaMemcpy(memory.pinned, nowhere, 100, cudaMemcpyDeviceToHost));
  hold_up(memory, stream);
  CUDA_OK(cudaDeviceSynchronize());
  Memory::expect_all(memory.pinned, 0x5A, 8 * kMega, "not copied");
  once(cudaMemcpyAsync(nowhere, memory.pinned, 8 * kMega, cudaMemcpyHostToDevice, stream));
  once(cudaMemcpyAsync(memory.pinned, nowhere, 8 * kMega, cudaMemcpyDeviceToHost, stream));
  // Too long by one byte.
  once(cudaMemcpy(memory.device + 1, memory.pinned, kRoom, cudaMemcpyHostToDevice));
  once(cudaMemcpyAsync(memory.pinned, memory.device + 1, kRoom, cudaMemcpyDeviceToHost, stream));
}

void behind_a_fault(cudaStream_t stream) {
  // Never freed: the context does not survive.
  auto& memory = *new Memory;
  write_wild<<<1, 1, 0, stream>>>(reinterpret_cast<int*>(0xdead0000ULL));
  (void)cudaMemcpyAsync(memory.device, memory.pinned, kLargest, cudaMemcpyHostToDevice, stream);
  (void)cudaMemcpyAsync(memory.pinned, memory.device, kLargest, cudaMemcpyDeviceToHost, stream);
  CUDA_IS(cudaStreamSynchronize(stream), cudaErrorIllegalAddress);
  CUDA_IS(cudaMemcpy(memory.device, memory.pinned, kLargest, cudaMemcpyHostToDevice),
          cudaErrorIllegalAddress);
}

int only_copy(int rounds) {
  Memory memory;
  std::printf("copying\n");
  std::fflush(stdout);
  for (int round = 0; round < rounds; ++round) {
    CUDA_OK(cudaMemcpyAsync(memory.device, memory.pinned, kLargest, cudaMemcpyHostToDevice));
    CUDA_OK(cudaMemcpyAsync(memory.pinned, memory.device, kLargest, cudaMemcpyDeviceToHost));
    CUDA_OK(cudaStreamSynchronize(nullptr));
  }
  return check::done("pinned_copies");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::strcmp(argv[1], "--rounds") == 0) return only_copy(std::atoi(argv[2]));
  cudaStream_t stream = nullptr;
  cudaStream_t other = nullptr;
  CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CUDA_OK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
  sizes_and_places(stream);
  copied_on_in_stream_order(stream, other);
  replaced(stream);
  written_after_the_wait(stream, other);
  many_queued(stream, other);
  freed_under_way(stream);
  refused(stream);
  captured(stream, other);
  behind_a_fault(stream);
  return check::done("pinned_copies");
}
