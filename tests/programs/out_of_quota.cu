// A memory quota (environment VGPU_TEST_QUOTA_MB, as the test's vgpud enforces it): cudaMemGetInfo shows it,
// an allocation beyond it fails with cudaErrorMemoryAllocation and costs nothing, freed memory is given back.
#include <string>

#include "check.hpp"

namespace {

std::string module_with(size_t bytes) {
  return ".version 7.5\n.target sm_75\n.address_size 64\n.visible .global .align 4 .b8 large[" +
         std::to_string(bytes) + "];\n.visible .entry nothing() { ret; }\n";
}

// A module's variables are the client's memory too, from its loading to its unloading.
void module_variables(size_t quota) {
  size_t before = 0, total = 0;
  CUDA_OK(cudaMemGetInfo(&before, &total));
  CUmodule module = nullptr;
  DRV_IS(cuModuleLoadData(&module, module_with(4 * quota).c_str()), CUDA_ERROR_OUT_OF_MEMORY);
  CUlibrary library = nullptr;
  DRV_IS(
      cuLibraryLoadData(&library, module_with(4 * quota).c_str(), nullptr, nullptr, 0, nullptr, nullptr, 0),
      CUDA_ERROR_OUT_OF_MEMORY);
  CUjit_option option = CU_JIT_MAX_REGISTERS;
  void* value = reinterpret_cast<void*>(static_cast<uintptr_t>(32));
  DRV_IS(cuModuleLoadDataEx(&module, module_with(4 * quota).c_str(), 1, &option, &value),
         CUDA_ERROR_OUT_OF_MEMORY);
  size_t now = 0;
  CUDA_OK(cudaMemGetInfo(&now, &total));
  EXPECT(now == before, "refused modules took %zu bytes", before - now);
  DRV_OK(cuModuleLoadData(&module, module_with(quota / 2).c_str()));
  DRV_IS(cuLibraryLoadData(&library, module_with(quota / 2 + 4096).c_str(), nullptr, nullptr, 0, nullptr,
                           nullptr, 0),
         CUDA_ERROR_OUT_OF_MEMORY);
  CUdeviceptr large = 0;
  size_t bytes = 0;
  DRV_OK(cuModuleGetGlobal(&large, &bytes, module, "large"));
  EXPECT(bytes == quota / 2, "the variable has %zu bytes", bytes);
  DRV_OK(cuMemsetD8(large, 1, bytes));
  CUDA_OK(cudaMemGetInfo(&now, &total));
  EXPECT(now <= before - quota / 2, "%zu free beside a variable of half the quota", now);
  void* more = nullptr;
  CUDA_IS(cudaMalloc(&more, quota / 2 + (1U << 20U)), cudaErrorMemoryAllocation);
  (void)cudaGetLastError();
  DRV_OK(cuModuleUnload(module));
  CUDA_OK(cudaMemGetInfo(&now, &total));
  EXPECT(now == before, "%zu free after unloading, %zu before", now, before);
  // With a context of its own they go, too.
  CUcontext own = nullptr;
  CUdevice device = 0;
  DRV_OK(cuDeviceGet(&device, 0));
  DRV_OK(cuCtxCreate(&own, nullptr, 0, device));
  DRV_OK(cuModuleLoadData(&module, module_with(quota / 2).c_str()));
  DRV_OK(cuCtxDestroy(own));
  CUDA_OK(cudaMemGetInfo(&now, &total));
  EXPECT(now == before, "%zu free after its context went, %zu before", now, before);
}

}  // namespace

int main() {
  const char* text = std::getenv("VGPU_TEST_QUOTA_MB");
  size_t quota = text != nullptr ? std::strtoull(text, nullptr, 10) << 20U : 0;
  size_t free_bytes = 0;
  size_t total = 0;
  CUDA_OK(cudaMemGetInfo(&free_bytes, &total));
  EXPECT(free_bytes > 0 && free_bytes <= total, "%zu free of %zu", free_bytes, total);
  if (quota != 0) {
    EXPECT(total == quota, "total is %zu, the quota %zu", total, quota);
  } else {
    quota = total;  // Without a quota the device itself is the limit.
  }
  void* too_much = nullptr;
  CUDA_IS(cudaMalloc(&too_much, quota + (1U << 20U)), cudaErrorMemoryAllocation);
  EXPECT(too_much == nullptr, "a refused allocation gave a pointer");
  (void)cudaGetLastError();
  if (text == nullptr) return check::done("out_of_quota");

  std::vector<void*> pieces;
  const size_t piece = quota / 8;
  for (;;) {
    void* memory = nullptr;
    const cudaError_t result = cudaMalloc(&memory, piece);
    if (result == cudaErrorMemoryAllocation) break;
    CUDA_OK(result);
    pieces.push_back(memory);
    EXPECT(pieces.size() <= 8, "%zu pieces of an eighth of the quota fit", pieces.size());
  }
  (void)cudaGetLastError();
  EXPECT(pieces.size() >= 6, "only %zu pieces of an eighth of the quota fit", pieces.size());
  size_t rest = 0;
  CUDA_OK(cudaMemGetInfo(&rest, &total));
  EXPECT(rest + pieces.size() * piece <= quota, "%zu free beside %zu pieces of %zu", rest, pieces.size(),
         piece);
  for (void* memory : pieces) CUDA_OK(cudaFree(memory));
  size_t after = 0;
  CUDA_OK(cudaMemGetInfo(&after, &total));
  EXPECT(after >= rest + pieces.size() * piece, "%zu free after freeing all", after);
  // Arrays and the memory that limits set aside are the client's, too.
  const auto channel = cudaCreateChannelDesc<float>();
  cudaArray_t image = nullptr;
  CUDA_IS(cudaMallocArray(&image, &channel, 16384, 2 * quota / 65536), cudaErrorMemoryAllocation);
  (void)cudaGetLastError();
  CUDA_OK(cudaMallocArray(&image, &channel, 16384, quota / 2 / 65536));
  size_t beside = 0;
  CUDA_OK(cudaMemGetInfo(&beside, &total));
  EXPECT(beside <= quota - quota / 2, "%zu free beside an array of half the quota", beside);
  CUDA_OK(cudaFreeArray(image));
  CUDA_IS(cudaDeviceSetLimit(cudaLimitMallocHeapSize, 2 * quota), cudaErrorMemoryAllocation);
  (void)cudaGetLastError();
  module_variables(quota);
  void* again = nullptr;
  CUDA_OK(cudaMalloc(&again, 6 * piece));
  CUDA_OK(cudaMemset(again, 1, 6 * piece));
  CUDA_OK(cudaFree(again));
  return check::done("out_of_quota");
}
