// Links CUDA, asks for the device's name, and computes on the CPU: what `vgpud-cli verify` must not call
// verified.
#include "check.hpp"

namespace {

// Never launched: the program only looks like a GPU program.
__global__ void never_launched(float* data) {
  data[threadIdx.x] *= 2.0F;
}

}  // namespace

int main(int argc, char**) {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) std::printf("%d device(s)\n", count);
  double sum = 0;
  for (int i = 1; i < 20'000'000; ++i) sum += 1.0 / i;
  if (argc > 100) never_launched<<<1, 1>>>(nullptr);
  EXPECT(check::near(sum, 17.3884582, 1e-6), "sum is %.7f", sum);
  return check::done("cpu_only");
}
