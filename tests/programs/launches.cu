// Launches an empty kernel many times without waiting, then waits once.
//   launches [COUNT]
#include <cstdlib>

#include "check.hpp"

namespace {
__global__ void add_one(unsigned* counter) {
  *counter += 1;
}
}  // namespace

int main(int argc, char** argv) {
  const unsigned count = argc > 1 ? static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10)) : 1000;
  unsigned* counter = nullptr;
  CUDA_OK(cudaMalloc(&counter, sizeof *counter));
  CUDA_OK(cudaMemset(counter, 0, sizeof *counter));
  for (unsigned i = 0; i < count; ++i) add_one<<<1, 1>>>(counter);
  unsigned launched = 0;
  CUDA_OK(cudaMemcpy(&launched, counter, sizeof launched, cudaMemcpyDeviceToHost));
  EXPECT(launched == count, "%u launches ran", launched);
  CUDA_OK(cudaFree(counter));
  return check::done("launches");
}
