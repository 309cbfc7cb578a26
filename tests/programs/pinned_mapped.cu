// Pinned and mapped host memory: one address for host and device, valid inside structs, kernels' writes seen
// without a copy; registered memory; pointer attributes.
#include <sys/mman.h>

#include "check.hpp"

namespace {

struct Job {
  const int* in;
  int* out;
  int count;
};

__global__ void run_job(const Job* job) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < job->count) job->out[i] = job->in[i] * 2 + 1;
}

constexpr int kCount = 5000;

}  // namespace

int main() {
  CUDA_OK(cudaFreeHost(nullptr));
  // Pointers inside a struct that itself lies in mapped memory.
  int* in = nullptr;
  int* out = nullptr;
  Job* job = nullptr;
  CUDA_OK(cudaMallocHost(&in, kCount * sizeof(int)));
  CUDA_OK(cudaHostAlloc(&out, kCount * sizeof(int), cudaHostAllocMapped | cudaHostAllocPortable));
  CUDA_OK(cudaHostAlloc(&job, sizeof(Job), cudaHostAllocMapped));
  for (int i = 0; i < kCount; ++i) in[i] = i - 1000;
  *job = Job{in, out, kCount};
  run_job<<<(kCount + 255) / 256, 256>>>(job);
  CUDA_OK(cudaDeviceSynchronize());
  for (int i = 0; i < kCount; ++i) EXPECT(out[i] == in[i] * 2 + 1, "element %d is %d", i, out[i]);

  int* device_view = nullptr;
  CUDA_OK(cudaHostGetDevicePointer(&device_view, in, 0));
  EXPECT(device_view == in, "device view %p of %p", static_cast<void*>(device_view), static_cast<void*>(in));
  cudaPointerAttributes attributes{};
  CUDA_OK(cudaPointerGetAttributes(&attributes, in + 100));
  EXPECT(attributes.type == cudaMemoryTypeHost, "type of pinned memory is %d", attributes.type);
  EXPECT(attributes.hostPointer == in + 100 && attributes.devicePointer == in + 100, "views differ");
  int* device = nullptr;
  CUDA_OK(cudaMalloc(&device, kCount * sizeof(int)));
  CUDA_OK(cudaPointerGetAttributes(&attributes, device + 1));
  EXPECT(attributes.type == cudaMemoryTypeDevice && attributes.devicePointer == device + 1, "type %d",
         attributes.type);
  int local = 0;
  CUDA_OK(cudaPointerGetAttributes(&attributes, &local));
  EXPECT(attributes.type == cudaMemoryTypeUnregistered, "type of the stack is %d", attributes.type);
  unsigned flags = 0;
  CUDA_OK(cudaHostGetFlags(&flags, out));
  EXPECT((flags & cudaHostAllocMapped) != 0, "flags 0x%x", flags);

  // Ordinary memory, registered afterwards.
  constexpr size_t kPage = 4096;
  void* pages = mmap(nullptr, 4 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  EXPECT(pages != MAP_FAILED, "mmap failed");
  auto* registered = static_cast<int*>(pages);
  for (int i = 0; i < 4096; ++i) registered[i] = i * 3;
  CUDA_OK(cudaHostRegister(pages, 4 * kPage, cudaHostRegisterMapped | cudaHostRegisterPortable));
  EXPECT(registered[4095] == 4095 * 3, "registering changed the contents");
  int* view = nullptr;
  CUDA_OK(cudaHostGetDevicePointer(&view, pages, 0));
  *job = Job{view, out, 4096};
  run_job<<<16, 256>>>(job);
  CUDA_OK(cudaDeviceSynchronize());
  for (int i = 0; i < 4096; ++i)
    EXPECT(out[i] == i * 6 + 1, "from registered memory: element %d is %d", i, out[i]);
  CUDA_OK(cudaMemcpyAsync(device, registered, 4 * kPage, cudaMemcpyHostToDevice));
  CUDA_OK(cudaMemcpyAsync(out, device, 4 * kPage, cudaMemcpyDeviceToHost));
  CUDA_OK(cudaDeviceSynchronize());
  EXPECT(std::memcmp(out, registered, 4 * kPage) == 0, "copies through registered memory differ");
  CUDA_OK(cudaHostUnregister(pages));
  EXPECT(registered[4095] == 4095 * 3, "unregistering lost the contents");
  registered[0] = 17;
  CUDA_IS(cudaHostUnregister(pages), cudaErrorHostMemoryNotRegistered);
  (void)cudaGetLastError();

  // A part of the heap, which shares its pages with other things of the program's, registered for copies.
  std::vector<int> small(300);
  for (int i = 0; i < 300; ++i) small[i] = i * 7;
  CUDA_OK(cudaHostRegister(small.data() + 1, 298 * sizeof(int), cudaHostRegisterDefault));
  CUDA_OK(cudaPointerGetAttributes(&attributes, small.data() + 2));
  EXPECT(attributes.type == cudaMemoryTypeHost, "type of registered heap memory is %d", attributes.type);
  CUDA_OK(cudaMemcpyAsync(device, small.data() + 1, 298 * sizeof(int), cudaMemcpyHostToDevice));
  CUDA_OK(cudaMemsetAsync(device + 100, 0xff, 4 * sizeof(int)));
  CUDA_OK(cudaMemcpyAsync(small.data() + 1, device, 298 * sizeof(int), cudaMemcpyDeviceToHost));
  CUDA_OK(cudaDeviceSynchronize());
  for (int i = 0; i < 300; ++i) {
    const int wanted = i >= 101 && i < 105 ? -1 : i * 7;
    EXPECT(small[i] == wanted, "registered heap memory: element %d is %d", i, small[i]);
  }
  CUDA_IS(cudaHostRegister(small.data() + 1, 298 * sizeof(int), cudaHostRegisterDefault),
          cudaErrorHostMemoryAlreadyRegistered);
  (void)cudaGetLastError();
  CUDA_OK(cudaHostUnregister(small.data() + 1));
  CUDA_IS(cudaHostUnregister(small.data() + 1), cudaErrorHostMemoryNotRegistered);
  (void)cudaGetLastError();
  CUDA_OK(cudaFreeHost(in));
  CUDA_OK(cudaFreeHost(out));
  CUDA_OK(cudaFreeHost(job));
  return check::done("pinned_mapped");
}
