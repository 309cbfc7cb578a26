// What only newer devices have, through the driver API alone: tensor maps and green contexts. A device that
// lacks them says so by its error; a software GPU must, a card of compute capability 9.0 or more must not.
#include "check.hpp"

namespace {

__global__ void fill(int* data, int value, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) data[i] = value;
}

constexpr int kCount = 4096;

void tensor_maps(bool supported) {
  CUdeviceptr data = 0;
  DRV_OK(cuMemAlloc(&data, 1 << 20));
  const cuuint64_t dimensions[] = {64, 128};
  const cuuint64_t strides[] = {64 * sizeof(float)};
  const cuuint32_t box[] = {32, 16};
  const cuuint32_t steps[] = {1, 1};
  alignas(64) CUtensorMap maps[3] = {};
  const auto encode = [&](CUtensorMap* map, CUdeviceptr address, cuuint32_t rank) {
    return cuTensorMapEncodeTiled(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, rank,
                                  reinterpret_cast<void*>(address), dimensions, strides, box, steps,
                                  CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                  CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  };
  if (!supported) {
    EXPECT(encode(&maps[0], data, 2) != CUDA_SUCCESS,
           "a device without tensor memory access made a tensor map");
    DRV_OK(cuMemFree(data));
    return;
  }
  DRV_OK(encode(&maps[0], data, 2));
  DRV_OK(encode(&maps[1], data, 2));
  EXPECT(std::memcmp(&maps[0], &maps[1], sizeof maps[0]) == 0, "two maps of the same tensor differ");
  const CUtensorMap empty{};
  EXPECT(std::memcmp(&maps[0], &empty, sizeof empty) != 0, "the map is empty");
  DRV_OK(encode(&maps[2], data + 4096, 2));
  EXPECT(std::memcmp(&maps[0], &maps[2], sizeof empty) != 0, "the address makes no difference");
  DRV_OK(cuTensorMapReplaceAddress(&maps[0], reinterpret_cast<void*>(data + 4096)));
  EXPECT(std::memcmp(&maps[0], &maps[2], sizeof empty) == 0, "replacing the address makes another map");
  DRV_IS(encode(&maps[0], data, 0), CUDA_ERROR_INVALID_VALUE);
  DRV_IS(encode(&maps[0], data, 6), CUDA_ERROR_INVALID_VALUE);
  DRV_IS(encode(&maps[0], data + 4, 2), CUDA_ERROR_INVALID_VALUE);
  DRV_OK(cuMemFree(data));
}

void green_contexts(CUdevice device, bool supported) {
  CUdevResource all{};
  const CUresult result = cuDeviceGetDevResource(device, &all, CU_DEV_RESOURCE_TYPE_SM);
  if (!supported) {
    EXPECT(result != CUDA_SUCCESS, "a device without green contexts has resources");
    return;
  }
  DRV_OK(result);
  int processors = 0;
  DRV_OK(cuDeviceGetAttribute(&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device));
  EXPECT(all.sm.smCount == static_cast<unsigned>(processors), "%u of %d multiprocessors", all.sm.smCount,
         processors);
  unsigned groups = 0;
  DRV_OK(cuDevSmResourceSplitByCount(nullptr, &groups, &all, nullptr, 0, 16));
  EXPECT(groups >= 2, "%u groups of 16", groups);
  groups = 2;
  CUdevResource parts[2] = {};
  CUdevResource rest{};
  DRV_OK(cuDevSmResourceSplitByCount(parts, &groups, &all, &rest, 0, 16));
  EXPECT(groups == 2 && parts[0].sm.smCount >= 16, "%u groups, of %u", groups, parts[0].sm.smCount);
  CUdevResourceDesc description = nullptr;
  DRV_OK(cuDevResourceGenerateDesc(&description, parts, 1));
  CUgreenCtx green = nullptr;
  DRV_OK(cuGreenCtxCreate(&green, description, device, CU_GREEN_CTX_DEFAULT_STREAM));
  CUdevResource own{};
  DRV_OK(cuGreenCtxGetDevResource(green, &own, CU_DEV_RESOURCE_TYPE_SM));
  EXPECT(own.sm.smCount == parts[0].sm.smCount, "%u multiprocessors", own.sm.smCount);
  CUstream stream = nullptr;
  DRV_OK(cuGreenCtxStreamCreate(&stream, green, CU_STREAM_NON_BLOCKING, 0));
  CUgreenCtx named = nullptr;
  DRV_OK(cuStreamGetGreenCtx(stream, &named));
  EXPECT(named == green, "the stream names another green context");
  CUcontext context = nullptr;
  DRV_OK(cuCtxFromGreenCtx(&context, green));
  DRV_OK(cuCtxPushCurrent(context));
  int* data = nullptr;
  int* host = nullptr;
  DRV_OK(cuMemAlloc(reinterpret_cast<CUdeviceptr*>(&data), kCount * sizeof(int)));
  DRV_OK(cuMemAllocHost(reinterpret_cast<void**>(&host), kCount * sizeof(int)));
  fill<<<kCount / 128, 128, 0, stream>>>(data, 11, kCount);
  CUDA_OK(cudaGetLastError());
  DRV_OK(cuMemcpyDtoHAsync(host, reinterpret_cast<CUdeviceptr>(data), kCount * sizeof(int), stream));
  DRV_OK(cuStreamSynchronize(stream));
  for (int i = 0; i < kCount; ++i) EXPECT(host[i] == 11, "element %d is %d", i, host[i]);
  DRV_OK(cuMemFree(reinterpret_cast<CUdeviceptr>(data)));
  DRV_OK(cuMemFreeHost(host));
  DRV_OK(cuStreamDestroy(stream));
  DRV_OK(cuCtxPopCurrent(&context));
  DRV_OK(cuGreenCtxDestroy(green));
}

}  // namespace

int main() {
  CUDA_OK(cudaFree(nullptr));
  CUdevice device = 0;
  DRV_OK(cuDeviceGet(&device, 0));
  int major = 0;
  DRV_OK(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device));
  tensor_maps(major >= 9);
  green_contexts(device, major >= 9);
  return check::done("hopper");
}
