// Holds much of the device's memory and changes it again and again, in pieces of all sizes; at the end every
// word must be what it would be if nobody else were there. For devices whose clients hold more than there is.
// Options: --percent P of the device (60), or --megabytes N; --seconds S (1); --pause-ms M between rounds
// (0); --idle S: says "idle" after half of the time and does nothing for so long; --stride W: changes each
// Wth word (16).
#include <cstring>
#include <string>

#include "check.hpp"

namespace {

constexpr uint32_t kStep = 2654435761U;

__host__ __device__ uint32_t first(uint32_t index, uint32_t seed) {
  return index * 2246822519U + seed;
}

// What a word is after `rounds` rounds: each adds its number times a constant, and the index.
__host__ __device__ uint32_t expected(uint32_t index, uint32_t seed, uint32_t rounds, uint32_t stride) {
  if (index % stride != 0) return first(index, seed);
  const uint64_t sum = static_cast<uint64_t>(rounds) * (rounds + 1) / 2;
  return first(index, seed) + static_cast<uint32_t>(sum) * kStep + rounds * index;
}

__global__ void fill(uint32_t* words, size_t count, uint32_t seed) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x) {
    words[i] = first(static_cast<uint32_t>(i), seed);
  }
}

__global__ void step(uint32_t* words, size_t count, uint32_t round, uint32_t stride) {
  const size_t every = size_t{gridDim.x} * blockDim.x * stride;
  for (size_t i = (blockIdx.x * size_t{blockDim.x} + threadIdx.x) * stride; i < count; i += every) {
    words[i] += round * kStep + static_cast<uint32_t>(i);
  }
}

__global__ void compare(const uint32_t* words, size_t count, uint32_t seed, uint32_t rounds, uint32_t stride,
                        unsigned* wrong) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x) {
    if (words[i] != expected(static_cast<uint32_t>(i), seed, rounds, stride)) atomicAdd(wrong, 1U);
  }
}

struct Piece {
  uint32_t* words;
  size_t count;
};

}  // namespace

int main(int argc, char** argv) {
  double percent = 60;
  double megabytes = 0;
  double seconds = 1;
  double idle = 0;
  int pause_ms = 0;
  uint32_t stride = 16;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    const double value = std::atof(argv[i + 1]);
    if (name == "--percent") percent = value;
    if (name == "--megabytes") megabytes = value;
    if (name == "--seconds") seconds = value;
    if (name == "--idle") idle = value;
    if (name == "--pause-ms") pause_ms = static_cast<int>(value);
    if (name == "--stride") stride = static_cast<uint32_t>(value);
  }
  size_t free_bytes = 0;
  size_t total = 0;
  CUDA_OK(cudaMemGetInfo(&free_bytes, &total));
  const size_t wanted = static_cast<size_t>(megabytes != 0 ? megabytes * 1048576.0
                                                           : static_cast<double>(total) * percent / 100.0);
  EXPECT(free_bytes >= wanted, "%zu bytes free of %zu, wanted %zu", free_bytes, total, wanted);

  // One large piece, one in the middle, many small ones; few end where a page does.
  std::vector<Piece> pieces;
  size_t held = 0;
  const auto take = [&](size_t bytes) {
    uint32_t* words = nullptr;
    CUDA_OK(cudaMalloc(&words, bytes));
    pieces.push_back({words, bytes / 4});
    held += bytes;
  };
  for (int i = 0; i < 40; ++i) take(size_t{256} << (i % 8));
  take((wanted / 8) | 4);
  take(wanted - held);
  int devices = 0;
  CUDA_OK(cudaDeviceGetAttribute(&devices, cudaDevAttrMultiProcessorCount, 0));
  const unsigned most_blocks = static_cast<unsigned>(devices) * 8;
  const auto blocks = [&](size_t count) {
    return static_cast<unsigned>(std::min<size_t>(most_blocks, (count + 255) / 256));
  };
  const auto seed = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(&held) ^ 0x9E3779B9U);

  for (size_t i = 0; i < pieces.size(); ++i) {
    fill<<<blocks(pieces[i].count), 256>>>(pieces[i].words, pieces[i].count, seed + static_cast<uint32_t>(i));
  }
  CUDA_OK(cudaDeviceSynchronize());
  std::printf("ready %zu MiB\n", held >> 20U);
  std::fflush(stdout);

  uint32_t rounds = 0;
  double end = check::seconds() + seconds;
  bool rested = idle == 0;
  while (check::seconds() < end || !rested) {
    ++rounds;
    for (const Piece& piece : pieces) {
      step<<<blocks(piece.count / stride + 1), 256>>>(piece.words, piece.count, rounds, stride);
    }
    CUDA_OK(cudaDeviceSynchronize());
    if (pause_ms != 0) std::this_thread::sleep_for(std::chrono::milliseconds(pause_ms));
    if (!rested && check::seconds() > end - seconds / 2) {
      std::printf("idle\n");
      std::fflush(stdout);
      std::this_thread::sleep_for(std::chrono::duration<double>(idle));
      end += idle;
      rested = true;
    }
  }

  unsigned* wrong = nullptr;
  CUDA_OK(cudaMalloc(&wrong, sizeof *wrong));
  CUDA_OK(cudaMemset(wrong, 0, sizeof *wrong));
  for (size_t i = 0; i < pieces.size(); ++i) {
    compare<<<blocks(pieces[i].count), 256>>>(pieces[i].words, pieces[i].count,
                                              seed + static_cast<uint32_t>(i), rounds, stride, wrong);
  }
  unsigned count = 0;
  CUDA_OK(cudaMemcpy(&count, wrong, sizeof count, cudaMemcpyDeviceToHost));
  EXPECT(count == 0, "%u words are wrong after %u rounds", count, rounds);
  // And as the host sees it.
  const Piece& part = pieces[pieces.size() - 2];
  std::vector<uint32_t> copy(std::min<size_t>(part.count, 1U << 18U));
  CUDA_OK(cudaMemcpy(copy.data(), part.words, copy.size() * 4, cudaMemcpyDeviceToHost));
  std::vector<uint32_t> right(copy.size());
  for (size_t i = 0; i < right.size(); ++i) {
    right[i] =
        expected(static_cast<uint32_t>(i), seed + static_cast<uint32_t>(pieces.size() - 2), rounds, stride);
  }
  EXPECT(check::hash(copy.data(), copy.size() * 4) == check::hash(right.data(), right.size() * 4),
         "the copy to the host is wrong");

  for (const Piece& piece : pieces) CUDA_OK(cudaFree(piece.words));
  CUDA_OK(cudaFree(wrong));
  std::printf("rounds %u\n", rounds);
  return check::done("oversub");
}
