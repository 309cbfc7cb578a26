// Surface objects: kernels write an image by bytes, in 2D, 3D and layers, and read it back; what is outside
// is zero or the nearest where asked for. Arrays count as device memory, and their handles are checked.
#include "check.hpp"

namespace {

constexpr int kWidth = 48;
constexpr int kHeight = 20;

__global__ void write_2d(cudaSurfaceObject_t surface) {
  const int x = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int y = static_cast<int>(blockIdx.y);
  // Columns beyond the width are dropped.
  surf2Dwrite(make_short2(static_cast<short>(x), static_cast<short>(y)), surface, x * 4, y,
              cudaBoundaryModeZero);
}

__global__ void invert(cudaSurfaceObject_t surface, short2* sums) {
  const int x = static_cast<int>(threadIdx.x);
  const int y = static_cast<int>(blockIdx.y);
  const auto here = surf2Dread<short2>(surface, x * 4, y);
  const auto clamped = surf2Dread<short2>(surface, x * 4 + 4 * kWidth, y + 100, cudaBoundaryModeClamp);
  const auto zero = surf2Dread<short2>(surface, x * 4 + 4 * kWidth, y, cudaBoundaryModeZero);
  sums[y * kWidth + x] =
      make_short2(static_cast<short>(clamped.x + zero.x), static_cast<short>(clamped.y + zero.y));
  __syncthreads();
  surf2Dwrite(make_short2(static_cast<short>(-here.x), static_cast<short>(-here.y)), surface, x * 4, y);
}

__global__ void write_3d(cudaSurfaceObject_t volume, cudaSurfaceObject_t layers) {
  const int x = static_cast<int>(threadIdx.x);
  const int y = static_cast<int>(threadIdx.y);
  const int z = static_cast<int>(blockIdx.x);
  const auto v = static_cast<float>(z * 100 + y * 10 + x);
  surf3Dwrite(v, volume, x * 4, y, z);
  surf2DLayeredwrite(make_float4(v, v + 1, v + 2, v + 3), layers, x * 16, y, z);
}

cudaSurfaceObject_t surface_of(cudaArray_t array) {
  cudaResourceDesc resource{};
  resource.resType = cudaResourceTypeArray;
  resource.res.array.array = array;
  cudaSurfaceObject_t surface = 0;
  CUDA_OK(cudaCreateSurfaceObject(&surface, &resource));
  return surface;
}

template <class T>
std::vector<T> content(cudaArray_t array, cudaExtent extent) {
  std::vector<T> out(extent.width * extent.height * extent.depth);
  cudaMemcpy3DParms copy{};
  copy.srcArray = array;
  copy.dstPtr = make_cudaPitchedPtr(out.data(), extent.width * sizeof(T), extent.width, extent.height);
  copy.extent = extent;
  copy.kind = cudaMemcpyDeviceToHost;
  CUDA_OK(cudaMemcpy3D(&copy));
  return out;
}

}  // namespace

int main() {
  const auto pairs = cudaCreateChannelDesc<short2>();
  cudaArray_t array = nullptr;
  CUDA_OK(cudaMallocArray(&array, &pairs, kWidth, kHeight, cudaArraySurfaceLoadStore));
  const cudaSurfaceObject_t surface = surface_of(array);
  short2* sums = nullptr;
  CUDA_OK(cudaMalloc(&sums, sizeof(short2) * kWidth * kHeight));
  write_2d<<<dim3(2, kHeight), 32>>>(surface);
  invert<<<dim3(1, kHeight), kWidth>>>(surface, sums);
  CUDA_OK(cudaDeviceSynchronize());
  std::vector<short2> out(static_cast<size_t>(kWidth) * kHeight);
  CUDA_OK(cudaMemcpy2DFromArray(out.data(), kWidth * 4, array, 0, 0, kWidth * 4, kHeight,
                                cudaMemcpyDeviceToHost));
  for (int y = 0; y < kHeight; ++y) {
    for (int x = 0; x < kWidth; ++x) {
      const short2 v = out[static_cast<size_t>(y) * kWidth + x];
      EXPECT(v.x == -x && v.y == -y, "(%d, %d) holds (%d, %d)", x, y, v.x, v.y);
    }
  }
  CUDA_OK(cudaDestroySurfaceObject(surface));
  CUDA_OK(cudaFreeArray(array));

  const cudaExtent extent = make_cudaExtent(10, 6, 4);
  const auto one = cudaCreateChannelDesc<float>();
  const auto four = cudaCreateChannelDesc<float4>();
  cudaArray_t volume = nullptr;
  cudaArray_t layers = nullptr;
  CUDA_OK(cudaMalloc3DArray(&volume, &one, extent, cudaArraySurfaceLoadStore));
  CUDA_OK(cudaMalloc3DArray(&layers, &four, extent, cudaArraySurfaceLoadStore | cudaArrayLayered));
  write_3d<<<4, dim3(10, 6)>>>(surface_of(volume), surface_of(layers));
  CUDA_OK(cudaDeviceSynchronize());
  const auto in_volume = content<float>(volume, extent);
  const auto in_layers = content<float4>(layers, extent);
  for (int i = 0; i < 240; ++i) {
    const auto v = static_cast<float>(i / 60 * 100 + i / 10 % 6 * 10 + i % 10);
    EXPECT(in_volume[i] == v, "volume: %g, wanted %g", in_volume[i], v);
    EXPECT(in_layers[i].x == v && in_layers[i].w == v + 3, "layers: %g, wanted %g", in_layers[i].x, v);
  }
  CUDA_OK(cudaFreeArray(volume));
  CUDA_OK(cudaFreeArray(layers));

  // Arrays take device memory, which comes back.
  size_t before = 0;
  size_t during = 0;
  size_t after = 0;
  size_t total = 0;
  CUDA_OK(cudaMemGetInfo(&before, &total));
  CUDA_OK(cudaMallocArray(&array, &one, 4096, 1024));
  CUDA_OK(cudaMemGetInfo(&during, &total));
  CUDA_OK(cudaFreeArray(array));
  CUDA_OK(cudaMemGetInfo(&after, &total));
  EXPECT(before - during >= (size_t{16} << 20) - 4096 * 16, "a 16 MiB array takes %zu bytes",
         before - during);
  EXPECT(after >= before, "%zu bytes are missing", before - after);

  // The driver's own calls: 1D copies by bytes, and handles that are none.
  CUarray line = nullptr;
  CUDA_ARRAY_DESCRIPTOR shape{};
  shape.Width = 64;
  shape.Format = CU_AD_FORMAT_UNSIGNED_INT32;
  shape.NumChannels = 1;
  DRV_OK(cuArrayCreate(&line, &shape));
  std::vector<unsigned> numbers(64);
  for (unsigned i = 0; i < 64; ++i) numbers[i] = i * i;
  DRV_OK(cuMemcpyHtoA(line, 0, numbers.data(), 256));
  DRV_OK(cuMemcpyAtoA(line, 0, line, 128, 128));
  std::vector<unsigned> back(64);
  DRV_OK(cuMemcpyAtoH(back.data(), line, 0, 256));
  for (unsigned i = 0; i < 64; ++i) EXPECT(back[i] == numbers[i % 32 + 32], "element %u is %u", i, back[i]);
  CUDA_ARRAY_DESCRIPTOR told{};
  DRV_OK(cuArrayGetDescriptor(&told, line));
  EXPECT(told.Width == 64 && told.Height == 0 && told.Format == CU_AD_FORMAT_UNSIGNED_INT32, "descriptor");
  DRV_OK(cuArrayDestroy(line));
  return check::done("surfaces");
}
