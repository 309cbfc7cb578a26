// Warp instructions under divergence: votes, matches, shuffles of every kind, partial masks, warp reductions.
#include "check.hpp"

namespace {

constexpr int kResults = 12;

__global__ void run(unsigned* out) {
  const unsigned lane = threadIdx.x % 32;
  unsigned* to = out + threadIdx.x * kResults;
  constexpr unsigned kAll = 0xffffffffU;
  to[0] = __ballot_sync(kAll, lane % 3 == 0);
  to[1] = static_cast<unsigned>(__any_sync(kAll, lane == 31)) |
          static_cast<unsigned>(__all_sync(kAll, lane < 31)) << 1U;
  to[2] = __match_any_sync(kAll, lane / 5);
  int same = -1;
  to[3] = __match_all_sync(kAll, threadIdx.x / 32, &same) + static_cast<unsigned>(same);
  to[4] = __shfl_sync(kAll, lane * 10, static_cast<int>(lane) + 3, 8);
  to[5] = __shfl_up_sync(kAll, lane, 2, 16);
  to[6] = __shfl_down_sync(kAll, lane, 5);
  to[7] = __shfl_xor_sync(kAll, lane, 7);
  unsigned mask = 0;
  unsigned sum = 0;
  if (lane % 2 == 0) {
    mask = __activemask();
    sum = __shfl_sync(0x55555555U, lane, 4);
    if (lane < 10) sum += __ballot_sync(0x155U, true);
  } else {
    mask = __activemask();
    for (unsigned i = 0; i < lane; ++i) sum += i;  // Each lane leaves at another time.
    __syncwarp(0xaaaaaaaaU);
    sum += __shfl_sync(0xaaaaaaaaU, sum, 31);
  }
  to[8] = mask;
  to[9] = sum;
  __syncwarp();
  to[10] = __popc(__ballot_sync(kAll, sum != 0));
  unsigned long long wide = static_cast<unsigned long long>(lane) << 33U | lane;
  wide = __shfl_xor_sync(kAll, wide, 1);
  to[11] = static_cast<unsigned>(wide >> 33U) + static_cast<unsigned>(wide & 0xffU);
}

}  // namespace

int main() {
  unsigned* device = nullptr;
  constexpr int kThreads = 64;
  CUDA_OK(cudaMalloc(&device, kThreads * kResults * sizeof(unsigned)));
  run<<<1, kThreads>>>(device);
  std::vector<unsigned> out(kThreads * kResults);
  CUDA_OK(cudaMemcpy(out.data(), device, out.size() * sizeof(unsigned), cudaMemcpyDeviceToHost));
  unsigned thirds = 0;
  for (unsigned i = 0; i < 32; i += 3) thirds |= 1U << i;
  for (unsigned thread = 0; thread < kThreads; ++thread) {
    const unsigned lane = thread % 32;
    const unsigned* seen = &out[thread * kResults];
    unsigned match = 0;
    for (unsigned i = 0; i < 32; ++i) match |= (i / 5 == lane / 5 ? 1U : 0U) << i;
    const unsigned odd_sum = lane * (lane - 1) / 2 + 31 * 30 / 2;
    const bool even = lane % 2 == 0;
    const unsigned wanted[kResults] = {thirds,
                                       1U,
                                       match,
                                       0xffffffffU + 1U,
                                       (lane / 8 * 8 + (lane + 3) % 8) * 10,
                                       lane % 16 < 2 ? lane : lane - 2,
                                       lane + 5 > 31 ? lane : lane + 5,
                                       lane ^ 7U,
                                       even ? 0x55555555U : 0xaaaaaaaaU,
                                       even ? (lane < 10 ? 4U + 0x155U : 4U) : odd_sum,
                                       32U,
                                       2 * (lane ^ 1U)};
    for (int k = 0; k < kResults; ++k) {
      EXPECT(seen[k] == wanted[k], "thread %u result %d is 0x%x, wanted 0x%x", thread, k, seen[k], wanted[k]);
    }
  }
  return check::done("warp_ops");
}
