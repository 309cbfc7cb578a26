// Double precision: fma chains, division, square root and rounding agree with the CPU to the last bit.
#include "check.hpp"

namespace {

__global__ void compute(const double* in, double* out, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  const double x = in[i];
  double sum = 0;
  for (int k = 1; k <= 8; ++k) sum = fma(x, sum, 1.0 / k);
  out[4 * i] = sum;
  out[4 * i + 1] = __ddiv_rn(x, sum + 3.0);
  out[4 * i + 2] = sqrt(fabs(x));
  out[4 * i + 3] =
      rint(x * 10.0) + floor(x) - trunc(x * 3.0) + static_cast<double>(static_cast<long long>(x * 1e6));
}

}  // namespace

int main() {
  constexpr int kCount = 20'000;
  check::Random random(41);
  std::vector<double> in(kCount);
  for (auto& value : in) value = (random.unit() - 0.5) * 8.0 + random.unit() * 1e-7;
  double* device_in = nullptr;
  double* device_out = nullptr;
  CUDA_OK(cudaMalloc(&device_in, kCount * sizeof(double)));
  CUDA_OK(cudaMalloc(&device_out, 4 * kCount * sizeof(double)));
  CUDA_OK(cudaMemcpy(device_in, in.data(), kCount * sizeof(double), cudaMemcpyHostToDevice));
  compute<<<(kCount + 127) / 128, 128>>>(device_in, device_out, kCount);
  std::vector<double> out(4 * kCount);
  CUDA_OK(cudaMemcpy(out.data(), device_out, out.size() * sizeof(double), cudaMemcpyDeviceToHost));
  for (int i = 0; i < kCount; ++i) {
    const double x = in[i];
    double sum = 0;
    for (int k = 1; k <= 8; ++k) sum = std::fma(x, sum, 1.0 / k);
    EXPECT(out[4 * i] == sum, "polynomial at %.17g: %.17g, wanted %.17g", x, out[4 * i], sum);
    EXPECT(out[4 * i + 1] == x / (sum + 3.0), "division at %.17g", x);
    EXPECT(out[4 * i + 2] == std::sqrt(std::fabs(x)), "square root at %.17g", x);
    const double rounded = out[4 * i + 3];
    const double wanted = std::rint(x * 10.0) + std::floor(x) - std::trunc(x * 3.0) +
                          static_cast<double>(static_cast<long long>(x * 1e6));
    EXPECT(rounded == wanted, "rounding at %.17g: %.17g, wanted %.17g", x, rounded, wanted);
  }
  return check::done("double_precision");
}
