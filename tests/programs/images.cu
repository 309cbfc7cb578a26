// Images of every form through the module and library calls: PTX text, this program's own fatbin by the
// runtime, rubbish, truncated fatbins, and machine code alone, which only a GPU of that kind can run.
#include "check.hpp"

namespace {

constexpr const char* kPtx =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    ".visible .const .align 4 .b8 marks[8] = {1, 2, 3, 4, 5, 6, 7, 8};\n"
    ".visible .entry put(.param .u64 out) {\n"
    "  .reg .b64 %rd<3>; .reg .b32 %r<3>;\n"
    "  ld.param.u64 %rd1, [out]; cvta.to.global.u64 %rd2, %rd1;\n"
    "  ld.const.u32 %r1, [marks+4]; st.global.u32 [%rd2], %r1; ret;\n}\n";

void run_library() {
  CUlibrary library = nullptr;
  DRV_OK(cuLibraryLoadData(&library, kPtx, nullptr, nullptr, 0, nullptr, nullptr, 0));
  unsigned kernels = 0;
  DRV_OK(cuLibraryGetKernelCount(&kernels, library));
  EXPECT(kernels == 1, "%u kernels", kernels);
  CUkernel kernel = nullptr;
  DRV_OK(cuLibraryGetKernel(&kernel, library, "put"));
  const char* name = nullptr;
  DRV_OK(cuKernelGetName(&name, kernel));
  EXPECT(std::strcmp(name, "put") == 0, "the kernel's name is %s", name);
  size_t offset = 99;
  size_t size = 0;
  DRV_OK(cuKernelGetParamInfo(kernel, 0, &offset, &size));
  EXPECT(offset == 0 && size == 8, "parameter at %zu of %zu bytes", offset, size);
  DRV_IS(cuKernelGetParamInfo(kernel, 1, &offset, &size), CUDA_ERROR_INVALID_VALUE);
  CUdeviceptr out = 0;
  DRV_OK(cuMemAlloc(&out, 4));
  void* parameters[] = {&out};
  DRV_OK(cuLaunchKernel(reinterpret_cast<CUfunction>(kernel), 1, 1, 1, 1, 1, 1, 0, nullptr, parameters,
                        nullptr));
  unsigned word = 0;
  DRV_OK(cuMemcpyDtoH(&word, out, 4));
  EXPECT(word == 0x08070605, "the kernel wrote 0x%x", word);
  CUfunction function = nullptr;
  DRV_OK(cuKernelGetFunction(&function, kernel));
  DRV_OK(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, nullptr, parameters, nullptr));
  DRV_OK(cuCtxSynchronize());
  CUdeviceptr marks = 0;
  DRV_OK(cuLibraryGetGlobal(&marks, &size, library, "marks"));
  EXPECT(size == 8, "the constant has %zu bytes", size);
  DRV_IS(cuLibraryGetKernel(&kernel, library, "missing"), CUDA_ERROR_NOT_FOUND);
  DRV_OK(cuLibraryUnload(library));
}

void refuse_rubbish() {
  CUmodule module = nullptr;
  alignas(16) unsigned char bytes[256] = {};
  std::memset(bytes, 0x5a, sizeof bytes - 1);
  CUresult result = cuModuleLoadData(&module, bytes);
  EXPECT(result == CUDA_ERROR_INVALID_IMAGE || result == CUDA_ERROR_INVALID_PTX ||
             result == CUDA_ERROR_NO_BINARY_FOR_GPU,
         "rubbish gave %d", result);
  // A fatbin header whose body ends before its first entry does.
  const uint32_t fatbin[] = {0xBA55ED50, 0x00100001, 16, 0, 0x01010001, 0x40, 0x00ffffff, 0};
  std::memset(bytes, 0, sizeof bytes);
  std::memcpy(bytes, fatbin, sizeof fatbin);
  result = cuModuleLoadData(&module, bytes);
  EXPECT(result != CUDA_SUCCESS, "a truncated fatbin was loaded");
  // A fatbin without any entry.
  const uint32_t empty[] = {0xBA55ED50, 0x00100001, 0, 0};
  std::memset(bytes, 0, sizeof bytes);
  std::memcpy(bytes, empty, sizeof empty);
  result = cuModuleLoadData(&module, bytes);
  EXPECT(result != CUDA_SUCCESS, "an empty fatbin was loaded");
}

}  // namespace

int main() {
  DRV_OK(cuInit(0));
  CUdevice device = 0;
  CUcontext context = nullptr;
  DRV_OK(cuDeviceGet(&device, 0));
  DRV_OK(cuDevicePrimaryCtxRetain(&context, device));
  DRV_OK(cuCtxSetCurrent(context));
  run_library();
  refuse_rubbish();
  run_library();
  DRV_OK(cuDevicePrimaryCtxRelease(device));
  return check::done("images");
}
