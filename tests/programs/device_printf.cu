// printf from the device reaches standard output at synchronisation, at blocking copies and at the end of the
// context, with every argument right.
#include <fcntl.h>
#include <unistd.h>

#include <string>

#include "check.hpp"

namespace {

__global__ void speak(int base) {
  if (threadIdx.x == 1) {
    printf("lane %u of %d: %5.2f %s %lld %c 0x%x%%\n", threadIdx.x, base, 2.5 * base, "text", 1LL << 40, 'q',
           0xbeefU);
  }
}

/// What three kernels print until `wait` has returned.
template <class Wait>
std::string printed(Wait&& wait) {
  std::fflush(stdout);
  char path[] = "/tmp/vgpu_printf_XXXXXX";
  const int file = mkstemp(path);
  EXPECT(file >= 0, "mkstemp failed");
  unlink(path);
  const int saved = dup(STDOUT_FILENO);
  dup2(file, STDOUT_FILENO);
  for (int i = 0; i < 3; ++i) speak<<<1, 32>>>(i);
  wait();
  std::fflush(stdout);
  dup2(saved, STDOUT_FILENO);
  close(saved);
  std::string text(4096, '\0');
  const ssize_t size = pread(file, text.data(), text.size(), 0);
  close(file);
  text.resize(size > 0 ? static_cast<size_t>(size) : 0);
  return text;
}

}  // namespace

int main() {
  std::string wanted;
  for (int i = 0; i < 3; ++i) {
    char line[128];
    std::snprintf(line, sizeof line, "lane 1 of %d: %5.2f text 1099511627776 q 0xbeef%%\n", i, 2.5 * i);
    wanted += line;
  }
  std::string text = printed([] { CUDA_OK(cudaDeviceSynchronize()); });
  EXPECT(text == wanted, "printed «%s»", text.c_str());
  int* device = nullptr;
  CUDA_OK(cudaMalloc(&device, sizeof *device));
  text = printed([device] {
    int value = 0;
    CUDA_OK(cudaMemcpyAsync(&value, device, sizeof value, cudaMemcpyDeviceToHost, nullptr));
    CUDA_OK(cudaStreamSynchronize(nullptr));
  });
  EXPECT(text == wanted, "behind a copy: printed «%s»", text.c_str());
  // Blocking copies write it out by themselves, as a reset does.
  int there[4] = {};
  text = printed([&] { CUDA_OK(cudaMemcpy(there, device, sizeof *device, cudaMemcpyDeviceToHost)); });
  EXPECT(text == wanted, "by a copy: printed «%s»", text.c_str());
  text = printed([&] {
    CUDA_OK(
        cudaMemcpy2D(there, sizeof *there, device, sizeof *there, sizeof *there, 1, cudaMemcpyDeviceToHost));
  });
  EXPECT(text == wanted, "by a 2D copy: printed «%s»", text.c_str());
  cudaEvent_t event = nullptr;
  CUDA_OK(cudaEventCreate(&event));
  text = printed([&] {
    CUDA_OK(cudaEventRecord(event));
    CUDA_OK(cudaEventSynchronize(event));
  });
  EXPECT(text == wanted, "by an event: printed «%s»", text.c_str());
  text = printed([] { CUDA_OK(cudaDeviceReset()); });
  EXPECT(text == wanted, "by a reset: printed «%s»", text.c_str());
  return check::done("device_printf");
}
