// Pitched memory: 2D and 3D copies between host and device, 2D memset, and what lies between the rows stays.
#include "check.hpp"

int main() {
  constexpr size_t kWidth = 777;
  constexpr size_t kHeight = 60;
  constexpr size_t kHostPitch = 1000;
  unsigned char* device = nullptr;
  size_t pitch = 0;
  CUDA_OK(cudaMallocPitch(&device, &pitch, kWidth, kHeight));
  EXPECT(pitch >= kWidth && pitch % 32 == 0, "pitch is %zu", pitch);
  check::Random random(61);
  std::vector<unsigned char> from(kHostPitch * kHeight);
  std::vector<unsigned char> to(kHostPitch * kHeight, 0xcc);
  for (auto& byte : from) byte = static_cast<unsigned char>(random.next());
  CUDA_OK(cudaMemset2D(device, pitch, 0x11, kWidth, kHeight));
  CUDA_OK(cudaMemcpy2D(device, pitch, from.data(), kHostPitch, 500, kHeight, cudaMemcpyHostToDevice));
  CUDA_OK(cudaMemcpy2D(to.data(), kHostPitch, device, pitch, kWidth, kHeight, cudaMemcpyDeviceToHost));
  for (size_t y = 0; y < kHeight; ++y) {
    for (size_t x = 0; x < kHostPitch; ++x) {
      const unsigned char seen = to[y * kHostPitch + x];
      const unsigned char wanted = x < 500 ? from[y * kHostPitch + x] : (x < kWidth ? 0x11 : 0xcc);
      EXPECT(seen == wanted, "row %zu column %zu is 0x%x, wanted 0x%x", y, x, seen, wanted);
    }
  }
  cudaStream_t stream = nullptr;
  CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  unsigned char* other = nullptr;
  CUDA_OK(cudaMalloc(&other, kHostPitch * kHeight));
  CUDA_OK(cudaMemsetAsync(other, 0x22, kHostPitch * kHeight, stream));
  CUDA_OK(cudaMemcpy2DAsync(other + 5, kHostPitch, device, pitch, 300, kHeight, cudaMemcpyDeviceToDevice,
                            stream));
  CUDA_OK(cudaMemcpyAsync(to.data(), other, kHostPitch * kHeight, cudaMemcpyDeviceToHost, stream));
  CUDA_OK(cudaStreamSynchronize(stream));
  for (size_t y = 0; y < kHeight; ++y) {
    for (size_t x = 0; x < kHostPitch; ++x) {
      const unsigned char wanted = x >= 5 && x < 305 ? from[y * kHostPitch + x - 5] : 0x22;
      EXPECT(to[y * kHostPitch + x] == wanted, "device to device: row %zu column %zu", y, x);
    }
  }

  cudaPitchedPtr volume{};
  CUDA_OK(cudaMalloc3D(&volume, make_cudaExtent(100, 10, 4)));
  cudaMemcpy3DParms parameters{};
  parameters.srcPtr = make_cudaPitchedPtr(from.data(), 100, 100, 10);
  parameters.dstPtr = volume;
  parameters.extent = make_cudaExtent(100, 10, 4);
  parameters.kind = cudaMemcpyHostToDevice;
  CUDA_OK(cudaMemcpy3D(&parameters));
  std::vector<unsigned char> box(4000, 0);
  parameters.srcPtr = volume;
  parameters.dstPtr = make_cudaPitchedPtr(box.data(), 100, 100, 10);
  parameters.kind = cudaMemcpyDeviceToHost;
  CUDA_OK(cudaMemcpy3D(&parameters));
  EXPECT(std::memcmp(box.data(), from.data(), box.size()) == 0, "the 3D copy differs");
  CUDA_IS(cudaMemcpy2D(device, 10, from.data(), kHostPitch, 500, 2, cudaMemcpyHostToDevice),
          cudaErrorInvalidPitchValue);
  // Memory of the device where host memory is said to be is copied as what it is.
  for (const bool async : {false, true}) {
    CUDA_OK(cudaMemset(other, 0, 2 * kHostPitch));
    CUDA_OK(cudaDeviceSynchronize());
    if (async) {
      CUDA_OK(cudaMemcpy2DAsync(other, kHostPitch, device, pitch, 300, 2, cudaMemcpyHostToDevice, stream));
      CUDA_OK(cudaStreamSynchronize(stream));
    } else {
      CUDA_OK(cudaMemcpy2D(other, kHostPitch, device, pitch, 300, 2, cudaMemcpyHostToDevice));
    }
    std::vector<unsigned char> seen(2 * kHostPitch), wanted(2 * kHostPitch, 0);
    CUDA_OK(cudaMemcpy(seen.data(), other, seen.size(), cudaMemcpyDeviceToHost));
    for (size_t row = 0; row < 2; ++row) {
      CUDA_OK(
          cudaMemcpy(wanted.data() + row * kHostPitch, device + row * pitch, 300, cudaMemcpyDeviceToHost));
    }
    EXPECT(seen == wanted, "a box named as the host's, asynchronous %d", async);
  }

  // The driver's memsets of every width.
  const auto address = reinterpret_cast<CUdeviceptr>(other);
  DRV_OK(cuMemsetD8(address, 0xab, 1001));
  DRV_OK(cuMemsetD16(address + 1002, 0xbeef, 100));
  DRV_OK(cuMemsetD32(address + 2000, 0x01020304, 50));
  CUDA_OK(cudaMemcpy(to.data(), other, 3000, cudaMemcpyDeviceToHost));
  EXPECT(to[1000] == 0xab && to[1001] != 0xab, "8-bit memset");
  EXPECT(to[1002] == 0xef && to[1003] == 0xbe && to[1201] == 0xbe, "16-bit memset");
  EXPECT(to[2000] == 4 && to[2001] == 3 && to[2199] == 1, "32-bit memset");
  return check::done("copy_2d");
}
