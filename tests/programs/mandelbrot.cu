// Draws the Mandelbrot set as text, again and again for some seconds, and compares each line with the CPU's.
//   mandelbrot [--seconds S]
#include <string>

#include "check.hpp"

namespace {

constexpr int kWidth = 76;
constexpr int kHeight = 24;
constexpr int kDeepest = 2000;

__host__ __device__ int depth(int column, int row) {
  const double x = -2.2 + column * (3.2 / kWidth);
  const double y = -1.2 + row * (2.4 / kHeight);
  double real = 0;
  double imaginary = 0;
  int steps = 0;
  while (steps < kDeepest && real * real + imaginary * imaginary < 4.0) {
    const double next = real * real - imaginary * imaginary + x;
    imaginary = 2 * real * imaginary + y;
    real = next;
    ++steps;
  }
  return steps;
}

__global__ void draw(int* depths) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < kWidth * kHeight) depths[i] = depth(i % kWidth, i / kWidth);
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 2 && std::strcmp(argv[1], "--seconds") == 0 ? std::atof(argv[2]) : 0.5;
  constexpr int kCount = kWidth * kHeight;
  int* device = nullptr;
  CUDA_OK(cudaMalloc(&device, kCount * sizeof(int)));
  std::vector<int> depths(kCount);
  int pictures = 0;
  for (const double end = check::seconds() + seconds; pictures == 0 || check::seconds() < end; ++pictures) {
    draw<<<(kCount + 127) / 128, 128>>>(device);
    CUDA_OK(cudaMemcpy(depths.data(), device, kCount * sizeof(int), cudaMemcpyDeviceToHost));
  }
  // Contraction to fma moves single points at the edge of the set; the picture as a whole must agree.
  int differing = 0;
  std::string text;
  for (int row = 0; row < kHeight; ++row) {
    for (int column = 0; column < kWidth; ++column) {
      const int seen = depths[row * kWidth + column];
      differing += std::abs(seen - depth(column, row)) > 1 ? 1 : 0;
      text += seen >= kDeepest ? '#' : " .:-=+*%"[seen < 24 ? seen / 3 : 7];
    }
    text += '\n';
  }
  EXPECT(differing <= kCount / 50, "%d of %d points differ from the CPU's", differing, kCount);
  std::printf("%smandelbrot: %d pictures: ok\n", text.c_str(), pictures);
  return 0;
}
