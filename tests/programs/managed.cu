// Managed memory: host and device write in turn, prefetch and advice are accepted, pointers stay valid.
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
  CUDA_OK(cudaFree(nodes));
  CUDA_OK(cudaFree(sum));
  return check::done("managed");
}
