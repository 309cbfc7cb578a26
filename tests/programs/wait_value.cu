// cuStreamWaitValue32 and cuStreamWriteValue32: a stream that waits for the host's own write, while other
// calls go on; skipped where the device says it cannot.
#include "check.hpp"

namespace {

__global__ void set(int* out, int value) {
  *out = value;
}

}  // namespace

int main() {
  CUDA_OK(cudaFree(nullptr));
  CUdevice device = 0;
  DRV_OK(cuDeviceGet(&device, 0));
  int supported = 0;
  DRV_OK(cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR, device));
  unsigned* word = nullptr;
  int* out = nullptr;
  CUDA_OK(cudaHostAlloc(&word, 2 * sizeof(unsigned), cudaHostAllocMapped));
  CUDA_OK(cudaMalloc(&out, sizeof(int)));
  CUDA_OK(cudaMemset(out, 0, sizeof(int)));
  CUDA_OK(
      cudaDeviceSynchronize());  // a memset returns before it is done, and no stream below waits for stream 0
  word[0] = 0;
  word[1] = 0;
  cudaStream_t held = nullptr;
  cudaStream_t other = nullptr;
  CUDA_OK(cudaStreamCreateWithFlags(&held, cudaStreamNonBlocking));
  CUDA_OK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
  set<<<1, 1, 0, other>>>(out, 1);
  CUDA_OK(cudaDeviceSynchronize());
  const auto address = reinterpret_cast<CUdeviceptr>(word);
  DRV_OK(cuStreamWaitValue32(held, address, 1, CU_STREAM_WAIT_VALUE_GEQ));
  set<<<1, 1, 0, held>>>(out, 2);
  DRV_OK(cuStreamWriteValue32(held, address + 4, 99, CU_STREAM_WRITE_VALUE_DEFAULT));
  CUDA_IS(cudaStreamQuery(held), cudaErrorNotReady);
  int seen = -1;
  CUDA_OK(cudaMemcpyAsync(&seen, out, sizeof seen, cudaMemcpyDeviceToHost, other));
  CUDA_OK(cudaStreamSynchronize(other));
  EXPECT(seen == 1, "before the write: %d", seen);
  *static_cast<volatile unsigned*>(word) = 1;
  CUDA_OK(cudaStreamSynchronize(held));
  EXPECT(static_cast<volatile unsigned*>(word)[1] == 99, "the stream wrote %u", word[1]);
  CUDA_OK(cudaMemcpy(&seen, out, sizeof seen, cudaMemcpyDeviceToHost));
  EXPECT(seen == 2, "after the write: %d", seen);

  // The same as a batch: wait for a 64-bit number, write two words.
  auto* wide = reinterpret_cast<volatile unsigned long long*>(word);
  wide[0] = 5;
  CUstreamBatchMemOpParams batch[3] = {};
  batch[0].waitValue.operation = CU_STREAM_MEM_OP_WAIT_VALUE_64;
  batch[0].waitValue.address = address;
  batch[0].waitValue.value64 = 6;
  batch[0].waitValue.flags = CU_STREAM_WAIT_VALUE_EQ;
  for (int i = 1; i < 3; ++i) {
    batch[i].writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
    batch[i].writeValue.address = address + 4 * static_cast<unsigned>(i - 1);
    batch[i].writeValue.value = 70U + static_cast<unsigned>(i);
  }
  DRV_OK(cuStreamBatchMemOp(held, 3, batch, 0));
  CUDA_IS(cudaStreamQuery(held), cudaErrorNotReady);
  wide[0] = 6;
  CUDA_OK(cudaStreamSynchronize(held));
  EXPECT(wide[0] == (71ULL | 72ULL << 32), "the batch wrote 0x%llx", wide[0]);
  DRV_IS(cuStreamBatchMemOp(held, 3, batch, 1), CUDA_ERROR_INVALID_VALUE);  // flags must be 0
  (void)supported;
  return check::done("wait_value");
}
