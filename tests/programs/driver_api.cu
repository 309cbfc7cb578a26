// The driver API alone, linked against libcuda itself: PTX text, kernelParams, the `extra` form, module
// globals, module unload, contexts, and the errors of bad images. No runtime call anywhere.
#include <string>

#include "check.hpp"

namespace {

constexpr const char* kPtx = R"(
.version 6.4
.target sm_75
.address_size 64
.global .align 4 .u32 bias = 11;
.visible .entry scale(.param .u64 data, .param .u32 factor, .param .u32 n)
{
  .reg .pred %p<2>;
  .reg .b32 %r<10>;
  .reg .b64 %rd<5>;
  ld.param.u64 %rd1, [data];
  ld.param.u32 %r1, [factor];
  ld.param.u32 %r2, [n];
  mov.u32 %r3, %ctaid.x;
  mov.u32 %r4, %ntid.x;
  mov.u32 %r5, %tid.x;
  mad.lo.s32 %r6, %r3, %r4, %r5;
  setp.ge.u32 %p1, %r6, %r2;
  @%p1 bra DONE;
  cvta.to.global.u64 %rd2, %rd1;
  mul.wide.u32 %rd3, %r6, 4;
  add.s64 %rd4, %rd2, %rd3;
  ld.global.u32 %r7, [%rd4];
  ld.global.u32 %r8, [bias];
  mad.lo.u32 %r9, %r7, %r1, %r8;
  st.global.u32 [%rd4], %r9;
DONE:
  ret;
}
)";

struct __attribute__((packed)) Arguments {
  CUdeviceptr data;
  unsigned factor;
  unsigned count;
};

}  // namespace

int main() {
  DRV_OK(cuInit(0));
  int version = 0;
  DRV_OK(cuDriverGetVersion(&version));
  EXPECT(version >= 12000, "driver version %d", version);
  CUdevice device = 0;
  DRV_OK(cuDeviceGet(&device, 0));
  DRV_IS(cuDeviceGet(&device, 999), CUDA_ERROR_INVALID_DEVICE);
  DRV_OK(cuDeviceGet(&device, 0));
  char name[128] = {};
  DRV_OK(cuDeviceGetName(name, sizeof name, device));
  EXPECT(name[0] != '\0', "the device has no name");
  char bus_id[13] = {};
  DRV_OK(cuDeviceGetPCIBusId(bus_id, sizeof bus_id, device));
  EXPECT(std::strlen(bus_id) == 12, "the device is at %s", bus_id);
  DRV_IS(cuDeviceGetPCIBusId(bus_id, 12, device), CUDA_ERROR_INVALID_VALUE);
  CUcontext context = nullptr;
  DRV_OK(cuCtxGetCurrent(&context));
  EXPECT(context == nullptr, "a context is current before any was made");
  CUmodule module = nullptr;
  DRV_IS(cuModuleLoadData(&module, kPtx), CUDA_ERROR_INVALID_CONTEXT);
  DRV_OK(cuCtxCreate(&context, nullptr, 0, device));
  CUdevice context_device = -1;
  DRV_OK(cuCtxGetDevice(&context_device));
  EXPECT(context_device == device, "the context's device is %d", context_device);

  DRV_OK(cuModuleLoadData(&module, kPtx));
  CUfunction function = nullptr;
  DRV_OK(cuModuleGetFunction(&function, module, "scale"));
  CUfunction none = nullptr;
  DRV_IS(cuModuleGetFunction(&none, module, "no_such_kernel"), CUDA_ERROR_NOT_FOUND);
  CUdeviceptr bias = 0;
  size_t bias_size = 0;
  DRV_OK(cuModuleGetGlobal(&bias, &bias_size, module, "bias"));
  EXPECT(bias_size == 4, "the global has %zu bytes", bias_size);

  constexpr unsigned kCount = 1000;
  std::vector<unsigned> host(kCount);
  for (unsigned i = 0; i < kCount; ++i) host[i] = i;
  CUdeviceptr data = 0;
  DRV_OK(cuMemAlloc(&data, kCount * 4));
  DRV_OK(cuMemcpyHtoD(data, host.data(), kCount * 4));
  unsigned factor = 3;
  unsigned count = kCount;
  void* parameters[] = {&data, &factor, &count};
  DRV_OK(cuLaunchKernel(function, 8, 1, 1, 128, 1, 1, 0, nullptr, parameters, nullptr));
  const unsigned new_bias = 5;
  DRV_OK(cuMemcpyHtoD(bias, &new_bias, 4));
  Arguments packed{data, 10, kCount};
  size_t size = sizeof packed;
  void* extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &packed, CU_LAUNCH_PARAM_BUFFER_SIZE, &size,
                   CU_LAUNCH_PARAM_END};
  DRV_OK(cuLaunchKernel(function, 8, 1, 1, 128, 1, 1, 0, nullptr, nullptr, extra));
  DRV_OK(cuCtxSynchronize());
  std::vector<unsigned> out(kCount);
  DRV_OK(cuMemcpyDtoH(out.data(), data, kCount * 4));
  for (unsigned i = 0; i < kCount; ++i) {
    EXPECT(out[i] == (i * 3 + 11) * 10 + 5, "element %u is %u", i, out[i]);
  }
  DRV_IS(cuLaunchKernel(function, 1, 1, 1, 4096, 1, 1, 0, nullptr, parameters, nullptr),
         CUDA_ERROR_INVALID_VALUE);

  CUmodule bad = nullptr;
  DRV_IS(cuModuleLoadData(
             &bad, ".version 6.4\n.target sm_75\n.address_size 64\n.visible .entry x() { nonsense; }\n"),
         CUDA_ERROR_INVALID_PTX);
  CUcontext popped = nullptr;
  DRV_OK(cuCtxPopCurrent(&popped));
  EXPECT(popped == context, "popped another context");
  CUcontext current = context;
  DRV_OK(cuCtxGetCurrent(&current));
  EXPECT(current == nullptr, "a context is still current");
  DRV_OK(cuCtxPushCurrent(context));
  DRV_OK(cuMemFree(data));
  DRV_OK(cuModuleUnload(module));
  DRV_OK(cuCtxDestroy(context));

  // The primary context: state, retain, release.
  unsigned flags = 0;
  int active = -1;
  DRV_OK(cuDevicePrimaryCtxGetState(device, &flags, &active));
  EXPECT(active == 0, "the primary context is active before its first use");
  CUcontext primary = nullptr;
  DRV_OK(cuDevicePrimaryCtxRetain(&primary, device));
  DRV_OK(cuDevicePrimaryCtxGetState(device, &flags, &active));
  EXPECT(active == 1, "the primary context is not active");
  DRV_OK(cuCtxSetCurrent(primary));
  CUdeviceptr small = 0;
  DRV_OK(cuMemAlloc(&small, 100));
  DRV_OK(cuMemsetD32(small, 0x01020304, 25));
  unsigned word = 0;
  DRV_OK(cuMemcpyDtoH(&word, small + 96, 4));
  EXPECT(word == 0x01020304, "memset wrote 0x%x", word);
  DRV_OK(cuDevicePrimaryCtxRelease(device));
  return check::done("driver_api");
}
