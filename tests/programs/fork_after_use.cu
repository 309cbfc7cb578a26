// fork() after CUDA was used: the child gets a clean error and ends, the parent goes on undisturbed; a child
// that executes a new program can use CUDA itself.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.hpp"

namespace {

__global__ void set(int* out, int value) {
  *out = value;
}

int use_device(int value) {
  int* out = nullptr;
  CUDA_OK(cudaMalloc(&out, sizeof(int)));
  set<<<1, 1>>>(out, value);
  int seen = 0;
  CUDA_OK(cudaMemcpy(&seen, out, sizeof seen, cudaMemcpyDeviceToHost));
  CUDA_OK(cudaFree(out));
  return seen;
}

/// The child's exit status within the time, or -1 (the child is then killed).
int wait_for(pid_t child, double limit) {
  const double end = check::seconds() + limit;
  int status = 0;
  while (check::seconds() < end) {
    if (waitpid(child, &status, WNOHANG) == child) return WIFEXITED(status) ? WEXITSTATUS(status) : 256;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
  return -1;
}

/// Registered memory is the program's as before: the child has it, and what it writes there stays its own.
void registered_memory() {
  constexpr size_t kBytes = 1 << 20;
  void* const pages = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  EXPECT(pages != MAP_FAILED, "no memory");
  auto* const values = static_cast<volatile int*>(pages);
  values[3] = 5;
  CUDA_OK(cudaHostRegister(pages, kBytes, cudaHostRegisterDefault));
  const pid_t child = fork();
  if (child == 0) {
    const int seen = values[3];
    values[3] = 77;
    values[1000] = 77;
    _exit(seen == 5 ? 0 : 1);
  }
  EXPECT(wait_for(child, 10.0) == 0, "the child has other memory");
  EXPECT(values[3] == 5 && values[1000] == 0, "the child wrote %d and %d", values[3], values[1000]);
  CUDA_OK(cudaHostUnregister(pages));
  EXPECT(values[3] == 5, "%d after all", values[3]);
  munmap(pages, kBytes);
}

}  // namespace

int main(int argc, char** argv) {
  EXPECT(use_device(5) == 5, "first use failed");
  if (argc > 1) return 0;
  const pid_t child = fork();
  if (child == 0) {
    void* memory = nullptr;
    const cudaError_t error = cudaMalloc(&memory, 16);
    _exit(error == cudaSuccess ? 1 : 0);
  }
  const int status = wait_for(child, 10.0);
  EXPECT(status == 0, "the forked child ended with %d: wanted an error from CUDA, no crash and no hang",
         status);
  EXPECT(use_device(6) == 6, "the parent is disturbed");
  registered_memory();
  const pid_t fresh = fork();
  if (fresh == 0) {
    execl("/proc/self/exe", argv[0], "again", nullptr);
    _exit(127);
  }
  const int fresh_status = wait_for(fresh, 20.0);
  EXPECT(fresh_status == 0, "the executed child ended with %d", fresh_status);
  EXPECT(use_device(7) == 7, "the parent is disturbed");
  return check::done("fork_after_use");
}
