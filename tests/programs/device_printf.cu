// printf from the device reaches standard output at synchronisation, at blocking copies and at the end of the
// context, with every argument right.
#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "check.hpp"

namespace {

__global__ void speak(int base) {
  if (threadIdx.x == 1) {
    printf("lane %u of %d: %5.2f %s %lld %c 0x%x%%\n", threadIdx.x, base, 2.5 * base, "text", 1LL << 40, 'q',
           0xbeefU);
  }
}

constexpr unsigned kLines = 8192;

__global__ void speak_much() {
  printf("line %6u of very many, each of a length that fills buffers soon\n",
         blockIdx.x * blockDim.x + threadIdx.x);
}

/// What three kernels print until `wait` has returned.
template <class Wait>
std::string printed(Wait&& wait, bool much = false) {
  std::fflush(stdout);
  char path[] = "/tmp/vgpu_printf_XXXXXX";
  const int file = mkstemp(path);
  EXPECT(file >= 0, "mkstemp failed");
  unlink(path);
  const int saved = dup(STDOUT_FILENO);
  dup2(file, STDOUT_FILENO);
  for (int i = 0; i < 3 && !much; ++i) speak<<<1, 32>>>(i);
  if (much) speak_much<<<kLines / 128, 128>>>();
  wait();
  std::fflush(stdout);
  dup2(saved, STDOUT_FILENO);
  close(saved);
  std::string text(much ? size_t{2} << 20U : size_t{4096}, '\0');
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
  // More than a socket, or a VM's console, takes at a time: each line, once, when the wait has returned.
  text = printed([] { CUDA_OK(cudaDeviceSynchronize()); }, true);
  std::vector<bool> seen(kLines);
  size_t lines = 0;
  for (size_t at = 0; (at = text.find("line ", at)) != std::string::npos; ++lines) {
    const unsigned number = static_cast<unsigned>(std::strtoul(text.c_str() + at + 5, nullptr, 10));
    EXPECT(number < kLines && !seen[number], "line %u is there twice, or should not be", number);
    seen[number] = true;
    at = text.find('\n', at);
    EXPECT(at != std::string::npos, "the last line has no end");
  }
  EXPECT(lines == kLines, "%zu lines of %u", lines, kLines);
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
