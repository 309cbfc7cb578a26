// Dynamic shared memory: within the default 48 KiB, beyond it after opting in, refused without.
#include "check.hpp"

namespace {

__global__ void reverse(const int* in, int* out, int n) {
  extern __shared__ int staged[];
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) staged[i] = in[i];
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x))
    out[i] = staged[n - 1 - i];
}

void round_trip(int count) {
  std::vector<int> in(count);
  for (int i = 0; i < count; ++i) in[i] = i * 17 + 3;
  int* device_in = nullptr;
  int* device_out = nullptr;
  const size_t bytes = count * sizeof(int);
  CUDA_OK(cudaMalloc(&device_in, bytes));
  CUDA_OK(cudaMalloc(&device_out, bytes));
  CUDA_OK(cudaMemcpy(device_in, in.data(), bytes, cudaMemcpyHostToDevice));
  reverse<<<1, 256, bytes>>>(device_in, device_out, count);
  CUDA_OK(cudaGetLastError());
  std::vector<int> out(count);
  CUDA_OK(cudaMemcpy(out.data(), device_out, bytes, cudaMemcpyDeviceToHost));
  for (int i = 0; i < count; ++i) EXPECT(out[i] == in[count - 1 - i], "element %d of %d differs", i, count);
  CUDA_OK(cudaFree(device_in));
  CUDA_OK(cudaFree(device_out));
}

}  // namespace

int main() {
  round_trip(1);
  round_trip(48 * 1024 / 4);
  int optin = 0;
  CUDA_OK(cudaDeviceGetAttribute(&optin, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
  EXPECT(optin > 48 * 1024, "the device offers %d bytes by opting in", optin);

  reverse<<<1, 256, 56 * 1024>>>(nullptr, nullptr, 0);
  const cudaError_t refused = cudaGetLastError();
  EXPECT(refused == cudaErrorInvalidValue, "56 KiB without opting in gave %s", cudaGetErrorName(refused));

  CUDA_OK(cudaFuncSetAttribute(reverse, cudaFuncAttributeMaxDynamicSharedMemorySize, optin));
  cudaFuncAttributes attributes{};
  CUDA_OK(cudaFuncGetAttributes(&attributes, reverse));
  EXPECT(attributes.maxDynamicSharedSizeBytes == optin, "attribute says %d",
         attributes.maxDynamicSharedSizeBytes);
  round_trip(56 * 1024 / 4);
  round_trip(optin / 4);
  CUDA_IS(cudaFuncSetAttribute(reverse, cudaFuncAttributeMaxDynamicSharedMemorySize, optin + 1024),
          cudaErrorInvalidValue);
  return check::done("dynamic_shared");
}
