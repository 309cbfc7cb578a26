// Run where no GPU and no vgpud can be reached: cuInit answers with an error within 100 ms, and again when
// asked again; no device is ever invented.
#include <dlfcn.h>

#include "check.hpp"

int main() {
  void* library = dlopen("libcuda.so.1", RTLD_NOW);
  EXPECT(library != nullptr, "%s", dlerror());
  const auto init = reinterpret_cast<CUresult (*)(unsigned)>(dlsym(library, "cuInit"));
  const auto get_count = reinterpret_cast<CUresult (*)(int*)>(dlsym(library, "cuDeviceGetCount"));
  EXPECT(init != nullptr && get_count != nullptr, "libcuda.so.1 lacks symbols");
  for (int i = 0; i < 2; ++i) {
    const double start = check::seconds();
    const CUresult result = init(0);
    const double took = check::seconds() - start;
    EXPECT(took < 0.1, "cuInit took %.0f ms", took * 1e3);
    EXPECT(result == CUDA_ERROR_SYSTEM_NOT_READY || result == CUDA_ERROR_NO_DEVICE, "cuInit gave %d", result);
  }
  int count = 0;
  const CUresult result = get_count(&count);
  EXPECT(result != CUDA_SUCCESS, "cuDeviceGetCount succeeded with %d", count);
  return check::done("no_service");
}
