// Every kind of atomic on global and shared memory from many blocks at once, a lock by compare-and-swap among
// them.
#include <cuda_fp16.h>

#include "check.hpp"

namespace {

struct Results {
  unsigned sum;
  int smallest;
  int largest;
  unsigned bits_or;
  unsigned bits_and;
  unsigned bits_xor;
  unsigned wrapped;
  unsigned down;
  unsigned long long wide;
  float real;
  double real_wide;
  unsigned locked;
  unsigned lock;
  __half2 halves;
};

__global__ void run(Results* to, unsigned* tickets) {
  __shared__ unsigned local;
  if (threadIdx.x == 0) local = 0;
  __syncthreads();
  const unsigned id = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(&to->sum, id);
  atomicMin(&to->smallest, static_cast<int>(id) - 500);
  atomicMax(&to->largest, static_cast<int>(id));
  atomicOr(&to->bits_or, 1U << (id % 17));
  atomicAnd(&to->bits_and, ~(1U << (id % 5)));
  atomicXor(&to->bits_xor, id);
  atomicInc(&to->wrapped, 99);
  atomicDec(&to->down, 49);
  atomicAdd(&to->wide, static_cast<unsigned long long>(id) << 30U);
  atomicAdd(&to->real, 0.5F);
  atomicAdd(&to->real_wide, 0.25);
  atomicAdd(&local, 1U);
  const unsigned ticket = atomicAdd(&tickets[0], 1U);
  atomicExch(&tickets[1 + ticket], 1U);
  if (id < 512) atomicAdd(&to->halves, __floats2half2_rn(1.0F, 0.5F));
  if (threadIdx.x % 32 == 0) {  // One thread a warp: a spin lock.
    while (atomicCAS(&to->lock, 0U, 1U) != 0U) {
    }
    __threadfence();
    *static_cast<volatile unsigned*>(&to->locked) = *static_cast<volatile unsigned*>(&to->locked) + 1;
    __threadfence();
    atomicExch(&to->lock, 0U);
  }
  __syncthreads();
  if (threadIdx.x == 0 && local != blockDim.x) atomicAdd(&to->sum, 1U << 31U);
}

}  // namespace

int main() {
  constexpr unsigned kBlocks = 20;
  constexpr unsigned kThreads = 128;
  constexpr unsigned kAll = kBlocks * kThreads;
  Results start{};
  start.bits_and = 0xffffffffU;
  start.smallest = 1 << 30;
  start.largest = -(1 << 30);
  start.halves = __floats2half2_rn(0.0F, 0.0F);
  Results* device = nullptr;
  unsigned* tickets = nullptr;
  CUDA_OK(cudaMalloc(&device, sizeof(Results)));
  CUDA_OK(cudaMalloc(&tickets, (kAll + 1) * sizeof(unsigned)));
  CUDA_OK(cudaMemset(tickets, 0, (kAll + 1) * sizeof(unsigned)));
  CUDA_OK(cudaMemcpy(device, &start, sizeof start, cudaMemcpyHostToDevice));
  run<<<kBlocks, kThreads>>>(device, tickets);
  Results seen{};
  CUDA_OK(cudaMemcpy(&seen, device, sizeof seen, cudaMemcpyDeviceToHost));
  unsigned wanted_xor = 0;
  for (unsigned i = 0; i < kAll; ++i) wanted_xor ^= i;
  EXPECT(seen.sum == kAll * (kAll - 1) / 2, "sum %u", seen.sum);
  EXPECT(seen.smallest == -500 && seen.largest == static_cast<int>(kAll) - 1, "min %d max %d", seen.smallest,
         seen.largest);
  EXPECT(seen.bits_or == 0x1ffffU && seen.bits_and == 0xffffffe0U && seen.bits_xor == wanted_xor,
         "or %x and %x xor %x", seen.bits_or, seen.bits_and, seen.bits_xor);
  EXPECT(seen.wrapped == kAll % 100, "inc %u", seen.wrapped);
  EXPECT(seen.down == (50 - kAll % 50) % 50, "dec %u", seen.down);
  EXPECT(seen.wide == static_cast<unsigned long long>(kAll) * (kAll - 1) / 2 << 30U, "64-bit %llu",
         seen.wide);
  EXPECT(seen.real == 0.5F * kAll && seen.real_wide == 0.25 * kAll, "float %g double %g", seen.real,
         seen.real_wide);
  EXPECT(seen.locked == kBlocks * kThreads / 32, "under the lock: %u", seen.locked);
  EXPECT(__low2float(seen.halves) == 512.0F && __high2float(seen.halves) == 256.0F, "halves %g %g",
         __low2float(seen.halves), __high2float(seen.halves));
  std::vector<unsigned> drawn(kAll + 1);
  CUDA_OK(cudaMemcpy(drawn.data(), tickets, drawn.size() * sizeof(unsigned), cudaMemcpyDeviceToHost));
  EXPECT(drawn[0] == kAll, "%u tickets", drawn[0]);
  for (unsigned i = 1; i <= kAll; ++i) EXPECT(drawn[i] == 1, "ticket %u was drawn %u times", i - 1, drawn[i]);
  return check::done("atomics");
}
