// A failing device assertion and a trap end the context with their own errors (argument: assert or trap).
#undef NDEBUG
#include <cassert>

#include "check.hpp"

namespace {

__global__ void check_value(int value) {
  assert(value == 1);
}

__global__ void trap_if(int value) {
  if (value != 0) __trap();
}

}  // namespace

int main(int argc, char** argv) {
  const bool want_assert = argc < 2 || std::strcmp(argv[1], "trap") != 0;
  check_value<<<1, 32>>>(1);
  trap_if<<<1, 32>>>(0);
  CUDA_OK(cudaDeviceSynchronize());
  cudaError_t error = cudaSuccess;
  if (want_assert) {
    check_value<<<1, 1>>>(2);
    error = cudaDeviceSynchronize();
    EXPECT(error == cudaErrorAssert, "the assertion gave %s", cudaGetErrorName(error));
  } else {
    trap_if<<<1, 1>>>(1);
    error = cudaDeviceSynchronize();
    EXPECT(error == cudaErrorLaunchFailure || error == cudaErrorIllegalInstruction, "the trap gave %s",
           cudaGetErrorName(error));
  }
  CUDA_IS(cudaDeviceSynchronize(), error);
  return check::done("trap");
}
