// A memory pool shared between processes, as cuda-samples' streamOrderedAllocationIPC does it: the pool goes
// by a file descriptor, its allocations by 64 bytes each; the other process reads and writes the same memory.
#include <sys/mman.h>

#include "shared_values.hpp"
#include "two_processes.hpp"

namespace {

constexpr int kFirst = 300'000;  // elements of the first allocation
constexpr int kSecond = 1'000;   // and of the second

struct Pointers {
  cudaMemPoolPtrExportData first, second;
};

int* allocate(cudaMemPool_t pool, int n, int value, cudaStream_t stream) {
  int* memory = nullptr;
  CUDA_OK(cudaMallocFromPoolAsync(&memory, n * sizeof(int), pool, stream));
  check::fill<<<(n + 255) / 256, 256, 0, stream>>>(memory, n, value);
  return memory;
}

void parent(check::Partner child) {
  int types = 0;
  CUDA_OK(cudaDeviceGetAttribute(&types, cudaDevAttrMemoryPoolSupportedHandleTypes, 0));
  EXPECT((types & cudaMemHandleTypePosixFileDescriptor) != 0, "supported handle types: %d", types);
  cudaStream_t stream = nullptr;
  CUDA_OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.handleTypes = cudaMemHandleTypePosixFileDescriptor;
  properties.location.type = cudaMemLocationTypeDevice;
  cudaMemPool_t pool = nullptr;
  CUDA_OK(cudaMemPoolCreate(&pool, &properties));
  // Something before them, so that they do not lie where the pool begins.
  int* const before = allocate(pool, 5'000, 9, stream);
  int* const first = allocate(pool, kFirst, 1'000, stream);
  int* const second = allocate(pool, kSecond, 77, stream);
  CUDA_OK(cudaStreamSynchronize(stream));

  int fd = -1;
  CUDA_OK(cudaMemPoolExportToShareableHandle(&fd, pool, cudaMemHandleTypePosixFileDescriptor, 0));
  EXPECT(fd >= 0, "no descriptor: %d", fd);
  child.send('f', fd);
  close(fd);
  Pointers pointers{};
  CUDA_OK(cudaMemPoolExportPointer(&pointers.first, first));
  CUDA_OK(cudaMemPoolExportPointer(&pointers.second, second));
  child.send(pointers);
  child.meet();  // it has added
  check::expect_values(first, kFirst, 1'100);
  check::expect_values(second, kSecond, 77);
  check::expect_values(before, 5'000, 9);
  child.meet();  // it has freed both, which ends nothing here
  check::expect_values(first, kFirst, 1'100);
  CUDA_OK(cudaFreeAsync(first, stream));
  CUDA_OK(cudaFreeAsync(second, stream));
  CUDA_OK(cudaStreamSynchronize(stream));
  // The pool goes on: what comes next is new memory, to be shared anew.
  int* const later = allocate(pool, kSecond, 5, stream);
  CUDA_OK(cudaStreamSynchronize(stream));
  cudaMemPoolPtrExportData third{};
  CUDA_OK(cudaMemPoolExportPointer(&third, later));
  child.send(third);
  child.meet();  // it has subtracted
  check::expect_values(later, kSecond, 4);
  CUDA_OK(cudaFreeAsync(later, stream));
  CUDA_OK(cudaFreeAsync(before, stream));
  CUDA_OK(cudaStreamSynchronize(stream));
  CUDA_OK(cudaMemPoolDestroy(pool));
  child.meet();
  child.finish();

  // Memory of a pool that was not made to be shared, and memory of none.
  cudaMemPoolProps own{};
  own.allocType = cudaMemAllocationTypePinned;
  own.location.type = cudaMemLocationTypeDevice;
  CUDA_OK(cudaMemPoolCreate(&pool, &own));
  EXPECT(
      cudaMemPoolExportToShareableHandle(&fd, pool, cudaMemHandleTypePosixFileDescriptor, 0) != cudaSuccess,
      "a private pool was exported");
  CUDA_OK(cudaMemPoolDestroy(pool));
  int* plain = nullptr;
  CUDA_OK(cudaMalloc(&plain, 4096));
  EXPECT(cudaMemPoolExportPointer(&third, plain) != cudaSuccess, "plain memory was exported");
  CUDA_OK(cudaFree(plain));
}

void child(check::Partner parent) {
  CUDA_OK(cudaFree(nullptr));
  int fd = -1;
  static_cast<void>(parent.receive<char>(&fd));
  cudaMemPool_t pool = nullptr;
  CUDA_OK(cudaMemPoolImportFromShareableHandle(&pool, reinterpret_cast<void*>(static_cast<intptr_t>(fd)),
                                               cudaMemHandleTypePosixFileDescriptor, 0));
  close(fd);
  cudaMemLocation here{};
  here.type = cudaMemLocationTypeDevice;
  cudaMemAccessFlags flags = cudaMemAccessFlagsProtNone;
  CUDA_OK(cudaMemPoolGetAccess(&flags, pool, &here));
  EXPECT(flags == cudaMemAccessFlagsProtReadWrite, "access from the pool's own device: %d", flags);
  cudaMemAccessDesc access{};
  access.location = here;
  access.flags = cudaMemAccessFlagsProtReadWrite;
  CUDA_OK(cudaMemPoolSetAccess(pool, &access, 1));

  Pointers pointers = parent.receive<Pointers>();
  int* first = nullptr;
  int* second = nullptr;
  CUDA_OK(cudaMemPoolImportPointer(reinterpret_cast<void**>(&first), pool, &pointers.first));
  CUDA_OK(cudaMemPoolImportPointer(reinterpret_cast<void**>(&second), pool, &pointers.second));
  check::expect_values(first, kFirst, 1'000);
  check::expect_values(second, kSecond, 77);
  cudaPointerAttributes attributes{};
  CUDA_OK(cudaPointerGetAttributes(&attributes, first + 5));
  EXPECT(attributes.type == cudaMemoryTypeDevice, "it is of type %d", attributes.type);
  check::add<<<(kFirst + 255) / 256, 256>>>(first, kFirst, 100);
  CUDA_OK(cudaDeviceSynchronize());
  // Who opened a pool makes no memory in it.
  void* refused = nullptr;
  EXPECT(cudaMallocFromPoolAsync(&refused, 4096, pool, nullptr) != cudaSuccess, "it allocated");
  static_cast<void>(cudaGetLastError());
  // Bytes that name nothing open nothing, nor does a file of anybody's own making.
  cudaMemPoolPtrExportData made_up{};
  std::memset(&made_up, 0x5A, sizeof made_up);
  if (!check::nvidias_driver()) {
    EXPECT(cudaMemPoolImportPointer(&refused, pool, &made_up) != cudaSuccess, "made-up bytes opened");
    const int empty = memfd_create("empty", 0);
    EXPECT(empty >= 0 && ftruncate(empty, 64) == 0, "errno %d", errno);
    cudaMemPool_t none = nullptr;
    EXPECT(cudaMemPoolImportFromShareableHandle(&none, reinterpret_cast<void*>(static_cast<intptr_t>(empty)),
                                                cudaMemHandleTypePosixFileDescriptor, 0) != cudaSuccess,
           "an empty file opened");
    close(empty);
  }
  static_cast<void>(cudaGetLastError());
  parent.meet();
  CUDA_OK(cudaFreeAsync(first, nullptr));
  CUDA_OK(cudaStreamSynchronize(nullptr));
  CUDA_OK(cudaFree(second));
  parent.meet();

  auto third = parent.receive<cudaMemPoolPtrExportData>();
  if (std::getenv("VGPUD_SOCKET") != nullptr) {
    // What has been freed is no longer to be had.
    EXPECT(cudaMemPoolImportPointer(&refused, pool, &pointers.first) != cudaSuccess, "freed memory opened");
    static_cast<void>(cudaGetLastError());
  }
  CUDA_OK(cudaMemPoolImportPointer(reinterpret_cast<void**>(&second), pool, &third));
  check::expect_values(second, kSecond, 5);
  check::add<<<(kSecond + 255) / 256, 256>>>(second, kSecond, -1);
  CUDA_OK(cudaDeviceSynchronize());
  CUDA_OK(cudaFreeAsync(second, nullptr));
  CUDA_OK(cudaStreamSynchronize(nullptr));
  parent.meet();
  CUDA_OK(cudaMemPoolDestroy(pool));
  parent.meet();
}

}  // namespace

int main(int argc, char**) {
  if (argc > 1) {
    child(check::Partner());
    return 0;
  }
  parent(check::Partner("child"));
  return check::done("pool_share");
}
