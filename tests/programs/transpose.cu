// A padded shared-memory transpose of a matrix that is no multiple of the tile, with float4 reads beside it.
#include "check.hpp"

namespace {

constexpr int kTile = 32;
constexpr int kRows = 8;

__global__ void transpose(const int* in, int* out, int width, int height) {
  __shared__ int tile[kTile][kTile + 1];
  int x = static_cast<int>(blockIdx.x * kTile + threadIdx.x);
  int y = static_cast<int>(blockIdx.y * kTile + threadIdx.y);
  for (int j = 0; j < kTile; j += kRows) {
    if (x < width && y + j < height) tile[threadIdx.y + j][threadIdx.x] = in[(y + j) * width + x];
  }
  __syncthreads();
  x = static_cast<int>(blockIdx.y * kTile + threadIdx.x);
  y = static_cast<int>(blockIdx.x * kTile + threadIdx.y);
  for (int j = 0; j < kTile; j += kRows) {
    if (x < height && y + j < width) out[(y + j) * height + x] = tile[threadIdx.x][threadIdx.y + j];
  }
}

__global__ void reverse_vectors(const int4* in, int4* out, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  const int4 value = in[i];
  out[n - 1 - i] = make_int4(value.w, value.z, value.y, value.x);
}

}  // namespace

int main() {
  constexpr int kWidth = 500;
  constexpr int kHeight = 300;
  constexpr int kCount = kWidth * kHeight;
  std::vector<int> in(kCount);
  for (int i = 0; i < kCount; ++i) in[i] = i * 2654435761U >> 3;
  int* device_in = nullptr;
  int* device_out = nullptr;
  CUDA_OK(cudaMalloc(&device_in, kCount * sizeof(int)));
  CUDA_OK(cudaMalloc(&device_out, kCount * sizeof(int)));
  CUDA_OK(cudaMemcpy(device_in, in.data(), kCount * sizeof(int), cudaMemcpyHostToDevice));
  const dim3 grid((kWidth + kTile - 1) / kTile, (kHeight + kTile - 1) / kTile);
  transpose<<<grid, dim3(kTile, kRows)>>>(device_in, device_out, kWidth, kHeight);
  std::vector<int> out(kCount);
  CUDA_OK(cudaMemcpy(out.data(), device_out, kCount * sizeof(int), cudaMemcpyDeviceToHost));
  for (int y = 0; y < kHeight; ++y) {
    for (int x = 0; x < kWidth; ++x) {
      EXPECT(out[x * kHeight + y] == in[y * kWidth + x], "element (%d, %d) differs", x, y);
    }
  }
  reverse_vectors<<<(kCount / 4 + 127) / 128, 128>>>(reinterpret_cast<int4*>(device_in),
                                                     reinterpret_cast<int4*>(device_out), kCount / 4);
  CUDA_OK(cudaMemcpy(out.data(), device_out, kCount * sizeof(int), cudaMemcpyDeviceToHost));
  for (int i = 0; i < kCount; ++i) EXPECT(out[i] == in[kCount - 1 - i], "reversed element %d differs", i);
  return check::done("transpose");
}
