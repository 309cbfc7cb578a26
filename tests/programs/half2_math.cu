// Half precision: conversions, half2 arithmetic and comparison, against the same steps rounded on the CPU.
#include <cuda_fp16.h>

#include "check.hpp"

namespace {

__global__ void combine(const __half2* a, const __half2* b, __half2* fused, __half2* sum, int* larger,
                        int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  fused[i] = __hfma2(a[i], b[i], __float2half2_rn(0.5F));
  sum[i] = __hadd2(__hmul2(a[i], a[i]), __hneg2(b[i]));
  larger[i] = (__hgt(__low2half(a[i]), __low2half(b[i])) ? 1 : 0) |
              (__hgt(__high2half(a[i]), __high2half(b[i])) ? 2 : 0);
}

float round_half(double value) {
  return __half2float(__float2half_rn(static_cast<float>(value)));
}

}  // namespace

int main() {
  constexpr int kCount = 5000;
  check::Random random(31);
  std::vector<__half> a(2 * kCount);
  std::vector<__half> b(2 * kCount);
  for (int i = 0; i < 2 * kCount; ++i) {
    a[i] = __float2half_rn((random.unit() - 0.5F) * 20.0F);
    b[i] = __float2half_rn((random.unit() - 0.5F) * 20.0F);
  }
  constexpr size_t kBytes = 2 * kCount * sizeof(__half);
  __half2* device[4] = {};
  int* device_larger = nullptr;
  for (auto& pointer : device) CUDA_OK(cudaMalloc(&pointer, kBytes));
  CUDA_OK(cudaMalloc(&device_larger, kCount * sizeof(int)));
  CUDA_OK(cudaMemcpy(device[0], a.data(), kBytes, cudaMemcpyHostToDevice));
  CUDA_OK(cudaMemcpy(device[1], b.data(), kBytes, cudaMemcpyHostToDevice));
  combine<<<(kCount + 127) / 128, 128>>>(device[0], device[1], device[2], device[3], device_larger, kCount);
  std::vector<__half> fused(2 * kCount);
  std::vector<__half> sum(2 * kCount);
  std::vector<int> larger(kCount);
  CUDA_OK(cudaMemcpy(fused.data(), device[2], kBytes, cudaMemcpyDeviceToHost));
  CUDA_OK(cudaMemcpy(sum.data(), device[3], kBytes, cudaMemcpyDeviceToHost));
  CUDA_OK(cudaMemcpy(larger.data(), device_larger, kCount * sizeof(int), cudaMemcpyDeviceToHost));
  for (int i = 0; i < 2 * kCount; ++i) {
    const double x = __half2float(a[i]);
    const double y = __half2float(b[i]);
    // The product of two halves plus a half is exact in double, so one rounding gives the fused result
    // (through float: a double rounding can differ by one unit, hence the tolerance of half an ulp more).
    EXPECT(check::near(__half2float(fused[i]), round_half(x * y + 0.5), 1.0 / 1024),
           "fma of %g and %g gave %g", x, y, __half2float(fused[i]));
    // The compiler may contract the product and the subtraction into one fma: a rounding of the product more
    // or less.
    const double separate = x * x - y;
    const double slack = (x * x + std::fabs(separate)) / 1024;
    EXPECT(std::fabs(__half2float(sum[i]) - separate) <= slack, "a*a-b of %g and %g gave %g", x, y,
           __half2float(sum[i]));
    EXPECT(((larger[i / 2] >> (i % 2)) & 1) == (x > y ? 1 : 0), "comparison of %g and %g", x, y);
  }
  return check::done("half2_math");
}
