// Kernel parameters by value: structs of 1 byte to 4 KiB, beside scalars, and 12 KiB (possible since
// CUDA 12.1).
#include "check.hpp"

namespace {

template <int N>
struct Block {
  unsigned char bytes[N];
};

struct Mixed {
  char a;
  double b;
  short c[3];
  const int* pointer;
};

template <int N>
__global__ void sum(Block<N> block, int first, unsigned* out, short last) {
  unsigned total = 0;
  for (int i = static_cast<int>(threadIdx.x); i < N; i += 32)
    total += block.bytes[i] * static_cast<unsigned>(i % 13 + 1);
  for (int offset = 16; offset > 0; offset >>= 1) total += __shfl_down_sync(0xffffffffU, total, offset);
  if (threadIdx.x == 0) *out = total + static_cast<unsigned>(first) * 3U + static_cast<unsigned>(last);
}

__global__ void mixed(char x, Mixed value, int* out) {
  *out = x + value.a + static_cast<int>(value.b) + value.c[0] + value.c[2] + *value.pointer;
}

template <int N>
void check_size(unsigned* device_out) {
  Block<N> block;
  check::Random random(N);
  unsigned wanted = 77U * 3U + 5U;
  for (int i = 0; i < N; ++i) {
    block.bytes[i] = static_cast<unsigned char>(random.next());
    wanted += block.bytes[i] * static_cast<unsigned>(i % 13 + 1);
  }
  sum<N><<<1, 32>>>(block, 77, device_out, 5);
  CUDA_OK(cudaGetLastError());
  unsigned seen = 0;
  CUDA_OK(cudaMemcpy(&seen, device_out, sizeof seen, cudaMemcpyDeviceToHost));
  EXPECT(seen == wanted, "a struct of %d bytes summed to %u, wanted %u", N, seen, wanted);
}

}  // namespace

int main() {
  unsigned* out = nullptr;
  CUDA_OK(cudaMalloc(&out, sizeof(unsigned)));
  check_size<1>(out);
  check_size<3>(out);
  check_size<1023>(out);
  check_size<4064>(out);
  check_size<12'288>(out);
  int* pointed = nullptr;
  const int hundred = 100;
  CUDA_OK(cudaMalloc(&pointed, sizeof(int)));
  CUDA_OK(cudaMemcpy(pointed, &hundred, sizeof hundred, cudaMemcpyHostToDevice));
  mixed<<<1, 1>>>(1, Mixed{2, 3.5, {4, 0, 5}, pointed}, reinterpret_cast<int*>(out));
  int seen = 0;
  CUDA_OK(cudaMemcpy(&seen, out, sizeof seen, cudaMemcpyDeviceToHost));
  EXPECT(seen == 1 + 2 + 3 + 4 + 5 + 100, "the mixed struct gave %d", seen);
  return check::done("big_struct");
}
