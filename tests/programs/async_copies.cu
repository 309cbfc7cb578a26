// When host memory is read and written by asynchronous copies: pageable sources are free at return, pinned
// ones are read in stream order, a copy to pageable memory is complete at return, one to pinned memory not
// begun.
#include "check.hpp"

namespace {

__global__ void spin_fill(unsigned char* data, int n, unsigned char value, int rounds) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  unsigned slow = static_cast<unsigned>(i);
  for (int round = 0; round < rounds; ++round) slow = slow * 1664525U + 1013904223U;
  if (i < n) data[i] = static_cast<unsigned char>(value + (slow == 0x12345678U ? 1 : 0) * 0);
}

constexpr int kCount = 1U << 16U;

void pageable_source_is_free_at_return(cudaStream_t stream) {
  for (const int size : {16, 4000, 5000, kCount, 8 * 1024 * 1024}) {
    std::vector<unsigned char> source(size, 1);
    std::vector<unsigned char> seen(size);
    unsigned char* device = nullptr;
    CUDA_OK(cudaMalloc(&device, size));
    spin_fill<<<kCount / 256, 256, 0, stream>>>(device, std::min(size, kCount), 99, 200);
    CUDA_OK(cudaMemcpyAsync(device, source.data(), size, cudaMemcpyHostToDevice, stream));
    std::fill(source.begin(), source.end(), static_cast<unsigned char>(2));
    CUDA_OK(cudaStreamSynchronize(stream));
    CUDA_OK(cudaMemcpy(seen.data(), device, size, cudaMemcpyDeviceToHost));
    for (int i = 0; i < size; ++i) EXPECT(seen[i] == 1, "size %d: byte %d is %d", size, i, seen[i]);
    CUDA_OK(cudaFree(device));
  }
}

void pinned_source_is_read_in_stream_order(cudaStream_t stream) {
  unsigned char* pinned = nullptr;
  unsigned char* first = nullptr;
  unsigned char* second = nullptr;
  CUDA_OK(cudaMallocHost(&pinned, kCount));
  CUDA_OK(cudaMalloc(&first, kCount));
  CUDA_OK(cudaMalloc(&second, kCount));
  for (const int size : {64, kCount}) {
    std::memset(pinned, 7, kCount);
    CUDA_OK(cudaMemset(second, 0, kCount));
    CUDA_OK(cudaDeviceSynchronize());
    spin_fill<<<kCount / 256, 256, 0, stream>>>(first, kCount, 42, 2000);
    CUDA_OK(cudaMemcpyAsync(pinned, first, size, cudaMemcpyDeviceToHost, stream));
    CUDA_OK(cudaMemcpyAsync(second, pinned, size, cudaMemcpyHostToDevice, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
    std::vector<unsigned char> seen(size);
    CUDA_OK(cudaMemcpy(seen.data(), second, size, cudaMemcpyDeviceToHost));
    for (int i = 0; i < size; ++i) EXPECT(seen[i] == 42, "size %d: byte %d is %d", size, i, seen[i]);
  }
  CUDA_OK(cudaFree(first));
  CUDA_OK(cudaFree(second));
  CUDA_OK(cudaFreeHost(pinned));
}

void copy_to_pageable_is_done_at_return(cudaStream_t stream) {
  unsigned char* device = nullptr;
  CUDA_OK(cudaMalloc(&device, kCount));
  CUDA_OK(cudaMemset(device, 0, kCount));
  CUDA_OK(cudaDeviceSynchronize());
  for (unsigned char round = 1; round < 6; ++round) {
    std::vector<unsigned char> target(kCount, 0);
    spin_fill<<<kCount / 256, 256, 0, stream>>>(device, kCount, round, 500);
    CUDA_OK(cudaMemcpyAsync(target.data(), device, kCount, cudaMemcpyDeviceToHost, stream));
    for (int i = 0; i < kCount; ++i)
      EXPECT(target[i] == round, "round %d: byte %d is %d", round, i, target[i]);
    CUDA_OK(cudaStreamSynchronize(stream));
  }
  CUDA_OK(cudaFree(device));
}

void copy_to_pinned_returns_at_once(cudaStream_t stream) {
  unsigned char* device = nullptr;
  unsigned char* pinned = nullptr;
  CUDA_OK(cudaMalloc(&device, kCount));
  CUDA_OK(cudaMallocHost(&pinned, kCount));
  std::memset(pinned, 0, kCount);
  CUDA_OK(cudaMemset(device, 6, kCount));
  CUDA_OK(cudaDeviceSynchronize());
  check::HeldStream held(stream);
  CUDA_OK(cudaMemcpyAsync(pinned, device, kCount, cudaMemcpyDeviceToHost, stream));
  CUDA_IS(cudaStreamQuery(stream), cudaErrorNotReady);
  EXPECT(pinned[0] == 0 && pinned[kCount - 1] == 0, "copied before its turn");
  held.release();
  CUDA_OK(cudaStreamSynchronize(stream));
  for (int i = 0; i < kCount; ++i) EXPECT(pinned[i] == 6, "byte %d is %d", i, pinned[i]);
  CUDA_OK(cudaFree(device));
  CUDA_OK(cudaFreeHost(pinned));
}

#if CUDA_VERSION >= 13000
CUmemcpy3DOperand memory(CUdeviceptr pointer, size_t row, size_t height) {
  CUmemcpy3DOperand operand{};
  operand.type = CU_MEMCPY_OPERAND_TYPE_POINTER;
  operand.op.ptr.ptr = pointer;
  operand.op.ptr.rowLength = row;
  operand.op.ptr.layerHeight = height;
  return operand;
}

// Boxes in one call: pageable memory into an array, a part of that into memory with longer rows, and memory
// to memory. `at`: 16 KiB of the device's.
void box_batches_copy_all(cudaStream_t stream, CUdeviceptr at) {
  constexpr size_t kWidth = 10, kHeight = 4, kDepth = 3;
  CUDA_ARRAY3D_DESCRIPTOR form{};
  form.Width = kWidth;
  form.Height = kHeight;
  form.Depth = kDepth;
  form.Format = CU_AD_FORMAT_UNSIGNED_INT16;
  form.NumChannels = 2;
  CUarray array = nullptr;
  DRV_OK(cuArray3DCreate(&array, &form));
  DRV_OK(cuMemsetD8(at, 0xEE, 16384));
  CUDA_OK(cudaDeviceSynchronize());
  std::vector<unsigned> content(kWidth * kHeight * kDepth);
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<unsigned>(7000 + i);
  CUDA_MEMCPY3D_BATCH_OP box{};
  box.src = memory(reinterpret_cast<CUdeviceptr>(content.data()), 0, 0);
  box.dst.type = CU_MEMCPY_OPERAND_TYPE_ARRAY;
  box.dst.op.array.array = array;
  box.extent = {kWidth, kHeight, kDepth};
  box.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL;
  DRV_OK(cuMemcpy3DBatchAsync(1, &box, 0, stream));

  CUDA_MEMCPY3D_BATCH_OP boxes[2] = {box, box};
  boxes[0].src = box.dst;
  boxes[0].src.op.array.offset = {2, 1, 1};
  boxes[0].dst = memory(at, 16, 5);
  boxes[0].extent = {6, 3, 2};
  boxes[0].srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
  boxes[1].src = memory(reinterpret_cast<CUdeviceptr>(content.data()), 5, 0);
  boxes[1].dst = memory(at + 8192, 0, 0);
  boxes[1].extent = {3, 2, 1};  // bytes
  boxes[1].srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_ANY;
  DRV_OK(cuMemcpy3DBatchAsync(2, boxes, 0, stream));
  CUDA_OK(cudaStreamSynchronize(stream));
  std::vector<unsigned> seen(16 * 5 * 2);
  DRV_OK(cuMemcpyDtoH(seen.data(), at, seen.size() * sizeof(unsigned)));
  for (size_t z = 0; z < 2; ++z) {
    for (size_t y = 0; y < 5; ++y) {
      for (size_t x = 0; x < 16; ++x) {
        const unsigned from = static_cast<unsigned>(7000 + ((z + 1) * kHeight + y + 1) * kWidth + x + 2);
        const unsigned wanted = x < 6 && y < 3 ? from : 0xEEEEEEEEU;
        const unsigned got = seen[(z * 5 + y) * 16 + x];
        EXPECT(got == wanted, "at %zu, %zu, %zu: %u, wanted %u", x, y, z, got, wanted);
      }
    }
  }
  unsigned char bytes[7] = {};
  DRV_OK(cuMemcpyDtoH(bytes, at + 8192, sizeof bytes));
  const auto* const packed = reinterpret_cast<const unsigned char*>(content.data());
  EXPECT(std::memcmp(bytes, packed, 3) == 0 && std::memcmp(bytes + 3, packed + 5, 3) == 0 && bytes[6] == 0xEE,
         "two rows of bytes");

  boxes[1].dst = memory(at, 2, 0);  // rows shorter than what is copied
  DRV_IS(cuMemcpy3DBatchAsync(2, boxes, 0, stream), CUDA_ERROR_INVALID_VALUE);
  boxes[1].dst = memory(at, 0, 0);
  boxes[1].extent = {3, 0, 1};
  DRV_IS(cuMemcpy3DBatchAsync(2, boxes, 0, stream), CUDA_ERROR_INVALID_VALUE);
  CUDA_OK(cudaStreamSynchronize(stream));
  DRV_OK(cuArrayDestroy(array));
}
#endif

// One call, many copies, between all kinds of memory.
void batches_copy_all(cudaStream_t stream) {
#if CUDA_VERSION >= 13000
  unsigned char* device = nullptr;
  unsigned char* pinned = nullptr;
  CUDA_OK(cudaMalloc(&device, 4 * 4096));
  CUDA_OK(cudaHostAlloc(&pinned, 4096, cudaHostAllocDefault));
  std::vector<unsigned char> pageable(4096, 3);
  std::memset(pinned, 4, 4096);
  CUDA_OK(cudaMemset(device, 5, 4 * 4096));
  CUDA_OK(cudaDeviceSynchronize());
  const auto at = reinterpret_cast<CUdeviceptr>(device);
  CUdeviceptr targets[] = {at, at + 4096, at + 8192};
  CUdeviceptr sources[] = {reinterpret_cast<CUdeviceptr>(pageable.data()),
                           reinterpret_cast<CUdeviceptr>(pinned), at + 3 * 4096};
  size_t sizes[] = {4096, 4000, 100};
  CUmemcpyAttributes attributes{};
  attributes.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
  size_t first = 0;
  DRV_OK(cuMemcpyBatchAsync(targets, sources, sizes, 3, &attributes, &first, 1, stream));
  CUDA_OK(cudaStreamSynchronize(stream));
  std::vector<unsigned char> seen(4 * 4096);
  CUDA_OK(cudaMemcpy(seen.data(), device, seen.size(), cudaMemcpyDeviceToHost));
  EXPECT(seen[0] == 3 && seen[4095] == 3 && seen[4096] == 4 && seen[4096 + 3999] == 4 &&
             seen[4096 + 4000] == 5 && seen[8192 + 99] == 5,
         "a batch of copies");
  DRV_IS(cuMemcpyBatchAsync(targets, sources, sizes, 3, &attributes, &first, 0, stream),
         CUDA_ERROR_INVALID_VALUE);
  box_batches_copy_all(stream, at);
  CUDA_OK(cudaFreeHost(pinned));
  CUDA_OK(cudaFree(device));
#else
  (void)stream;
#endif
}

void a_refused_copy_is_told_once() {
  std::vector<unsigned char> host(4096);
  void* const nowhere = reinterpret_cast<void*>(0x5000);  // NOLINT(performance-no-int-to-ptr)
  CUDA_IS(cudaMemcpy(host.data(), nowhere, 16, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  CUDA_IS(cudaGetLastError(), cudaErrorInvalidValue);
  CUDA_OK(cudaDeviceSynchronize());
}

}  // namespace

int main() {
  cudaStream_t stream = nullptr;
  CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  pageable_source_is_free_at_return(stream);
  pinned_source_is_read_in_stream_order(stream);
  copy_to_pageable_is_done_at_return(stream);
  copy_to_pinned_returns_at_once(stream);
  batches_copy_all(stream);
  a_refused_copy_is_told_once();
  return check::done("async_copies");
}
