// Managed memory: host and device write in turn, prefetch and advice are remembered, pointers stay valid.
#include "check.hpp"

namespace {

struct Node {
  int value;
  Node* next;
};

__global__ void walk(Node* head, int* sum) {
  int total = 0;
  for (Node* node = head; node != nullptr; node = node->next) {
    total += node->value;
    node->value = -node->value;
  }
  *sum = total;
}

int attribute(cudaMemRangeAttribute which, const void* from, size_t bytes) {
  int value = 12345;
  CUDA_OK(cudaMemRangeGetAttribute(&value, sizeof value, which, from, bytes));
  return value;
}

// What is said of managed memory, by pages, is what can be asked of it.
void advice_is_remembered() {
  // NVIDIA's driver keeps advice for larger pieces than pages: on an H100 four pages were one.
  constexpr size_t kPage = size_t{2} << 20;
  constexpr size_t kBytes = 8 * kPage;
  char* memory = nullptr;
  CUDA_OK(cudaMallocManaged(&memory, kBytes));
  const auto all = [&](cudaMemRangeAttribute which) { return attribute(which, memory, kBytes); };
  EXPECT(all(cudaMemRangeAttributeReadMostly) == 0, "read-mostly unasked");
  EXPECT(all(cudaMemRangeAttributePreferredLocation) == cudaInvalidDeviceId, "a preferred location unasked");
  EXPECT(all(cudaMemRangeAttributeLastPrefetchLocation) == cudaInvalidDeviceId, "prefetched unasked");
  const cudaMemLocation device = {cudaMemLocationTypeDevice, 0};
  const cudaMemLocation host = {cudaMemLocationTypeHost, 0};

  CUDA_OK(cudaMemAdvise(memory, kBytes, cudaMemAdviseSetReadMostly, device));
  EXPECT(all(cudaMemRangeAttributeReadMostly) == 1, "not read-mostly");
  CUDA_OK(cudaMemAdvise(memory + 3 * kPage, kPage, cudaMemAdviseUnsetReadMostly, device));
  EXPECT(all(cudaMemRangeAttributeReadMostly) == 0, "read-mostly all the same");
  EXPECT(attribute(cudaMemRangeAttributeReadMostly, memory, 3 * kPage) == 1, "not before that page");
  EXPECT(attribute(cudaMemRangeAttributeReadMostly, memory + 4 * kPage - 1, 1) == 0, "not the page whole");
  EXPECT(attribute(cudaMemRangeAttributeReadMostly, memory + 4 * kPage, 4 * kPage) == 1, "not behind it");

  CUDA_OK(cudaMemAdvise(memory, kBytes, cudaMemAdviseSetPreferredLocation, device));
  EXPECT(all(cudaMemRangeAttributePreferredLocation) == 0, "the device is not preferred");
  CUDA_OK(cudaMemAdvise(memory, kPage, cudaMemAdviseSetPreferredLocation, host));
  EXPECT(all(cudaMemRangeAttributePreferredLocation) == cudaInvalidDeviceId, "one location of two");
  EXPECT(attribute(cudaMemRangeAttributePreferredLocation, memory, kPage) == cudaCpuDeviceId, "not the host");
  CUDA_OK(cudaMemAdvise(memory, kBytes, cudaMemAdviseUnsetPreferredLocation, device));
  EXPECT(attribute(cudaMemRangeAttributePreferredLocation, memory, kPage) == cudaInvalidDeviceId,
         "still host");

  CUDA_OK(cudaMemPrefetchAsync(memory, kBytes, device, 0, nullptr));
  CUDA_OK(cudaDeviceSynchronize());
  EXPECT(all(cudaMemRangeAttributeLastPrefetchLocation) == 0, "not prefetched to the device");
  CUDA_OK(cudaMemPrefetchAsync(memory, kBytes, host, 0, nullptr));
  CUDA_OK(cudaDeviceSynchronize());
  CUDA_OK(cudaMemAdvise(memory, kBytes, cudaMemAdviseSetAccessedBy, device));
  int prefetched = 12345;
  int accessed[3] = {7, 7, 7};
  void* results[] = {&prefetched, accessed};
  size_t sizes[] = {sizeof prefetched, sizeof accessed};
  cudaMemRangeAttribute which[] = {cudaMemRangeAttributeLastPrefetchLocation,
                                   cudaMemRangeAttributeAccessedBy};
  CUDA_OK(cudaMemRangeGetAttributes(results, sizes, which, 2, memory, kBytes));
  EXPECT(prefetched == cudaCpuDeviceId, "prefetched to %d", prefetched);
  EXPECT(accessed[0] == 0 && accessed[1] == cudaInvalidDeviceId && accessed[2] == cudaInvalidDeviceId,
         "accessed by %d, %d, %d", accessed[0], accessed[1], accessed[2]);
  CUDA_OK(cudaMemAdvise(memory, kPage, cudaMemAdviseUnsetAccessedBy, device));
  EXPECT(all(cudaMemRangeAttributeAccessedBy) == cudaInvalidDeviceId, "accessed by the device as a whole");

  EXPECT(cudaMemRangeGetAttribute(&prefetched, 1, which[0], memory, kBytes) == cudaErrorInvalidValue,
         "1 byte");
  EXPECT(cudaMemRangeGetAttribute(&prefetched, 4, which[0], memory, 0) == cudaErrorInvalidValue, "no memory");
#if CUDART_VERSION >= 13000
  // Three ranges at once: the first two to the device, the last to the host.
  cudaStream_t stream = nullptr;
  CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  void* ranges[] = {memory, memory + kPage, memory + 4 * kPage};
  size_t lengths[] = {kPage, 3 * kPage, 4 * kPage};
  cudaMemLocation places[] = {device, host};
  size_t from[] = {0, 2};
  CUDA_OK(cudaMemPrefetchBatchAsync(ranges, lengths, 3, places, from, 2, 0, stream));
  CUDA_OK(cudaStreamSynchronize(stream));
  EXPECT(attribute(cudaMemRangeAttributeLastPrefetchLocation, memory, 4 * kPage) == 0,
         "not all to the device");
  EXPECT(
      attribute(cudaMemRangeAttributeLastPrefetchLocation, memory + 4 * kPage, 4 * kPage) == cudaCpuDeviceId,
      "not to the host");
  memory[9] = 5;
  CUDA_OK(cudaMemDiscardBatchAsync(ranges + 1, lengths + 1, 2, 0, stream));
  CUDA_OK(cudaStreamSynchronize(stream));
  memory[kPage] = 6;
  EXPECT(memory[9] == 5 && memory[kPage] == 6, "what was not discarded, or was written again");
  CUDA_IS(cudaMemPrefetchBatchAsync(ranges, lengths, 3, places, from + 1, 1, 0, stream),
          cudaErrorInvalidValue);
  (void)cudaGetLastError();
  CUDA_OK(cudaStreamDestroy(stream));
#endif
  CUDA_OK(cudaFree(memory));
  // What comes to the same address is new.
  CUDA_OK(cudaMallocManaged(&memory, kBytes));
  EXPECT(all(cudaMemRangeAttributeReadMostly) == 0, "read-mostly from before");
  CUDA_OK(cudaFree(memory));
}

}  // namespace

int main() {
  constexpr int kCount = 1000;
  Node* nodes = nullptr;
  int* sum = nullptr;
  CUDA_OK(cudaMallocManaged(&nodes, kCount * sizeof(Node)));
  CUDA_OK(cudaMallocManaged(&sum, sizeof(int)));
  for (int i = 0; i < kCount; ++i) nodes[i] = Node{i, i + 1 < kCount ? &nodes[i + 1] : nullptr};
  walk<<<1, 1>>>(nodes, sum);
  CUDA_OK(cudaDeviceSynchronize());
  EXPECT(*sum == kCount * (kCount - 1) / 2, "sum is %d", *sum);
  for (int i = 0; i < kCount; ++i) EXPECT(nodes[i].value == -i, "node %d is %d", i, nodes[i].value);
  nodes[0].value = 500;
  cudaMemLocation location = {cudaMemLocationTypeDevice, 0};
  CUDA_OK(cudaMemAdvise(nodes, kCount * sizeof(Node), cudaMemAdviseSetPreferredLocation, location));
  CUDA_OK(cudaMemPrefetchAsync(nodes, kCount * sizeof(Node), location, 0, nullptr));
  walk<<<1, 1>>>(nodes, sum);
  CUDA_OK(cudaDeviceSynchronize());
  EXPECT(*sum == 500 - kCount * (kCount - 1) / 2, "second sum is %d", *sum);
  cudaPointerAttributes attributes{};
  CUDA_OK(cudaPointerGetAttributes(&attributes, nodes));
  EXPECT(attributes.type == cudaMemoryTypeManaged, "type is %d", attributes.type);
  CUDA_OK(cudaMemset(nodes, 0, kCount * sizeof(Node)));
  CUDA_OK(cudaDeviceSynchronize());
  EXPECT(nodes[kCount - 1].next == nullptr && nodes[3].value == 0, "memset did not reach managed memory");
  advice_is_remembered();
  CUDA_OK(cudaFree(nodes));
  CUDA_OK(cudaFree(sum));
  return check::done("managed");
}
