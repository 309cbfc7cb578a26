// A kernel that writes through a wild pointer: the error comes at synchronisation and stays for good.
#include "check.hpp"

namespace {

__global__ void write(int* where) {
  *where = 1;
}

}  // namespace

int main() {
  int* good = nullptr;
  CUDA_OK(cudaMalloc(&good, sizeof(int)));
  write<<<1, 1>>>(good);
  CUDA_OK(cudaDeviceSynchronize());
  write<<<1, 32>>>(reinterpret_cast<int*>(0xdead0000ULL));
  const cudaError_t error = cudaDeviceSynchronize();
  EXPECT(error == cudaErrorIllegalAddress, "synchronising gave %s", cudaGetErrorName(error));
  // Sticky: nothing works in this context any more, whatever was cleared.
  (void)cudaGetLastError();
  int seen = 0;
  CUDA_IS(cudaMemcpy(&seen, good, sizeof seen, cudaMemcpyDeviceToHost), cudaErrorIllegalAddress);
  (void)cudaGetLastError();
  CUDA_IS(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
  void* more = nullptr;
  CUDA_IS(cudaMalloc(&more, 16), cudaErrorIllegalAddress);
  return check::done("illegal_address");
}
