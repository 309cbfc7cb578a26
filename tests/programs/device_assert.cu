// The message of a failed device assertion is on standard error when the call that waited for it has returned
// its error: a synchronisation, or with the argument "copy" a blocking copy. With "print", what the kernel
// printed before is on standard output as well.
#undef NDEBUG
#include <fcntl.h>
#include <unistd.h>

#include <cassert>
#include <string>

#include "check.hpp"

namespace {

__global__ void check_value(int value) {
  assert(value == 5);
}

__global__ void print_and_check(int value) {
  printf("the value is %d\n", value);
  assert(value == 5);
}

/// What a descriptor is given between begin() and text().
class Capture {
 public:
  explicit Capture(int descriptor) : descriptor_(descriptor), saved_(dup(descriptor)) {
    char path[] = "/tmp/vgpu_assert_XXXXXX";
    file_ = mkstemp(path);
    EXPECT(file_ >= 0, "mkstemp failed");
    unlink(path);
    dup2(file_, descriptor);
  }
  std::string text() {
    std::fflush(nullptr);
    dup2(saved_, descriptor_);
    std::string text(65536, '\0');
    const ssize_t size = pread(file_, text.data(), text.size(), 0);
    text.resize(size > 0 ? static_cast<size_t>(size) : 0);
    return text;
  }

 private:
  int descriptor_;
  int saved_;
  int file_ = -1;
};

}  // namespace

int main(int argc, char** argv) {
  const std::string how = argc > 1 ? argv[1] : "";
  int* device = nullptr;
  CUDA_OK(cudaMalloc(&device, sizeof *device));
  check_value<<<1, 32>>>(5);
  CUDA_OK(cudaDeviceSynchronize());
  Capture errors(STDERR_FILENO);
  Capture output(STDOUT_FILENO);
  if (how == "print") {
    print_and_check<<<1, 2>>>(4);
  } else {
    check_value<<<1, 2>>>(4);
  }
  int value = 0;
  const cudaError_t result = how == "copy" ? cudaMemcpy(&value, device, sizeof value, cudaMemcpyDeviceToHost)
                                           : cudaDeviceSynchronize();
  const std::string printed = output.text();
  const std::string said = errors.text();
  EXPECT(result == cudaErrorAssert, "the assertion gave %s", cudaGetErrorName(result));
  EXPECT(said.find("block: [0,0,0], thread: [0,0,0] Assertion `value == 5` failed.") != std::string::npos,
         "standard error has «%s»", said.c_str());
  EXPECT(printed.find("Assertion") == std::string::npos, "standard output has «%s»", printed.c_str());
  if (how == "print")
    EXPECT(printed.find("the value is 4\n") != std::string::npos, "printed «%s»", printed.c_str());
  return check::done("device_assert");
}
