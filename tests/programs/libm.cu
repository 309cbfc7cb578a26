// The maths library in float and double over ordinary, large and special arguments.
#include <iterator>

#include "check.hpp"

namespace {

constexpr int kFloat = 18;
constexpr int kDouble = 12;

__global__ void in_float(const float* in, float* out, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  const float x = in[i];
  float* to = out + kFloat * i;
  to[0] = sinf(x), to[1] = cosf(x), to[2] = tanf(x), to[3] = expf(x), to[4] = logf(fabsf(x));
  to[5] = powf(fabsf(x), 1.7F), to[6] = tanhf(x), to[7] = erff(x), to[8] = cbrtf(x), to[9] = atan2f(x, 2.0F);
  to[10] = log2f(fabsf(x)), to[11] = exp2f(x), to[12] = rsqrtf(fabsf(x)), to[13] = fmodf(x, 3.0F);
  to[14] = asinf(x / 100.0F), to[15] = sinhf(x), to[16] = log1pf(fabsf(x)), to[17] = hypotf(x, 3.0F);
}

__global__ void in_double(const double* in, double* out, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  const double x = in[i];
  double* to = out + kDouble * i;
  to[0] = sin(x), to[1] = cos(x), to[2] = tan(x), to[3] = exp(x), to[4] = log(fabs(x)),
  to[5] = pow(fabs(x), 1.7);
  to[6] = tanh(x), to[7] = erf(x), to[8] = cbrt(x), to[9] = atan(x), to[10] = lgamma(fabs(x) + 0.5),
  to[11] = expm1(x);
}

void expected_float(double x, double* to) {
  const double all[kFloat] = {std::sin(x),
                              std::cos(x),
                              std::tan(x),
                              std::exp(x),
                              std::log(std::fabs(x)),
                              std::pow(std::fabs(x), 1.7F),
                              std::tanh(x),
                              std::erf(x),
                              std::cbrt(x),
                              std::atan2(x, 2.0),
                              std::log2(std::fabs(x)),
                              std::exp2(x),
                              1.0 / std::sqrt(std::fabs(x)),
                              std::fmod(x, 3.0),
                              std::asin(static_cast<float>(x) / 100.0F),
                              std::sinh(x),
                              std::log1p(std::fabs(x)),
                              std::hypot(x, 3.0)};
  std::copy(std::begin(all), std::end(all), to);
}

void expected_double(double x, double* to) {
  const double all[kDouble] = {std::sin(x),
                               std::cos(x),
                               std::tan(x),
                               std::exp(x),
                               std::log(std::fabs(x)),
                               std::pow(std::fabs(x), 1.7),
                               std::tanh(x),
                               std::erf(x),
                               std::cbrt(x),
                               std::atan(x),
                               std::lgamma(std::fabs(x) + 0.5),
                               std::expm1(x)};
  std::copy(std::begin(all), std::end(all), to);
}

}  // namespace

int main() {
  std::vector<float> in = {0.0F,   -0.0F,  1.0F,  -1.0F,  0.5F,  10.0F,
                           -20.0F, 1e-20F, 80.0F, -80.0F, 99.0F, 3.14159274F};
  check::Random random(51);
  while (in.size() < 2000) in.push_back((random.unit() - 0.5F) * 40.0F);
  const int count = static_cast<int>(in.size());
  std::vector<double> in_wide(in.begin(), in.end());
  float* device_in = nullptr;
  float* device_out = nullptr;
  double* device_in_wide = nullptr;
  double* device_out_wide = nullptr;
  CUDA_OK(cudaMalloc(&device_in, count * sizeof(float)));
  CUDA_OK(cudaMalloc(&device_out, kFloat * count * sizeof(float)));
  CUDA_OK(cudaMalloc(&device_in_wide, count * sizeof(double)));
  CUDA_OK(cudaMalloc(&device_out_wide, kDouble * count * sizeof(double)));
  CUDA_OK(cudaMemcpy(device_in, in.data(), count * sizeof(float), cudaMemcpyHostToDevice));
  CUDA_OK(cudaMemcpy(device_in_wide, in_wide.data(), count * sizeof(double), cudaMemcpyHostToDevice));
  in_float<<<(count + 63) / 64, 64>>>(device_in, device_out, count);
  in_double<<<(count + 63) / 64, 64>>>(device_in_wide, device_out_wide, count);
  std::vector<float> out(kFloat * count);
  std::vector<double> out_wide(kDouble * count);
  CUDA_OK(cudaMemcpy(out.data(), device_out, out.size() * sizeof(float), cudaMemcpyDeviceToHost));
  CUDA_OK(
      cudaMemcpy(out_wide.data(), device_out_wide, out_wide.size() * sizeof(double), cudaMemcpyDeviceToHost));
  for (int i = 0; i < count; ++i) {
    double wanted[kFloat];
    expected_float(in[i], wanted);
    for (int k = 0; k < kFloat; ++k) {
      EXPECT(check::near(out[kFloat * i + k], static_cast<float>(wanted[k]), 2e-5),
             "float function %d at %g: %g, wanted %g", k, in[i], out[kFloat * i + k], wanted[k]);
    }
    expected_double(in_wide[i], wanted);
    for (int k = 0; k < kDouble; ++k) {
      EXPECT(check::near(out_wide[kDouble * i + k], wanted[k], 1e-12),
             "double function %d at %g: %.17g, wanted %.17g", k, in_wide[i], out_wide[kDouble * i + k],
             wanted[k]);
    }
  }
  return check::done("libm");
}
