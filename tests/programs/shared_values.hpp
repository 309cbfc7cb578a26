// Numbers in device memory that two processes share: written by one, added to by the other, compared on the
// host.
#pragma once

#include <vector>

#include "check.hpp"

namespace check {

/// values[i] = first + i.
static __global__ void fill(int* out, int n, int first) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = first + i;
}

/// values[i] += more.
static __global__ void add(int* values, int n, int more) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) values[i] += more;
}

/// Ends the program where values[i] is not first + i.
inline void expect_values(const int* device, int n, int first) {
  std::vector<int> seen(n);
  CUDA_OK(cudaMemcpy(seen.data(), device, n * sizeof(int), cudaMemcpyDeviceToHost));
  for (int i = 0; i < n; ++i) EXPECT(seen[i] == first + i, "at %d: %d, wanted %d", i, seen[i], first + i);
}

}  // namespace check
